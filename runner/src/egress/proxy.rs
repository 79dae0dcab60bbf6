//! The proxy of one command: accepts, asks the rules, connects, carries.

use super::ledger::Ledger;
use super::network::Network;
use super::plain;
use super::refusal::{Reason, Refusal};
use super::request::{Head, Plain, Unread, Wish, read_head, understand};
use super::rules::Rules;
use super::target::{Host, Target};
use super::tunnel;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// Addresses of one name that are tried.
const MAX_TRIED: usize = 4;
/// Connections above the bound that are told so at once; further ones are closed without a word.
const MAX_TOLD_BUSY: usize = 32;
/// How long a client that was refused may go on talking, before its connection is reset under the answer.
const LAST_WORDS: Duration = Duration::from_secs(2);
const LAST_WORDS_BYTES: u64 = 256 * 1024;

/// What all connections of a command share.
#[derive(Debug)]
pub struct Proxy<N> {
    rules: Rules,
    ledger: Arc<Ledger>,
    network: N,
}

/// A way to the target, and what it has said already.
struct Way {
    server: TcpStream,
    said: Vec<u8>,
}

/// What came of a request that may pass.
enum Made {
    /// The client or the server has gone meanwhile.
    Nothing,
    /// Bytes go to and from this server.
    Tunnel(TcpStream),
    /// This server has the head, and is to have so many bytes more; without a number up to the body's own end.
    Request(TcpStream, Option<u64>),
}

impl<N: Network> Proxy<N> {
    /// One with these rules.
    pub fn new(rules: Rules, ledger: Arc<Ledger>, network: N) -> Arc<Self> {
        Arc::new(Self { rules, ledger, network })
    }

    /// Serves for ever.
    pub async fn serve(self: Arc<Self>, listener: TcpListener) {
        let places = Arc::new(Semaphore::new(self.rules.limits.connections as usize));
        let busy = Arc::new(Semaphore::new(MAX_TOLD_BUSY));
        loop {
            let client = match listener.accept().await {
                Ok((client, _)) => client,
                Err(error) => {
                    // Out of descriptors, perhaps: those that are open end some time.
                    tracing::debug!(%error, "a connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let proxy = self.clone();
            if let Ok(place) = places.clone().try_acquire_owned() {
                tokio::spawn(async move {
                    proxy.attend(client).await;
                    drop(place);
                });
            } else {
                let most = self.rules.limits.connections;
                let text = format!(
                    "{most} connections at once are open, as many as there may be; raise egress.max_connections"
                );
                let refusal = Refusal::new("", Reason::Busy, text);
                self.ledger.refused(&refusal);
                let Ok(place) = busy.clone().try_acquire_owned() else { continue };
                tokio::spawn(async move {
                    refuse(client, &refusal).await;
                    drop(place);
                });
            }
        }
    }

    async fn attend(&self, mut client: TcpStream) {
        // A client that asks for one thing after the other waits for each.
        drop(client.set_nodelay(true));
        let head_within = Duration::from_millis(self.rules.limits.head_ms);
        let asked = match read_head(&mut client, head_within).await {
            Ok(Head { head, rest }) => understand(&head, &self.rules.token.0).map(|wish| (wish, rest)),
            Err(Unread::Gone) => return,
            Err(Unread::Refused(refusal)) => Err(refusal),
        };
        let done = match asked {
            Ok((Wish::Connect(target), rest)) => self.connect(&mut client, &target, rest).await,
            Ok((Wish::Plain(target, plain), rest)) => self.plain(&mut client, (&target, plain), rest).await,
            Err(refusal) => Err(refusal),
        };
        match done {
            Ok(Made::Nothing) => {}
            Ok(Made::Request(server, body)) => {
                let counts = (&self.ledger.sent, &self.ledger.received);
                drop(tunnel::answer(client, server, body, counts).await);
            }
            Ok(Made::Tunnel(server)) => {
                drop(tunnel::carry(client, server, &self.ledger.sent, &self.ledger.received).await);
            }
            Err(refusal) => {
                self.ledger.refused(&refusal);
                refuse(client, &refusal).await;
            }
        }
    }

    /// Makes a tunnel.
    async fn connect(&self, client: &mut TcpStream, target: &Target, rest: Vec<u8>) -> Result<Made, Refusal> {
        let Some(Way { mut server, said }) = self.way(client, target, true).await? else { return Ok(Made::Nothing) };
        self.ledger.passed();
        let answer = [b"HTTP/1.1 200 Connection established\r\n\r\n", said.as_slice()].concat();
        if client.write_all(&answer).await.is_err() || server.write_all(&rest).await.is_err() {
            return Ok(Made::Nothing);
        }
        self.count(rest.len(), said.len());
        Ok(Made::Tunnel(server))
    }

    /// Passes on a plain request.
    async fn plain(
        &self,
        client: &mut TcpStream,
        (target, plain): (&Target, Plain),
        mut rest: Vec<u8>,
    ) -> Result<Made, Refusal> {
        let upstream = self.rules.upstream_for(target);
        if upstream.is_some() && plain.length.is_none() {
            // Behind the end of such a body the proxy beyond could take another request, at which nobody here would look.
            let text =
                format!("{target}: a plain request through a proxy beyond must say its Content-Length; use https");
            return Err(Refusal { status: 411, ..Refusal::new(target, Reason::Malformed, text) });
        }
        let Some(Way { mut server, .. }) = self.way(client, target, false).await? else { return Ok(Made::Nothing) };
        self.ledger.passed();
        let head = plain::head(target, &plain, upstream);
        let left = plain.length.map(|length| {
            rest.truncate(usize::try_from(length).unwrap_or(usize::MAX));
            length.saturating_sub(rest.len() as u64)
        });
        if server.write_all(&[head, rest.clone()].concat()).await.is_err() {
            return Ok(Made::Nothing);
        }
        self.count(rest.len(), 0);
        Ok(Made::Request(server, left))
    }

    fn count(&self, sent: usize, received: usize) {
        self.ledger.sent.fetch_add(sent as u64, Ordering::Relaxed);
        self.ledger.received.fetch_add(received as u64, Ordering::Relaxed);
    }

    /// A way to the target, if it may be had; none when the client has gone meanwhile.
    async fn way(&self, client: &TcpStream, target: &Target, tunnelled: bool) -> Result<Option<Way>, Refusal> {
        self.rules.first_look(target)?;
        let within = Duration::from_millis(self.rules.limits.connect_ms);
        let finding = tokio::time::timeout(within, self.find(target, tunnelled));
        tokio::select! {
            found = finding => found.unwrap_or_else(|_| {
                let text = format!("{target} did not answer within {} s (egress.connect_timeout_s)", within.as_secs_f64());
                Err(Refusal::new(target, Reason::Unreachable, text))
            }).map(Some),
            () = gone(client) => Ok(None),
        }
    }

    async fn find(&self, target: &Target, tunnelled: bool) -> Result<Way, Refusal> {
        let upstream = self.rules.upstream_for(target);
        let addresses = match self.addresses(target).await {
            // The proxy beyond resolves names itself: then the name alone counts, and no entry of addresses.
            Err(_) if upstream.is_some() => Vec::new(),
            resolved => resolved?,
        };
        self.check(target, &addresses).await?;
        let Some(upstream) = upstream else {
            return self.dial(target, &addresses).await;
        };
        match tunnelled {
            true => {
                let within = Duration::from_millis(self.rules.limits.connect_ms);
                let (server, said) = upstream.tunnel(&self.network, target, within).await?;
                Ok(Way { server, said })
            }
            false => Ok(Way { server: upstream.connect(&self.network).await?, said: Vec::new() }),
        }
    }

    /// The target's addresses. Resolved once: what is looked at is what is connected to.
    async fn addresses(&self, target: &Target) -> Result<Vec<SocketAddr>, Refusal> {
        let unresolved = |why: String| Refusal::new(target, Reason::Unresolved, format!("{target}: {why}"));
        let name = match &target.host {
            Host::Address(address) => return Ok(vec![SocketAddr::new(*address, target.port)]),
            Host::Name(name) => name,
        };
        match self.network.resolve(name, target.port).await {
            Ok(addresses) if addresses.is_empty() => Err(unresolved("the name has no address".to_owned())),
            Ok(addresses) => Ok(addresses),
            Err(error) => Err(unresolved(format!(
                "the name cannot be resolved ({error}); check it, and the resolver of the runner's machine"
            ))),
        }
    }

    /// Whether all these addresses may be reached. Where nobody can say whether one of them is closed, none may.
    async fn check(&self, target: &Target, addresses: &[SocketAddr]) -> Result<(), Refusal> {
        let ips: Vec<IpAddr> = addresses.iter().map(SocketAddr::ip).collect();
        let mut closed = Vec::new();
        for (index, one) in self.rules.near(target).filter(|_| !ips.is_empty()) {
            match Host::parse(&one.host) {
                Ok(Host::Address(address)) => closed.push((index, address)),
                Ok(Host::Name(name)) => {
                    let found = self.network.resolve(&name, target.port).await.map_err(|error| {
                        let text = format!(
                            "{target} may be {}, whose name {name} cannot be resolved just now ({error}); try again, or check the resolver of the runner's machine",
                            one.what
                        );
                        Refusal::new(target, Reason::Unreachable, text)
                    })?;
                    closed.extend(found.into_iter().map(|address| (index, address.ip())));
                }
                Err(_) => {}
            }
        }
        self.rules.check(target, &ips, &closed)
    }

    async fn dial(&self, target: &Target, addresses: &[SocketAddr]) -> Result<Way, Refusal> {
        let mut last = None;
        for address in addresses.iter().take(MAX_TRIED) {
            match self.network.connect(*address).await {
                Ok(server) => return Ok(Way { server, said: Vec::new() }),
                Err(error) => last = Some(error),
            }
        }
        let why = last.unwrap_or_else(|| io::Error::other("it has no address"));
        let text = format!("{target} cannot be reached from this machine: {why}");
        Err(Refusal::new(target, Reason::Unreachable, text))
    }
}

/// Returns when the client has hung up. One that goes on talking is there.
async fn gone(client: &TcpStream) {
    let mut byte = [0];
    match client.peek(&mut byte).await {
        Ok(0) | Err(_) => {}
        Ok(_) => std::future::pending().await,
    }
}

/// Answers, and reads on for a moment: closing with something unread would reset the connection under the answer.
async fn refuse(mut client: TcpStream, refusal: &Refusal) {
    let answer = async {
        client.write_all(&refusal.response()).await?;
        client.shutdown().await?;
        tokio::io::copy(&mut (&mut client).take(LAST_WORDS_BYTES), &mut tokio::io::sink()).await
    };
    drop(tokio::time::timeout(LAST_WORDS, answer).await);
}
