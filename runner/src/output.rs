//! Reads what a command prints: into its log, into the hands of its job, or both.
//!
//! A command waits for its log, so that nothing is missing from it, but never for long and never when it is to stop: an
//! engine that hangs in a write can neither obey its one interrupt nor save its state.

use crate::attempt_log::AttemptLog;
use crate::clock::BootTime;
use crate::command::{STDERR_HEAD_BYTES, Stdout};
use crate::holdings::Held;
use crate::intake::LetIn;
use crate::logs::Stream;
use std::cell::RefCell;
use std::io;
use std::num::NonZero;
use std::sync::LazyLock;
use std::time::Duration;
use tokio::net::unix::pipe;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

const READ_BYTES: usize = 64 * 1024;
/// A read of less than this is a small one.
const SMALL_BYTES: usize = 16 * 1024;
/// A pause of a stream that has little at a time: nobody sees it in a log that is shown twice a second.
const PAUSE: Duration = Duration::from_millis(3);
/// The largest pipe that the kernel gives to whoever asks.
const MAX_PIPE_BYTES: usize = 1024 * 1024;

/// What the readers of a command's output go by.
#[derive(Clone, Copy)]
pub struct Output<'a> {
    /// Where it goes.
    pub log: &'a AttemptLog,
    /// Whether the attempt is to stop.
    pub held: &'a Held,
    /// Nothing of the command is left.
    pub over: &'a CancellationToken,
}

/// The beginning of a stream, as far as somebody wanted it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// Its first bytes.
    pub bytes: Vec<u8>,
    /// There was more.
    pub cut: bool,
}

impl Head {
    fn take(&mut self, bytes: &[u8], limit: usize) {
        let count = bytes.len().min(limit - self.bytes.len());
        self.bytes.extend_from_slice(&bytes[..count]);
        self.cut |= count < bytes.len();
    }
}

impl<'a> Output<'a> {
    /// Reads both streams to their ends.
    pub async fn both(self, stdout: pipe::Receiver, stderr: pipe::Receiver, to: Stdout) -> (Head, Head) {
        if to == Stdout::Events {
            // In this order: what a pause of the one held back comes before what has ended the pause.
            return tokio::join!(biased; self.events(stdout, &stderr), self.stderr(&stderr));
        }
        tokio::join!(self.stdout(stdout, to), self.stderr(&stderr))
    }

    /// Reads standard output to its end, whatever it is.
    pub async fn stdout(self, pipe: pipe::Receiver, to: Stdout) -> Head {
        let mut reader = match to {
            Stdout::Capture(limit) => Reader::new(self, None, limit),
            Stdout::Both(limit) => Reader::new(self, Some(Stream::Stdout), limit),
            Stdout::Log | Stdout::Events => Reader::new(self, Some(Stream::Stdout), 0),
        };
        reader.read(&pipe, None).await;
        reader.end()
    }

    async fn events(self, pipe: pipe::Receiver, stderr: &pipe::Receiver) -> Head {
        let mut reader = Reader::new(self, Some(Stream::Stdout), 0);
        reader.read_with_pauses(pipe, stderr, PAUSE).await;
        reader.end()
    }

    async fn stderr(self, pipe: &pipe::Receiver) -> Head {
        let mut reader = Reader::new(self, Some(Stream::Stderr), STDERR_HEAD_BYTES);
        reader.read(pipe, None).await;
        reader.end()
    }

    /// Waits for room in the log; nothing when it is read without.
    async fn room(self, since: BootTime) -> Option<LetIn<'a>> {
        tokio::select! {
            let_in = self.log.room(since) => Some(let_in),
            _ = self.held.stopped() => None,
            () = self.over.cancelled() => None,
        }
    }

    /// Waits for something to read; true when nothing of the command is left. Then all that it has printed lies in the
    /// pipe, and whoever still holds that open is a stranger, for whom nobody waits.
    async fn readable(self, pipe: &pipe::Receiver) -> bool {
        tokio::select! {
            biased;
            // An error is for whoever reads.
            _ = pipe.readable() => self.over.is_cancelled(),
            () = self.over.cancelled() => true,
        }
    }
}

/// One stream of a command, as far as it has been read.
struct Reader<'a> {
    output: Output<'a>,
    stream: Option<Stream>,
    limit: usize,
    head: Head,
    after_the_end: usize,
    /// When little was read last, where that is followed by pauses.
    last: Option<BootTime>,
}

/// Why a reader stops.
#[derive(PartialEq, Eq)]
enum Stopped {
    /// There is nothing more.
    Ended,
    /// Little comes at a time, and often.
    ForAPause,
}

impl<'a> Reader<'a> {
    fn new(output: Output<'a>, stream: Option<Stream>, limit: usize) -> Self {
        Self { output, stream, limit, head: Head::default(), after_the_end: 0, last: None }
    }

    fn end(self) -> Head {
        if let Some(stream) = self.stream {
            self.output.log.end(stream);
        }
        self.head
    }

    /// An engine's events come a line at a time, and to be woken for each costs more than to take it. So what follows at once
    /// is left to itself for a moment, and read together. What the other stream says ends the pause: the order of arrival is
    /// kept.
    async fn read_with_pauses(&mut self, mut pipe: pipe::Receiver, other: &pipe::Receiver, pause: Duration) {
        while self.read(&pipe, Some(pause)).await == Stopped::ForAPause {
            let paused = async {
                // The runtime would be woken for a pipe that it knows, whether anybody reads it or not.
                let unknown = pipe.into_nonblocking_fd()?;
                tokio::select! {
                    () = tokio::time::sleep(pause) => {}
                    _ = other.readable() => {}
                    () = self.output.over.cancelled() => {}
                }
                pipe::Receiver::from_owned_fd_unchecked(unknown)
            };
            match paused.await {
                Ok(again) => pipe = again,
                Err(error) => return self.broken(&error),
            }
            // The runtime has not heard of it yet, and the other stream is not to come first.
            self.take(&pipe, Way::Past).await;
            self.last = Some(BootTime::now());
        }
    }

    /// Reads to the end, or until there should be a pause, where there are any.
    async fn read(&mut self, pipe: &pipe::Receiver, pause: Option<Duration>) -> Stopped {
        while self.after_the_end < MAX_PIPE_BYTES {
            let way = if self.output.readable(pipe).await { Way::Last } else { Way::Usual };
            let Some(count) = self.take(pipe, way).await else { break };
            if let Some(pause) = pause
                && way == Way::Usual
                && (1..SMALL_BYTES).contains(&count)
            {
                let before = self.last.replace(BootTime::now());
                if before.is_some_and(|before| before.elapsed() < 2 * pause) {
                    return Stopped::ForAPause;
                }
            }
        }
        Stopped::Ended
    }

    /// Takes what lies in the pipe; how much it was, and nothing once it is at its end.
    async fn take(&mut self, pipe: &pipe::Receiver, way: Way) -> Option<usize> {
        let Self { output, stream, limit, head, .. } = self;
        let take = |bytes: &[u8]| {
            head.take(bytes, *limit);
            if let Some(stream) = *stream {
                output.log.push(stream, bytes);
            }
        };
        let (mut since, mut let_in) = (None, None);
        let mut needs_room = stream.is_some();
        let read = loop {
            let turn = TURNS.acquire().await;
            // Asked for in the turn: whoever had it before may have filled the room.
            if !needs_room || output.log.has_room() {
                break read_once(pipe, way, take);
            }
            drop((turn, let_in.take()));
            let_in = output.room(*since.get_or_insert_with(BootTime::now)).await;
            // One after the other is called: nobody else has filled it.
            needs_room = let_in.as_ref().is_some_and(|let_in| !let_in.is_called);
        };
        drop(let_in);
        match read {
            Ok(Some(0)) => None,
            Ok(count) => {
                let count = count.unwrap_or_default();
                self.after_the_end += if way == Way::Last { count } else { 0 };
                Some(count)
            }
            Err(error) => {
                self.broken(&error);
                None
            }
        }
    }

    fn broken(&self, error: &io::Error) {
        tracing::warn!(%error, stream = ?self.stream, "a command's output cannot be read any more");
    }
}

/// How a pipe is read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The runtime knows that there is something.
    Usual,
    /// Past the runtime, which may not have heard yet that there is something.
    Past,
    /// The same, and what lies there now is all that there will be.
    Last,
}

/// Who reads works through what it has read at once, and loud commands would keep all cores at that: one is left to
/// whatever sends logs and keeps leases, and on a small machine to the database beside.
static TURNS: LazyLock<Semaphore> =
    LazyLock::new(|| Semaphore::new(turns(std::thread::available_parallelism().map_or(1, NonZero::get))));

const fn turns(cores: usize) -> usize {
    if cores > 1 { cores - 1 } else { 1 }
}

thread_local! {
    /// Thousands of pipes are read through few buffers: one for each thread, never held while something is waited for.
    static BUFFER: RefCell<Box<[u8]>> = RefCell::new(vec![0; READ_BYTES].into_boxed_slice());
}

/// Hands on what lies in the pipe; how much it was, 0 at the end, and `None` when there is nothing now.
fn read_once(pipe: &pipe::Receiver, way: Way, take: impl FnOnce(&[u8])) -> io::Result<Option<usize>> {
    BUFFER.with_borrow_mut(|buffer| {
        let read = match way {
            Way::Usual => pipe.try_read(buffer),
            Way::Past | Way::Last => nix::unistd::read(pipe, buffer).map_err(io::Error::from),
        };
        match read {
            Ok(count) => {
                take(&buffer[..count]);
                Ok(Some(count))
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok((way == Way::Last).then_some(0)),
            Err(error) => Err(error),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attempt_log::Look;
    use crate::config::Logs;
    use crate::holdings::Holdings;
    use crate::intake::Intake;
    use crate::testing::claimed;
    use crate::whose::Whose;
    use std::io::Write;
    use std::sync::Arc;

    const PATIENCE: Duration = Duration::from_secs(30);
    const NEVER: Duration = Duration::from_secs(3600);

    fn log() -> AttemptLog {
        let settings = Logs::default();
        let intake = Arc::new(Intake::new(settings.memory_bytes, settings.urgent_bytes()));
        AttemptLog::new(Arc::new(Whose::of(&claimed(1))), 0, &settings, intake)
    }

    /// Both ends of a pipe.
    fn pipe() -> (std::fs::File, pipe::Receiver) {
        let (reader, writer) = nix::unistd::pipe2(nix::fcntl::OFlag::O_NONBLOCK).unwrap();
        (writer.into(), pipe::Receiver::from_owned_fd(reader).unwrap())
    }

    async fn has(log: &AttemptLog, records: u64) {
        let come = async {
            while log.counters().records < records {
                tokio::task::yield_now().await;
            }
        };
        let come = tokio::time::timeout(PATIENCE, come).await;
        assert!(come.is_ok(), "{} of {records} lines have come", log.counters().records);
    }

    #[tokio::test]
    async fn a_pause_of_one_stream_ends_with_a_word_of_the_other_and_comes_before_it() {
        let (log, over) = (log(), CancellationToken::new());
        let held = Arc::new(Holdings::default()).hold(&claimed(1)).unwrap();
        let output = Output { log: &log, held: &held, over: &over };
        let ((mut stdout, from_stdout), (mut stderr, from_stderr)) = (pipe(), pipe());
        let mut reader = Reader::new(output, Some(Stream::Stdout), 0);
        let script = async {
            // Each comes alone. With the second one the pause begins, which would be over in an hour.
            for line in 1..=2 {
                stdout.write_all(b"out\n").unwrap();
                has(&log, line).await;
            }
            stdout.write_all(b"held back\n").unwrap();
            stdout.write_all(b"and this\n").unwrap();
            for _ in 0..100 {
                tokio::task::yield_now().await;
            }
            assert_eq!(log.counters().records, 2, "it pauses");
            stderr.write_all(b"err\n").unwrap();
            has(&log, 5).await;
            // Tried: a command that ends in a pause.
            stdout.write_all(b"the last\n").unwrap();
            drop((stdout, stderr));
            over.cancel();
        };
        let all = async {
            tokio::join!(
                biased;
                reader.read_with_pauses(from_stdout, &from_stderr, NEVER),
                output.stderr(&from_stderr),
                script,
            )
        };
        assert!(tokio::time::timeout(PATIENCE, all).await.is_ok(), "nothing ends the pause");
        reader.end();
        let texts: Vec<_> = log.collect(u64::MAX, Look::AtAll).chunks.into_iter().map(|chunk| chunk.text).collect();
        assert_eq!(texts, ["out\nout\nheld back\nand this\n", "err\n", "the last\n"]);
    }
}
