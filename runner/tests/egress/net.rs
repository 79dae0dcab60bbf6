//! A proxy of one command, with names of the test's own and real sockets.

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tendril_runner::egress::{
    Closed, Exceptions, Ledger, Limits, Network, Proxy, Refusal, Rule, Rules, Token, Traffic, Upstream,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Nothing here takes a second on an idle machine; a busy one gets this long.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// `tendril:t0ken`
pub const CREDENTIAL: &str = "Proxy-Authorization: Basic dGVuZHJpbDp0MGtlbg==\r\n";

type Answers = VecDeque<Vec<IpAddr>>;

/// Names with the answers of one lookup after the other, the last one for ever; and where connections to addresses really go.
#[derive(Clone, Default)]
pub struct Names {
    answers: Arc<Mutex<Vec<(String, Answers)>>>,
    servers: Arc<Mutex<Vec<(IpAddr, SocketAddr)>>>,
    pub lookups: Arc<Mutex<Vec<String>>>,
    pub dialled: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Names {
    pub fn name(&self, name: &str, answers: &[&[&str]]) {
        let parsed = answers.iter().map(|all| all.iter().map(|one| one.parse().unwrap()).collect()).collect();
        self.answers.lock().unwrap().push((name.to_owned(), parsed));
    }

    pub fn server(&self, address: &str, server: SocketAddr) {
        self.servers.lock().unwrap().push((address.parse().unwrap(), server));
    }
}

impl Network for Names {
    async fn resolve(&self, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        self.lookups.lock().unwrap().push(name.to_owned());
        let mut all = self.answers.lock().unwrap();
        let (_, answers) = all.iter_mut().find(|(one, _)| one == name).ok_or(io::ErrorKind::NotFound)?;
        let answer = if answers.len() > 1 { answers.pop_front().unwrap() } else { answers[0].clone() };
        Ok(answer.into_iter().map(|address| SocketAddr::new(address, port)).collect())
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        self.dialled.lock().unwrap().push(address);
        let server =
            self.servers.lock().unwrap().iter().find(|(one, _)| *one == address.ip()).map(|(_, server)| *server);
        match server {
            Some(server) => TcpStream::connect(server).await,
            // Nobody answers there.
            None => std::future::pending().await,
        }
    }
}

/// A proxy that serves.
pub struct Bed {
    pub names: Names,
    pub address: SocketAddr,
    ledger: Arc<Ledger>,
}

pub fn rules(allow: &[&str]) -> Rules {
    Rules {
        allow: allow.iter().map(|one| Rule::try_from((*one).to_owned()).unwrap()).collect(),
        template: None,
        closed: vec![Closed { host: "broker.example".into(), port: Some(5432), what: "the broker".into() }],
        upstream: None,
        upstream_except: Exceptions::default(),
        token: Token("t0ken".into()),
        limits: Limits { connections: 16, head_ms: 60_000, connect_ms: 60_000 },
    }
}

pub fn through(proxy: SocketAddr, allow: &[&str]) -> Rules {
    let upstream = Upstream::try_from(format!("http://me:pass@{proxy}")).unwrap();
    Rules { upstream: Some(upstream), ..rules(allow) }
}

impl Bed {
    pub async fn new(rules: Rules) -> Self {
        let names = Names::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (ledger, _bell) = Ledger::new().unwrap();
        let ledger = Arc::new(ledger);
        tokio::spawn(Proxy::new(rules, ledger.clone(), names.clone()).serve(listener));
        Self { names, address, ledger }
    }

    /// A client that has said this and nothing more.
    pub async fn says(&self, text: &str) -> TcpStream {
        let mut client = TcpStream::connect(self.address).await.unwrap();
        client.write_all(text.as_bytes()).await.unwrap();
        client
    }

    /// A client that wants a tunnel, and the first line of the answer.
    pub async fn connect(&self, target: &str) -> (TcpStream, String) {
        let mut client = self.says(&format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{CREDENTIAL}\r\n")).await;
        let head = head(&mut client).await;
        (client, head.lines().next().unwrap_or_default().to_owned())
    }

    pub fn traffic(&self) -> Traffic {
        self.ledger.traffic()
    }

    pub fn news(&self) -> Vec<Refusal> {
        self.ledger.take()
    }
}

/// Up to the empty line, byte by byte: what follows is the tunnel's.
pub async fn head(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let reading = async {
        while !bytes.ends_with(b"\r\n\r\n") {
            match stream.read_u8().await {
                Ok(byte) => bytes.push(byte),
                Err(_) => break,
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.expect("an answer in time");
    String::from_utf8(bytes).unwrap()
}

/// All up to the end.
pub async fn rest(stream: &mut TcpStream) -> String {
    let mut text = String::new();
    let read = tokio::time::timeout(PATIENCE, stream.read_to_string(&mut text)).await.expect("an end in time");
    read.unwrap();
    text
}

pub async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

pub async fn accepted(listener: &TcpListener) -> TcpStream {
    tokio::time::timeout(PATIENCE, listener.accept()).await.expect("somebody comes").unwrap().0
}
