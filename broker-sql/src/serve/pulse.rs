//! The pulse: one beat each second on a connection of its own, so that no duty ever delays it.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnection;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::refusal::Error;
use crate::serve::APPLICATION;
use crate::serve::metrics::Metrics;
use crate::serve::trouble::Trouble;
use crate::session::Address;

/// A beat takes a millisecond; a line that says nothing for this long is given up.
const PATIENCE: Duration = Duration::from_secs(3);

/// How to beat, and who is to hear what only the pulse notices in time.
pub struct Beaten {
    /// Time between two beats.
    pub every: Duration,
    /// Told when sessions that were opened before are not to be trusted any more: the server was silent, or another host of the
    /// address takes the writes now.
    pub begin_anew: Arc<Notify>,
}

/// Beats until `stop`.
pub async fn beat(address: Address, beaten: Beaten, metrics: Arc<Metrics>, stop: CancellationToken) {
    let mut trouble = Trouble::new("pulse");
    let mut lead = address.lead();
    loop {
        let lost = tokio::select! {
            lost = beat_while_connected(&address, (&beaten, &mut lead), &metrics, &mut trouble) => lost,
            () = stop.cancelled() => return,
        };
        metrics.pulse_failed();
        if matches!(lost, Error::Broken(sqlx::Error::PoolTimedOut)) {
            beaten.begin_anew.notify_one();
        }
        let wait = trouble.grows(&lost);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Returns what ended the connection.
async fn beat_while_connected(
    address: &Address,
    (beaten, lead): (&Beaten, &mut usize),
    metrics: &Metrics,
    trouble: &mut Trouble,
) -> Error {
    let mut connection = match address.connect(APPLICATION).await {
        Ok(connection) => connection,
        Err(error) => return error,
    };
    if address.lead() != *lead {
        *lead = address.lead();
        beaten.begin_anew.notify_one();
    }
    let mut ticks = tokio::time::interval(beaten.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        match tokio::time::timeout(PATIENCE, beat_once(&mut connection)).await {
            Ok(Ok(ours)) => {
                metrics.pulse_beaten(ours);
                trouble.is_over();
            }
            Ok(Err(error)) => return error,
            Err(_) => return Error::Broken(sqlx::Error::PoolTimedOut),
        }
    }
}

/// `false` when another replica was at it.
async fn beat_once(connection: &mut PgConnection) -> Result<bool, Error> {
    let ours = sqlx::query_scalar!(
        r#"-- pulse
        select tendril_core.pulse() as "ours!""#
    );
    Ok(ours.fetch_one(connection).await?)
}
