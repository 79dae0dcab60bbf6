//! Keeps the lease: one heartbeat per interval on a connection of its own, through every phase of every job.

use crate::clock::BootTime;
use crate::runner::Runner;
use crate::supervise::StopReason;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tendril_broker::connect::Connector;
use tendril_broker::runner::{Beat, BrokerError, Heart};
use tokio_util::sync::CancellationToken;

/// A credential that was refused is asked about this often; never hot.
pub const REVOKED_EVERY: Duration = Duration::from_secs(60);

/// How long the last one may take.
const LAST: Duration = Duration::from_secs(2);

/// Beats until `end`, and then once more: what is not held any more is given back now, and not when the lease runs out.
pub async fn run(runner: Arc<Runner>, connector: Connector, end: CancellationToken) {
    let mut heart = Heart::new(connector);
    let interval = Duration::from_millis(runner.registered.heartbeat_ms);
    let (mut refusals, mut connected) = (0_u32, false);
    loop {
        let wait = match watched(&runner, beat(&runner, &mut heart, patience(runner.lease_ttl(), connected))).await {
            Ok(()) => {
                if !connected {
                    runner.signals.reconnected.notify_one();
                }
                (refusals, connected) = (0, true);
                interval
            }
            Err(error) => {
                if matches!(error, BrokerError::Refused { .. }) {
                    // It may not know this process any more.
                    runner.signals.reconnected.notify_one();
                }
                connected = false;
                refusals = if error.is_credential() { refusals + 1 } else { 0 };
                missed(&runner, &error, refusals)
            }
        };
        if runner.holdings.lease_left().is_zero() {
            // Others may start what only reads or has not started; what changes the world goes on and reports late.
            runner.holdings.stop_what_others_may_start();
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = end.cancelled() => break,
        }
    }
    if !runner.signals.revoked()
        && let Err(error) = beat(&runner, &mut heart, LAST).await
    {
        tracing::debug!(%error, "the last heartbeat was not answered");
    }
}

/// How long a heartbeat may take. One that has to connect first takes eight round trips instead of one: cut off too soon
/// it would never come through on a line with two seconds of latency.
fn patience(lease_ttl: Duration, connected: bool) -> Duration {
    let third = lease_ttl / 3;
    if connected { third.min(Duration::from_secs(10)) } else { (third * 2).min(Duration::from_secs(30)) }
}

/// A heartbeat that is long under way does not keep what others may start from ending when the lease does.
async fn watched(runner: &Runner, beat: impl Future<Output = Result<(), BrokerError>>) -> Result<(), BrokerError> {
    let mut beat = pin!(beat);
    // A process that was stopped for long, and goes on, is first to hear what it still holds.
    let run_out = runner.holdings.lease_left().max(LAST);
    tokio::select! {
        result = &mut beat => return result,
        () = tokio::time::sleep(run_out) => runner.holdings.stop_what_others_may_start(),
    }
    beat.await
}

async fn beat(runner: &Runner, heart: &mut Heart, patience: Duration) -> Result<(), BrokerError> {
    // In this order: an attempt that is held between the two reads is not covered by the older number.
    let settled = runner.signals.settled();
    let holding = runner.holdings.ids();
    let sent = BootTime::now();
    let beat = heart.beat(runner.broker.runner(), settled, &holding, patience).await?;
    runner.metrics.heartbeat(sent.elapsed());
    runner.holdings.renew(sent, Duration::from_millis(beat.lease_ttl_ms));
    obey(runner, &beat);
    Ok(())
}

fn obey(runner: &Runner, beat: &Beat) {
    for attempt in &beat.superseded {
        runner.holdings.superseded(*attempt);
    }
    for attempt in &beat.cancel {
        runner.holdings.stop(*attempt, StopReason::Cancelled);
    }
    if runner.signals.set_revoked(false) {
        tracing::info!("the credential is accepted again");
    }
    if !runner.signals.set_draining(beat.draining) && beat.draining {
        tracing::warn!("the credential is being drained: what is held is finished, nothing is claimed");
    }
    runner.signals.set_may_listen(beat.listen);
    if beat.work {
        runner.signals.work.notify_one();
    }
    runner.signals.renewed.notify_waiters();
}

fn missed(runner: &Runner, error: &BrokerError, refusals: u32) -> Duration {
    runner.metrics.broker_error("heartbeat");
    if refusals >= 2 || matches!(error, BrokerError::NotActive(_)) {
        // Twice in a row is no outage. Said once; results stay where the message says.
        if !runner.signals.set_revoked(true) {
            let kept = runner.config.state_dir.join("work");
            tracing::error!(%error, kept = %kept.display(), "the credential was revoked; results that are not reported stay on disk");
        }
        return REVOKED_EVERY;
    }
    tracing::warn!(%error, lease_left_ms = runner.holdings.lease_left().as_millis(), "a heartbeat was not answered");
    // Sooner than the interval: the lease has room for a few more tries.
    (runner.lease_ttl() / 10).clamp(Duration::from_millis(200), Duration::from_secs(3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heartbeat_that_has_to_connect_has_time_for_eight_round_trips_of_two_seconds() {
        let default_ttl = Duration::from_secs(30);
        assert!(patience(default_ttl, false) > Duration::from_secs(16));
        assert!(patience(default_ttl, false) < default_ttl);
        assert_eq!(patience(default_ttl, true), default_ttl / 3, "three tries within a lease");
    }
}
