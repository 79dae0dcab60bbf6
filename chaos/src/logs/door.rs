//! The way to the archive: a proxy that can be shut, fall silent, and be cut in the middle of what is sent.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

const READ_BYTES: usize = 16 << 10;

/// How the way is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// Everything comes through.
    Open,
    /// Nobody listens, and what was connected is cut.
    Shut,
    /// Connections are taken, and nothing comes through.
    Silent,
    /// Everything comes through, and the service answers 503 to all.
    Sick,
}

/// Where what is sent to the service is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// After so many bytes of a request that writes.
    After(u64),
    /// The service has answered; nobody hears it.
    AtReply,
}

/// The proxy; it ends with the runtime.
pub struct Door {
    /// Where the service seems to be, on the loopback address.
    pub port: u16,
    state: Arc<State>,
}

struct State {
    way: watch::Sender<Way>,
    /// Cuts that are still to be made, the next one last.
    cuts: Mutex<Vec<Cut>>,
    made: AtomicU64,
}

impl Door {
    /// Before this address; open.
    ///
    /// # Errors
    /// The system's error.
    pub async fn before(service: u16) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let state =
            Arc::new(State { way: watch::Sender::new(Way::Open), cuts: Mutex::default(), made: AtomicU64::default() });
        tokio::spawn(listen(listener, port, service, state.clone()));
        Ok(Self { port, state })
    }

    /// How the way is from now on.
    pub fn set(&self, way: Way) {
        self.state.way.send_replace(way);
    }

    /// For who has to know how the way is.
    pub fn watch(&self) -> watch::Receiver<Way> {
        self.state.way.subscribe()
    }

    /// Cuts what is sent so, one after the other.
    pub fn cut(&self, mut cuts: Vec<Cut>) {
        cuts.reverse();
        *self.state.cuts.lock().unwrap_or_else(PoisonError::into_inner) = cuts;
    }

    /// Takes back cuts that were not made; returns how many were, since the beginning.
    pub fn cuts_made(&self) -> u64 {
        self.state.cuts.lock().unwrap_or_else(PoisonError::into_inner).clear();
        self.state.made.load(Ordering::Relaxed)
    }
}

impl State {
    fn next_cut(&self) -> Option<Cut> {
        self.cuts.lock().unwrap_or_else(PoisonError::into_inner).last().copied()
    }

    fn made(&self) {
        self.cuts.lock().unwrap_or_else(PoisonError::into_inner).pop();
        self.made.fetch_add(1, Ordering::Relaxed);
    }

    /// Waits while nothing comes through.
    async fn passes(&self) {
        // The sender is ours, so it cannot be gone.
        let _ = self.way.subscribe().wait_for(|way| *way != Way::Silent).await;
    }

    async fn is_shut(&self) {
        let _ = self.way.subscribe().wait_for(|way| *way == Way::Shut).await;
    }
}

async fn listen(first: TcpListener, port: u16, service: u16, state: Arc<State>) {
    let (mut listener, mut way) = (Some(first), state.way.subscribe());
    loop {
        if *way.borrow_and_update() == Way::Shut {
            listener = None;
        } else if listener.is_none() {
            listener = TcpListener::bind(("127.0.0.1", port)).await.ok();
        }
        let accepted = async {
            match &listener {
                Some(listener) => listener.accept().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            changed = way.changed() => if changed.is_err() { return },
            accepted = accepted => if let Ok((client, _)) = accepted {
                tokio::spawn(carry(client, service, state.clone()));
            },
        }
    }
}

async fn carry(client: TcpStream, service: u16, state: Arc<State>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", service)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let deaf = AtomicBool::default();
    tokio::select! {
        _ = up(from_client, to_server, &state, &deaf) => {}
        _ = down(from_server, to_client, &state, &deaf) => {}
        () = state.is_shut() => {}
    }
}

async fn up(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &State, deaf: &AtomicBool) -> io::Result<()> {
    // Of the request that is under way: whether it writes, and how much of it was sent.
    let (mut writes, mut sent) = (false, 0);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        state.passes().await;
        let bytes = &buffer[..count];
        if let Some(begins) = writing(bytes) {
            (writes, sent) = (begins, 0);
        }
        sent += count as u64;
        match state.next_cut().filter(|_| writes) {
            Some(Cut::After(most)) if sent > most => {
                let part = count.saturating_sub(usize::try_from(sent - most).unwrap_or(count));
                to.write_all(&bytes[..part]).await?;
                state.made();
                return Ok(());
            }
            Some(Cut::AtReply) => deaf.store(true, Ordering::Relaxed),
            _ => {}
        }
        to.write_all(bytes).await?;
    }
}

/// Whether a request that begins here writes; `None` in the middle of one.
fn writing(bytes: &[u8]) -> Option<bool> {
    let begins = |methods: &[&[u8]]| methods.iter().any(|method| bytes.starts_with(method));
    match begins(&[b"PUT /", b"POST /"]) {
        true => Some(true),
        false => begins(&[b"GET /", b"HEAD /", b"DELETE /"]).then_some(false),
    }
}

async fn down(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, state: &State, deaf: &AtomicBool) -> io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return Ok(());
        }
        if deaf.load(Ordering::Relaxed) {
            state.made();
            return Ok(());
        }
        state.passes().await;
        to.write_all(&buffer[..count]).await?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_that_writes_is_told_by_its_first_bytes() {
        let told = [b"PUT /a".as_slice(), b"POST /a?uploads", b"GET /a", b"HEAD /", b"DELETE /", b"a body", b""];
        let told = told.map(writing);
        assert_eq!(told, [Some(true), Some(true), Some(false), Some(false), Some(false), None, None]);
    }
}
