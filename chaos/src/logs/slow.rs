//! A slow line, and how the batches fare on it by the runner's own word.

use std::time::Duration;

use anyhow::{Context, ensure};
use tendril_broker::testing::history;
use tokio::time::Instant;

use super::done::Done;
use super::evidence::SlowLine;
use super::figures::Figures;
use super::op::{LogOp, UnderWay};
use super::perform::{log_session, pause};
use super::world::LogWorld;
use crate::chance::Chance;

/// The longest that the runner takes for a log connection on a slow line: some seven round trips, twice.
const PATIENCE: Duration = Duration::from_secs(60);

/// Makes the line slow for a while.
///
/// # Errors
/// The runner does not say how it does, or makes no connection.
pub(super) async fn slow_line(world: &LogWorld, seed: u64, chance: &mut Chance, done: &mut Done) -> anyhow::Result<()> {
    let (under_way, (least, most)) = LogOp::slow_line(seed);
    let ms = chance.between(least, most);
    let fresh = under_way == UnderWay::Nothing;
    let before = world.figures().await?;
    world.line.slow(true);
    let before = if fresh { connected_anew(world, before).await? } else { before };
    pause(ms).await;
    let after = world.figures().await?;
    world.line.slow(false);
    done.slow = Some((fresh, before, after));
    done.act(format!("a slow line for {ms} ms, under way: {under_way:?}"));
    Ok(())
}

/// Ends the log connection; what the runner says as soon as it has another one.
async fn connected_anew(world: &LogWorld, before: Figures) -> anyhow::Result<Figures> {
    let mut operator = world.desk.operator().await?;
    let pid = log_session(&mut operator).await?.context("the runner has no log connection that could be ended")?;
    history::end_session(&mut operator, pid).await?;
    let begun = Instant::now();
    loop {
        let now = world.figures().await?;
        if now.sessions > before.sessions {
            return Ok(now);
        }
        ensure!(begun.elapsed() < PATIENCE, "no log connection is made on a slow line within {} s", PATIENCE.as_secs());
        pause(50).await;
    }
}

/// What the runner's words say: how it was slow, and what it says at the end of the run.
pub(super) fn fared((fresh, before, after): (bool, Figures, Figures), end: Figures) -> SlowLine {
    SlowLine {
        fresh,
        stored: after.batches - before.batches,
        late: end.late_batches - before.late_batches,
        sessions: end.sessions - before.sessions,
    }
}
