//! The process that `start-latency` starts: reads the clock as the first thing that it does, and writes the moment, in
//! nanoseconds since 1970, to the pipe that its argument names. Small, so that what is measured is not its own loading.

use std::process::ExitCode;
use std::time::SystemTime;

#[expect(clippy::disallowed_methods, reason = "the moment is compared with those of other processes")]
fn main() -> ExitCode {
    let begun = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let Some(pipe) = std::env::args_os().nth(1) else { return ExitCode::from(2) };
    match std::fs::write(&pipe, format!("{}\n", begun.as_nanos())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}
