//! Names and connections: the system's, or a test's.

use nix::sys::socket::{setsockopt, sockopt};
use std::io;
use std::net::SocketAddr;
use tokio::net::TcpStream;

/// What the proxy does on the network.
pub trait Network: Send + Sync + 'static {
    /// All addresses of a name.
    fn resolve(&self, name: &str, port: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send;
    /// A connection to one address.
    fn connect(&self, address: SocketAddr) -> impl Future<Output = io::Result<TcpStream>> + Send;
}

/// The system's own.
#[derive(Clone, Copy, Debug, Default)]
pub struct System;

impl Network for System {
    async fn resolve(&self, name: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((name, port)).await?.collect())
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(address).await?;
        watch_over(&stream)?;
        Ok(stream)
    }
}

/// A peer that vanishes without a word is noticed within two minutes.
fn watch_over(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    setsockopt(stream, sockopt::KeepAlive, &true)?;
    setsockopt(stream, sockopt::TcpKeepIdle, &60)?;
    setsockopt(stream, sockopt::TcpKeepInterval, &15)?;
    setsockopt(stream, sockopt::TcpKeepCount, &4)?;
    Ok(())
}
