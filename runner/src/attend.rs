//! Waiting for a command's end, and what is heard of it meanwhile.

use crate::attempt_log::AttemptLog;
use crate::command::{Room, is_overfull, overfilled};
use crate::egress::Refusal;
use crate::holdings::Held;
use crate::supervise::{Control, ExitRecord, StopReason, SuperviseError};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

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
