//! Carries an operation out on the world, and undoes what is to be undone.

mod lines;
mod runners;
mod servers;
mod tenants;

use std::time::Duration;

use crate::clock::{self, Moment};
use crate::history::Act;
use crate::op::Op;
use crate::watch::Watch;
use crate::world::World;

pub use runners::{drain, lives};
pub use tenants::NOT_ENDED;

const DEATH_PATIENCE: Duration = Duration::from_secs(5);

/// Whom something hit, and when it began.
type Hit = (String, Moment);

/// Carries it out; several acts where it hits several.
///
/// # Errors
/// The machine does not do as it is told; never what the programs under test do.
pub async fn perform(world: &World, op: &Op, watch: &Watch) -> anyhow::Result<Vec<Act>> {
    let hits = match op {
        Op::Swizzle { stopped, freed, every_ms, for_ms } => {
            return runners::swizzle(world, (stopped, freed), (*every_ms, *for_ms)).await;
        }
        Op::HoldTransaction { for_ms } => return tenants::hold_transaction(world, op, *for_ms).await,
        Op::FailoverLossy { lag_ms, told } => return servers::forget(world, op, (*lag_ms, *told)).await,
        Op::SigkillRunner { .. } | Op::SigstopRunner { .. } | Op::SigtermRunner { .. } | Op::EvictRunner { .. } => {
            runners::hit(world, op).await
        }
        Op::Partition { .. } | Op::SlowLine { .. } | Op::CutCalls { .. } => lines::hit(world, op).await,
        Op::UseUpConnections { for_ms } => tenants::use_up_connections(world, *for_ms).await,
        Op::PinXmin { for_ms } => tenants::pin_xmin(world, *for_ms).await,
        Op::FloodDoorbell { for_ms } => tenants::flood_doorbell(world, *for_ms).await,
        Op::RotateCredential { every_ms } => tenants::rotate(world, *every_ms).await,
        Op::KillChild { nth } => runners::kill_child(watch, *nth).await,
        _ => servers::hit(world, op).await,
    }?;
    Ok(vec![Act { what: op.to_string(), hit: hits.0, began: hits.1, ended: clock::now(), forgot_until: None }])
}

async fn pause(ms: u64) {
    tokio::time::sleep(Duration::from_millis(ms)).await;
}
