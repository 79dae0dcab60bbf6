//! Work that would hold up the runtime.

use crate::stop::Stop;

/// Runs what takes its time on files or rendering beside the loops of the runner.
///
/// # Errors
/// Those of `work`; a failed job if it panicked.
pub async fn off_loop<T: Send + 'static>(work: impl FnOnce() -> Result<T, Stop> + Send + 'static) -> Result<T, Stop> {
    tokio::task::spawn_blocking(work).await.map_err(|e| Stop::failed(format!("preparing the files failed: {e}")))?
}
