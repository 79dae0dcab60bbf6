//! The doorbell: LISTEN is a hint that there may be work. Polling is the truth.

use super::BrokerError;
use crate::connect::Connector;
use tokio_postgres::{AsyncMessage, Client};

/// A session that listens on the cluster's channel.
pub struct Doorbell {
    _client: Client,
    rings: tokio::sync::mpsc::Receiver<()>,
}

impl Doorbell {
    /// Opens a session and listens. What was rung before is not heard: poll once afterwards.
    ///
    /// # Errors
    /// Any [`BrokerError`].
    pub async fn listen(connector: &Connector, channel: &str) -> Result<Self, BrokerError> {
        let (client, mut driver) = connector.connect("doorbell").await?;
        // One place: rings that come while one is pending say nothing new.
        let (sender, rings) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            loop {
                match driver.message().await {
                    Some(Ok(AsyncMessage::Notification(_))) => drop(sender.try_send(())),
                    Some(Ok(_)) => {}
                    Some(Err(_)) | None => break,
                }
            }
        });
        // The channel's name comes from the broker and is letters, digits and underscore; quoted all the same.
        client.batch_execute(&format!("-- listen\nlisten \"{}\"", channel.replace('"', ""))).await?;
        Ok(Self { _client: client, rings })
    }

    /// Waits for a ring.
    ///
    /// # Errors
    /// `Unavailable` when the session is gone: listen anew, and poll once.
    pub async fn ring(&mut self) -> Result<(), BrokerError> {
        self.rings.recv().await.ok_or_else(|| BrokerError::Unavailable("the doorbell's session ended".into()))
    }
}
