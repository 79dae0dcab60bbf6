//! Waiting for a command's end, and what is heard of it meanwhile.

use crate::attempt_log::AttemptLog;
use crate::clock::BootTime;
use crate::command::{Room, Stdout, is_overfull, overfilled};
use crate::desk::Desk;
use crate::egress::Refusal;
use crate::holdings::Held;
use crate::logs::{Progress, value_without_secrets};
use crate::supervise::{Control, ExitRecord, StopReason, SuperviseError};
use std::time::Duration;
use tendril_broker::runner::Lease;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const PROGRESS_EVERY: Duration = Duration::from_secs(1);

/// Waits for the command's end, and passes a request to stop on, once. True when it was killed for its [`Room`].
pub async fn attend(
    mut control: Control,
    hears: Option<&Held>,
    room: Option<&Room>,
    over: &CancellationToken,
) -> Result<(ExitRecord, bool), SuperviseError> {
    // Whatever way this ends: nobody is to wait for a command that is gone.
    let _over = over.clone().drop_guard();
    let overfull = tokio::select! {
        record = control.wait() => return Ok((record?, is_overfull(room).await)),
        reason = asked(hears) => {
            control.interrupt(reason).await?;
            false
        }
        () = overfilled(room) => {
            control.kill(StopReason::Cancelled).await?;
            true
        }
    };
    Ok((control.wait().await?, overfull))
}

async fn asked(hears: Option<&Held>) -> StopReason {
    match hears {
        Some(held) => held.stopped().await,
        None => std::future::pending().await,
    }
}

/// Tells in the job's log at once what the command's proxy refuses, until the command has ended.
pub async fn tell_refusals(log: &AttemptLog, mut refusals: mpsc::Receiver<Refusal>) {
    while let Some(refusal) = refusals.recv().await {
        log.say(&refusal.line());
    }
}

/// Shows the engine's progress about once a second while it changes. A courtesy: failures are only noted.
pub async fn show_progress(
    log: &AttemptLog,
    desk: &dyn Desk,
    lease: &Lease,
    (stdout, over): (Stdout, &CancellationToken),
) {
    if stdout != Stdout::Events {
        return;
    }
    let (mut shown, mut rest) = (Progress::default(), PROGRESS_EVERY);
    loop {
        let last = tokio::select! {
            () = tokio::time::sleep(rest) => false,
            () = over.cancelled() => true,
        };
        let progress = log.progress();
        if progress != shown
            && let Ok(value) = serde_json::to_value(&progress)
        {
            let value = value_without_secrets(value, &log.secrets());
            let begun = BootTime::now();
            if let Err(error) = desk.progress(lease, &value).await {
                tracing::debug!(%error, "progress was not shown");
            }
            shown = progress;
            // A slow line has more important things to carry.
            rest = PROGRESS_EVERY.max(begun.elapsed() * 10);
        }
        if last {
            return;
        }
    }
}
