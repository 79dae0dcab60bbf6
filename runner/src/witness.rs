//! What this place remembers is told after each lost connection, since what answers then may be a database that was set back
//! in time, by a restore or by a failover that lost commits.

use crate::complete;
use crate::runner::Runner;
use crate::start::{LONGEST_WAIT, waits};
use std::sync::Arc;
use tendril_broker::runner::{BrokerError, Lease, Report};
use tokio_util::sync::CancellationToken;

/// Tells it whenever a heartbeat says that somebody else may answer now, until `end`.
pub async fn run(runner: Arc<Runner>, end: CancellationToken) {
    let telling = async {
        loop {
            runner.signals.reconnected.notified().await;
            tell(&runner).await;
        }
    };
    end.run_until_cancelled(telling).await;
}

/// Tells the broker, until it has answered and doubts no more, and sends again what it has forgotten.
async fn tell(runner: &Runner) {
    let mut waits = waits();
    loop {
        let witness = runner.memory.witness(runner.holdings.witnessed());
        match runner.broker.witness(&witness).await {
            Ok(compared) => {
                for (lease, report) in runner.memory.compared(&compared) {
                    send_again(runner, lease, &report).await;
                }
                if !compared.doubted {
                    return;
                }
            }
            Err(error) if is_unregistered(&error) => {
                // The database does not know of this process either.
                if let Err(error) = runner.broker.register(&runner.registration).await {
                    tracing::warn!(%error, "cannot register again");
                }
            }
            Err(error) if error.is_passing() => {
                tracing::debug!(%error, "what this place remembers is not told yet");
            }
            // A broker before this call, or one that will not have us: the heartbeat finds that out.
            Err(error) => {
                tracing::warn!(%error, "what this place remembers is not told");
                return;
            }
        }
        tokio::time::sleep(waits.next().unwrap_or(LONGEST_WAIT)).await;
    }
}

async fn send_again(runner: &Runner, lease: Lease, report: &Report) {
    match complete::finish(runner, &lease, report).await {
        Ok(_) => {
            tracing::warn!(attempt.id = %lease.attempt_id, "the database had forgotten this end; it was told again")
        }
        Err(reason) => {
            runner.memory.forget(lease.attempt_id);
            tracing::error!(attempt.id = %lease.attempt_id, reason, "the database has forgotten this end, and does not take it again");
        }
    }
}

fn is_unregistered(error: &BrokerError) -> bool {
    matches!(error, BrokerError::Refused { code, .. } if code == "TD002")
}
