//! A server for TLS, with a certificate of its own, at an address of this machine that is not loopback.

use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// An address of this machine that others could reach. Jobs reach no loopback.
pub fn own_address() -> IpAddr {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    // Nothing is sent: it only chooses the way.
    socket.connect((Ipv4Addr::new(198, 51, 100, 1), 9)).expect("a machine with an address that is not loopback");
    socket.local_addr().unwrap().ip()
}

/// A server that answers each request by method, path and body.
pub struct Server {
    pub address: SocketAddr,
    /// What its clients have to trust.
    pub certificate: PathBuf,
}

impl Server {
    pub fn start(
        folder: &Path,
        answer: impl Fn(&str, &str, Vec<u8>) -> (&'static str, Vec<u8>) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((own_address(), 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let made = rcgen::generate_simple_self_signed(vec![address.ip().to_string()]).unwrap();
        let certificate = folder.join("ca.pem");
        std::fs::write(&certificate, made.cert.pem()).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let chain = vec![CertificateDer::from(made.cert.der().to_vec())];
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = Arc::new(config.with_no_client_auth().with_single_cert(chain, key).unwrap());
        let answer = Arc::new(answer);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (config, answer) = (config.clone(), answer.clone());
                std::thread::spawn(move || {
                    let tls = StreamOwned::new(ServerConnection::new(config).unwrap(), stream.unwrap());
                    serve(tls, answer.as_ref())
                });
            }
        });
        Self { address, certificate }
    }
}

/// One request; whoever asked may have gone.
fn serve(stream: impl Read + Write, answer: &impl Fn(&str, &str, Vec<u8>) -> (&'static str, Vec<u8>)) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") && stream.read_line(&mut head).ok()? > 0 {}
    let length = head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).ok()?;
    let mut words = head.split(' ');
    let (status, content) = answer(words.next()?, words.next()?, body);
    let head = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", content.len());
    stream.get_mut().write_all(&[head.as_bytes(), &content].concat()).ok()?;
    stream.get_mut().flush().ok()
}
