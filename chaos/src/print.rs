//! What a child prints: a function of its job and of nothing else, so that stored logs can be compared with it.
//!
//! The text needs no sanitising, so that what is stored is exactly what was printed.

/// Every fifth line goes to standard error.
const STDERR_EVERY: u32 = 5;

/// One of the two streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// The stream that a line goes to.
pub fn stream_of(number: u32) -> Stream {
    if number % STDERR_EVERY == STDERR_EVERY - 1 { Stream::Stderr } else { Stream::Stdout }
}

/// A line, with its end. The check digits make lines of different jobs and numbers differ everywhere.
pub fn line(job: &str, number: u32) -> String {
    let check = job
        .bytes()
        .chain(number.to_le_bytes())
        .fold(0xcbf2_9ce4_8422_2325, |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{job} says {number} and {check:016x}\n")
}

/// All that the first `lines` lines put on a stream.
pub fn text(job: &str, lines: u32, stream: Stream) -> String {
    (0..lines).filter(|number| stream_of(*number) == stream).map(|number| line(job, number)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_depends_on_the_job_and_the_line() {
        assert_ne!(line("a", 1), line("a", 2));
        assert_ne!(line("a", 1), line("b", 1));
        assert_eq!(text("a", 6, Stream::Stderr), line("a", 4));
        assert!(text("a", 7, Stream::Stdout).starts_with(&text("a", 6, Stream::Stdout)));
    }
}
