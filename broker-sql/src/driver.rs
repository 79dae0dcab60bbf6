//! What drives a session, and ends it when its host is not to be believed any more.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::future::poll_fn;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, Connection, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

type Line = Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// The half of a connection that must be polled, and that yields notifications. It ends when another host takes the lead: what an
/// old primary still answers is not waited for, and nothing more is asked of it.
pub struct Driver {
    line: Line,
    passed_on: BoxFuture<'static, ()>,
}

impl Driver {
    pub(crate) fn new(line: Line, passed_on: impl Future<Output = ()> + Send + 'static) -> Self {
        Self { line, passed_on: passed_on.boxed() }
    }

    /// Drives the session to its end.
    ///
    /// # Errors
    /// The line broke, or the server ended the session.
    pub async fn run(mut self) -> Result<(), tokio_postgres::Error> {
        while let Some(message) = self.message().await {
            message?;
        }
        Ok(())
    }

    /// Drives the session up to the next message of the server's that answers nothing. None at its end.
    pub async fn message(&mut self) -> Option<Result<AsyncMessage, tokio_postgres::Error>> {
        tokio::select! {
            // In this order: what is asked of it now is not sent any more.
            biased;
            () = &mut self.passed_on => None,
            message = poll_fn(|context| self.line.poll_message(context)) => message,
        }
    }
}
