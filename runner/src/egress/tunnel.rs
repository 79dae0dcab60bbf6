//! Bytes in both directions, counted.

use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

const BUFFER_BYTES: usize = 32 * 1024;
/// When one side has said all, the other may be silent for so long.
const LONGEST_SILENCE: Duration = Duration::from_secs(300);

/// Carries bytes until both sides have said all, or one is gone. `sent` counts what the client says.
pub async fn carry(client: TcpStream, server: TcpStream, sent: &AtomicU64, received: &AtomicU64) -> io::Result<()> {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let mut up = pin!(copy(&mut from_client, &mut to_server, sent));
    let mut down = pin!(copy(&mut from_server, &mut to_client, received));
    tokio::select! {
        done = &mut up => {
            done?;
            while_it_speaks(down, received).await
        }
        done = &mut down => {
            done?;
            while_it_speaks(up, sent).await
        }
    }
}

/// Passes on the body of one request, of so many bytes (none: up to its own end), and then the answer to its end.
pub async fn answer(
    client: TcpStream,
    server: TcpStream,
    body_bytes: Option<u64>,
    (sent, received): (&AtomicU64, &AtomicU64),
) -> io::Result<()> {
    let (from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let mut body = from_client.take(body_bytes.unwrap_or(u64::MAX));
    let up = async {
        move_all(&mut body, &mut to_server, sent).await?;
        if body_bytes.is_some() && body.limit() > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // What the client says beyond its body nobody reads.
        std::future::pending::<io::Result<()>>().await
    };
    tokio::select! {
        done = up => done,
        done = copy(&mut from_server, &mut to_client, received) => done,
    }
}

async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    count: &AtomicU64,
) -> io::Result<()> {
    move_all(from, to, count).await?;
    to.shutdown().await
}

async fn move_all(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    count: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        // First: whoever has them may look at the figures.
        count.fetch_add(read as u64, Ordering::Relaxed);
        to.write_all(&buffer[..read]).await?;
    }
}

/// A side whose peer has gone half-way and that says nothing more is not waited for.
async fn while_it_speaks(
    mut copying: impl Future<Output = io::Result<()>> + Unpin,
    count: &AtomicU64,
) -> io::Result<()> {
    loop {
        let before = count.load(Ordering::Relaxed);
        match tokio::time::timeout(LONGEST_SILENCE, &mut copying).await {
            Ok(done) => return done,
            Err(_) if count.load(Ordering::Relaxed) == before => return Err(io::ErrorKind::TimedOut.into()),
            Err(_) => {}
        }
    }
}
