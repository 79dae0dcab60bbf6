//! Listens for the doorbell while the broker wants this runner to. A hint only: the claim loop polls anyway.

use crate::runner::Runner;
use backon::{BackoffBuilder, ExponentialBuilder};
use std::sync::Arc;
use std::time::Duration;
use tendril_broker::connect::Connector;
use tendril_broker::runner::{BrokerError, Doorbell};
use tokio_util::sync::CancellationToken;

/// Between two rings that are heard: shorter than the broker leaves between two of its own.
const BETWEEN_RINGS: Duration = Duration::from_millis(20);
/// How long it may take until the session listens.
const CONNECTS_WITHIN: Duration = Duration::from_secs(30);

/// Listens until `end`.
pub async fn run(runner: Arc<Runner>, connector: Connector, end: CancellationToken) {
    let mut waits = backoff();
    loop {
        let wanted = runner.signals.may_listen() && !runner.signals.draining() && !runner.signals.revoked();
        let wait = if wanted {
            tokio::select! {
                result = listen(&runner, &connector) => match result {
                    // The broker has too many listeners now.
                    Ok(()) => Duration::ZERO,
                    Err((error, heard)) => {
                        tracing::debug!(%error, "the doorbell's session ended");
                        if heard {
                            waits = backoff();
                        }
                        waits.next().unwrap_or(Duration::from_secs(30))
                    }
                },
                () = end.cancelled() => return,
            }
        } else {
            Duration::ZERO
        };
        runner.signals.set_listening(false);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = end.cancelled() => return,
        }
        if wait.is_zero() {
            // Only a heartbeat's answer can change what the broker wants.
            tokio::select! {
                () = runner.signals.renewed.notified() => {}
                () = end.cancelled() => return,
            }
        }
    }
}

/// Returns when the broker does not want this runner to listen any more. With an error comes whether the session had
/// been up at all.
async fn listen(runner: &Runner, connector: &Connector) -> Result<(), (BrokerError, bool)> {
    let listening =
        tokio::time::timeout(CONNECTS_WITHIN, Doorbell::listen(connector, &runner.registered.channel)).await;
    let late = |_| BrokerError::Unavailable(format!("no reply within {} s", CONNECTS_WITHIN.as_secs()));
    let mut bell = listening.map_err(late).flatten().map_err(|e| (e, false))?;
    runner.signals.set_listening(true);
    // What was rung before is not heard: poll once.
    runner.signals.work.notify_one();
    loop {
        tokio::select! {
            rung = bell.ring() => {
                rung.map_err(|e| (e, true))?;
                runner.metrics.rang();
                runner.signals.work.notify_one();
                // Any role may ring, as often as it likes. What rings meanwhile is heard once, after this.
                tokio::time::sleep(BETWEEN_RINGS).await;
            }
            () = runner.signals.renewed.notified() => {
                if !runner.signals.may_listen() {
                    return Ok(());
                }
            }
        }
    }
}

fn backoff() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(500))
        .with_max_delay(Duration::from_secs(30))
        .with_jitter()
        .without_max_times()
        .build()
}
