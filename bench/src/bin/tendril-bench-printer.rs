//! The process that `log-processes` has started a thousand times. It says that it runs, waits until all do, prints a line of
//! 200 bytes each second, says that it has, and waits until everybody was looked at. Waiting is a shared lock on a file that
//! is locked for somebody else: it takes nothing of the processor.
//!
//! Arguments: a folder with the pipe `said` and the files `begin` and `end`; its number, how many they are, and its lines.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

const LINE_BYTES: usize = 200;
const EVERY: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, numbers @ ..] = arguments.as_slice() else { return ExitCode::from(2) };
    let numbers: Vec<u32> = numbers.iter().filter_map(|number| number.parse().ok()).collect();
    let &[number, of, lines] = numbers.as_slice() else { return ExitCode::from(2) };
    match print(Path::new(folder), (number, of), lines) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn print(folder: &Path, (number, of): (u32, u32), lines: u32) -> io::Result<()> {
    let said = folder.join("said");
    std::fs::write(&said, "runs\n")?;
    File::open(folder.join("go"))?.lock_shared()?;
    let begun = now();
    let mut out = io::stdout().lock();
    for line in 0..lines {
        let due = begun + EVERY * line + EVERY * number / of;
        while let Some(left) = due.checked_sub(now()).filter(|left| !left.is_zero()) {
            std::thread::park_timeout(left);
        }
        let text =
            format!("{:016} {number:06} {line:08} {:.<width$}\n", now().as_micros(), "", width = LINE_BYTES - 34);
        out.write_all(text.as_bytes())?;
        out.flush()?;
    }
    std::fs::write(&said, "done\n")?;
    File::open(folder.join("end"))?.lock_shared()
}

#[expect(clippy::disallowed_methods, reason = "the moment is compared with those of other processes")]
fn now() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default()
}
