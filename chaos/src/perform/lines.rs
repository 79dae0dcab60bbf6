//! What happens on the line between a runner and its database.

use std::time::Duration;

use anyhow::{Context, bail};

use super::{Hit, pause};
use crate::clock;
use crate::line::{Blocked, Cut, Line};
use crate::op::Op;
use crate::world::World;

/// How long cuts may take to come about.
const CUT_PATIENCE: Duration = Duration::from_secs(5);

/// Carries it out on all lines of one runner, whatever process it has.
pub async fn hit(world: &World, op: &Op) -> anyhow::Result<Hit> {
    let (Op::Partition { runner, .. } | Op::SlowLine { runner, .. } | Op::CutCalls { runner, .. }) = op else {
        bail!("{op} hits no line")
    };
    let seat = world.runners.get(*runner).context("the schedule names a runner that is not there")?;
    let lines = &seat.way.lines;
    let began = clock::now();
    match op {
        Op::Partition { blocked, for_ms, forgotten, .. } => partition(lines, *blocked, *for_ms, *forgotten).await,
        Op::SlowLine { for_ms, .. } => {
            lines.iter().for_each(|line| line.slow(true));
            pause(*for_ms).await;
            lines.iter().for_each(|line| line.slow(false));
        }
        Op::CutCalls { cuts, .. } => {
            let cuts: Vec<Cut> = cuts.iter().map(|(of, around, after)| Cut::Call(*of, *around, *after)).collect();
            lines.iter().for_each(|line| line.cut(cuts.clone()));
            // The runner uses one of its lines.
            match lines.as_slice() {
                [one, other] => tokio::select! {
                    () = one.all_cut(CUT_PATIENCE) => {}
                    () = other.all_cut(CUT_PATIENCE) => {}
                },
                lines => {
                    for line in lines {
                        line.all_cut(CUT_PATIENCE).await;
                    }
                }
            }
            for line in lines {
                line.cuts_made();
            }
        }
        _ => {}
    }
    Ok((format!("runner-{runner}"), began))
}

async fn partition(lines: &[Line], blocked: Blocked, for_ms: u64, forgotten: bool) {
    lines.iter().for_each(|line| line.block(blocked));
    pause(for_ms).await;
    for line in lines {
        if forgotten {
            line.forget();
        }
        line.block(Blocked::Neither);
    }
}
