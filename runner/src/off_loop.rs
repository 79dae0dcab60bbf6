//! Work that would hold up the runtime.

use crate::stop::Stop;

/// Runs what takes its time on files or rendering beside the loops of the runner.
///
/// # Errors
/// Those of `work`; a failed job if it panicked.
pub async fn off_loop<T: Send + 'static>(work: impl FnOnce() -> Result<T, Stop> + Send + 'static) -> Result<T, Stop> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Stop::failed(format!("preparing the files failed: {e}")))?
}

/// Runs what may wait for a disk beside the loops of the runner. A panic in it goes on in whoever waits.
pub async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await.map_err(tokio::task::JoinError::try_into_panic) {
        Ok(done) => done,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        // The runtime is going down, and whoever waits with it.
        Err(Err(_)) => std::future::pending().await,
    }
}
