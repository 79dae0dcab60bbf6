//! The line between a runner and its Postgres: a proxy that can be slow, that can be cut at a chosen message, and that can carry
//! nothing, in one direction or in both, without anybody being told.

mod wire;

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;

pub use wire::Purpose;
use wire::{Messages, Said};

/// Half of the round trip of a slow line.
const SLOW_ONE_WAY: Duration = Duration::from_secs(1);
/// What a slow line bears, in bytes per second, for all sessions together, each way.
const SLOW_BYTES_PER_S: u64 = 50_000;
const READ_BYTES: usize = 4096;
/// CommandComplete of a COMMIT that has committed.
const COMMITTED: &[u8] = b"C\0\0\0\x0bCOMMIT\0";
/// Reads that are on the line at once.
const ON_THE_WAY: usize = 64;

/// Where a line is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// The server never sees the COMMIT.
    BeforeCommit,
    /// It may see it.
    AfterCommit,
    /// It has replied that it has committed; nobody hears it.
    AtReply,
    /// After so many bytes of a COPY.
    InCopy(u64),
    /// Around a call of that sort of session, after so many others of that sort.
    Call(Purpose, Around, u32),
}

/// Where a call is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Around {
    /// The server has all of it but the word to commit.
    Before,
    /// The server has it; nobody waits for its reply.
    After,
    /// The server has replied; nobody hears it.
    Reply,
}

/// Which ways of a line carry nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Blocked {
    /// None.
    #[default]
    Neither,
    /// What the runner says.
    Up,
    /// What the server says.
    Down,
    /// Both.
    Both,
}

impl Blocked {
    fn holds(self, way: Way) -> bool {
        match (self, way) {
            (Self::Neither, _) | (Self::Up, Way::Down) | (Self::Down, Way::Up) => false,
            (Self::Both, _) | (Self::Up, Way::Up) | (Self::Down, Way::Down) => true,
        }
    }
}

/// A proxy; it ends with the runtime.
pub struct Line {
    /// Where runners connect, on the loopback address.
    pub port: u16,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    slow: AtomicBool,
    /// Cuts that are still to be made, the next one last.
    cuts: Mutex<Vec<Cut>>,
    made: AtomicU64,
    cut: Notify,
    /// What is held is sent on once it is free again, as a network does that has lost nothing for good.
    blocked: watch::Sender<Blocked>,
    /// Counts how often all sessions were forgotten.
    forgotten: watch::Sender<u64>,
    /// When each way of a slow line is free again.
    free: [Mutex<Option<Instant>>; 2],
}

/// A way of the line.
#[derive(Clone, Copy)]
enum Way {
    Up,
    Down,
}

/// What one session's two ways tell each other.
#[derive(Default)]
struct Session {
    /// A COMMIT is under way whose reply is not to arrive.
    deaf: AtomicBool,
    over: Notify,
}

impl Line {
    /// A line to this address.
    ///
    /// # Errors
    /// The system's error.
    pub async fn to(server: String) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let state = Arc::new(State::default());
        let shared = state.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, state) = (server.clone(), shared.clone());
                tokio::spawn(async move {
                    // Where the server is away, the client sees its connection closed.
                    if let Ok(server) = TcpStream::connect(server).await {
                        carry(client, server, state).await;
                    }
                });
            }
        });
        Ok(Self { port, state })
    }

    /// Slow from now on, or fast again.
    pub fn slow(&self, slow: bool) {
        self.state.slow.store(slow, Ordering::Relaxed);
    }

    /// Carries nothing on these ways from now on. What is sent meanwhile waits on the line.
    pub fn block(&self, blocked: Blocked) {
        self.state.blocked.send_replace(blocked);
    }

    /// Forgets all sessions with what is on its way, as a firewall does that was started again.
    pub fn forget(&self) {
        self.state.forgotten.send_modify(|times| *times += 1);
    }

    /// Cuts sessions so, one after the other.
    pub fn cut(&self, mut cuts: Vec<Cut>) {
        cuts.reverse();
        *self.state.cuts.lock().unwrap_or_else(PoisonError::into_inner) = cuts;
    }

    /// Takes back cuts that were not made; returns how many were, since the beginning.
    pub fn cuts_made(&self) -> u64 {
        self.state.cuts.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.state.made.load(Ordering::Relaxed)
    }

    /// Waits until all cuts are made, or until `patience` is over.
    pub async fn all_cut(&self, patience: Duration) {
        let all = async {
            loop {
                let cut = self.state.cut.notified();
                if self.state.next_cut().is_none() {
                    return;
                }
                cut.await;
            }
        };
        let _ = tokio::time::timeout(patience, all).await;
    }
}

impl State {
    /// How this call is to be cut, if it is.
    fn cut_of(&self, purpose: Purpose) -> Option<Around> {
        let mut cuts = self.cuts.lock().unwrap_or_else(PoisonError::into_inner);
        match cuts.last_mut() {
            Some(Cut::Call(of, around, 0)) if *of == purpose => Some(*around),
            Some(Cut::Call(of, _, left)) if *of == purpose => {
                *left -= 1;
                None
            }
            _ => None,
        }
    }

    /// Returns once that way carries what it is given.
    async fn is_free(&self, way: Way) {
        let mut blocked = self.blocked.subscribe();
        // The sender is ours: it does not go before us.
        let _ = blocked.wait_for(|blocked| !blocked.holds(way)).await;
    }

    fn next_cut(&self) -> Option<Cut> {
        self.cuts.lock().unwrap_or_else(PoisonError::into_inner).last().copied()
    }

    fn made(&self) {
        self.cuts.lock().unwrap_or_else(PoisonError::into_inner).pop();
        self.made.fetch_add(1, Ordering::Relaxed);
        self.cut.notify_waiters();
    }

    /// When these bytes are at the other end.
    fn due(&self, way: Way, bytes: usize) -> Instant {
        let now = Instant::now();
        if !self.slow.load(Ordering::Relaxed) {
            return now;
        }
        let mut free = self.free[way as usize].lock().unwrap_or_else(PoisonError::into_inner);
        let takes = Duration::from_micros(bytes as u64 * 1_000_000 / SLOW_BYTES_PER_S);
        let gone = free.unwrap_or(now).max(now) + takes;
        *free = Some(gone);
        gone + SLOW_ONE_WAY
    }
}

async fn carry(client: TcpStream, server: TcpStream, state: Arc<State>) {
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let session = Arc::new(Session::default());
    let mut forgotten = state.forgotten.subscribe();
    tokio::select! {
        _ = forgotten.changed() => {}
        _ = up(from_client, to_server, &state, &session) => {}
        _ = down(from_server, to_client, &state, &session) => {}
        () = session.over.notified() => {}
    }
}

/// Bytes with the moment that they arrive.
type OnTheWay = mpsc::Sender<(Instant, Vec<u8>)>;

/// The far end of a way: what was sent arrives when it is due, in order.
async fn arrive(
    mut line: mpsc::Receiver<(Instant, Vec<u8>)>,
    mut to: OwnedWriteHalf,
    (state, way): (&State, Way),
) -> io::Result<()> {
    while let Some((due, bytes)) = line.recv().await {
        tokio::time::sleep_until(due).await;
        state.is_free(way).await;
        to.write_all(&bytes).await?;
    }
    Ok(())
}

async fn up(from: OwnedReadHalf, to: OwnedWriteHalf, state: &State, session: &Session) -> io::Result<()> {
    let (line, far_end) = mpsc::channel(ON_THE_WAY);
    let (sent, arrived) = tokio::join!(send_up(from, line, state, session), arrive(far_end, to, (state, Way::Up)));
    sent.and(arrived)
}

async fn send_up(mut from: OwnedReadHalf, line: OnTheWay, state: &State, session: &Session) -> io::Result<()> {
    let (mut messages, mut purpose, mut copied) = (Messages::default(), Purpose::Other, 0);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        messages.push(&buffer[..count]);
        while let Some((said, mut message)) = messages.next() {
            if let Said::Session(of) = said {
                purpose = of;
            }
            let cut = state.next_cut().filter(|_| purpose == Purpose::Logs);
            let mut over = false;
            match (said, cut) {
                (Said::Sync, _) => match state.cut_of(purpose) {
                    Some(Around::Before) => {
                        message.clear();
                        over = true;
                    }
                    Some(Around::After) => over = true,
                    Some(Around::Reply) => session.deaf.store(true, Ordering::Relaxed),
                    None => {}
                },
                (Said::Commit, Some(Cut::BeforeCommit)) => {
                    message.clear();
                    over = true;
                }
                (Said::Commit, Some(Cut::AfterCommit)) => over = true,
                (Said::Commit, Some(Cut::AtReply)) => session.deaf.store(true, Ordering::Relaxed),
                (Said::Copy(size), Some(Cut::InCopy(after))) => {
                    copied += size;
                    if copied > after {
                        // A part of this very message still goes.
                        let part = size.saturating_sub(copied - after);
                        message.truncate(usize::try_from(part).unwrap_or(0));
                        over = true;
                    }
                }
                _ => {}
            }
            let due = state.due(Way::Up, message.len());
            if line.send((due, message)).await.is_err() {
                return Ok(());
            }
            if over {
                drop(line);
                state.made();
                // What was sent is on its way; then nothing is left of this session.
                tokio::time::sleep_until(due + Duration::from_millis(1)).await;
                session.over.notify_one();
                return Ok(());
            }
        }
    }
}

async fn down(from: OwnedReadHalf, to: OwnedWriteHalf, state: &State, session: &Session) -> io::Result<()> {
    let (line, far_end) = mpsc::channel(ON_THE_WAY);
    let (sent, arrived) = tokio::join!(send_down(from, line, state, session), arrive(far_end, to, (state, Way::Down)));
    sent.and(arrived)
}

async fn send_down(mut from: OwnedReadHalf, line: OnTheWay, state: &State, session: &Session) -> io::Result<()> {
    let (mut buffer, mut held) = (vec![0; READ_BYTES], Vec::new());
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        held.extend_from_slice(&buffer[..count]);
        let is_deaf = session.deaf.load(Ordering::Relaxed);
        // The reply to what came before the COMMIT may travel with its own.
        let committed = held.windows(COMMITTED.len()).position(|bytes| bytes == COMMITTED).filter(|_| is_deaf);
        let passes = match committed {
            Some(at) => at,
            None if is_deaf => held.len() - begun(&held),
            None => held.len(),
        };
        let rest = held.split_off(passes);
        let due = state.due(Way::Down, passes);
        if line.send((due, std::mem::replace(&mut held, rest))).await.is_err() {
            return Ok(());
        }
        if committed.is_some() {
            drop(line);
            state.made();
            tokio::time::sleep_until(due + Duration::from_millis(1)).await;
            session.over.notify_one();
            return Ok(());
        }
    }
}

/// Bytes at the end with which [`COMMITTED`] may have begun.
fn begun(bytes: &[u8]) -> usize {
    (1..COMMITTED.len()).rev().find(|count| bytes.ends_with(&COMMITTED[..*count])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_the_beginning_of_a_reply_is_held_back() {
        assert_eq!(begun(b"C\0\0\0\x0bCOMM"), 9);
        assert_eq!(begun(b"...C\0\0"), 3);
        // Tried: a whole message that is none, and nothing.
        assert_eq!(begun(b"Z\0\0\0\x05T"), 0);
        assert_eq!(begun(b""), 0);
    }
}
