//! What drives a session, and ends it when its host is not to be believed any more.

use crate::hosts::{Server, WHICH_SERVER};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use std::future::poll_fn;
use std::pin::pin;
use tokio_postgres::tls::MakeTlsConnect;
use tokio_postgres::{AsyncMessage, Client, Connection, SimpleQueryMessage, Socket};
use tokio_postgres_rustls::MakeRustlsConnect;

pub(crate) type Line = Connection<Socket, <MakeRustlsConnect as MakeTlsConnect<Socket>>::Stream>;

/// The half of a connection that must be polled, and that yields notifications. It ends when another server takes the lead: what an
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

/// Asks a session that nobody drives yet which server it is at. None where that does not say so.
pub(crate) async fn which_server(client: &Client, line: &mut Line) -> Result<Option<Server>, tokio_postgres::Error> {
    let mut asked = pin!(client.simple_query(WHICH_SERVER));
    loop {
        tokio::select! {
            answer = &mut asked => {
                return Ok(answer?.iter().find_map(|message| match message {
                    SimpleQueryMessage::Row(row) => Server::of(row.get(0), row.get(1)),
                    _ => None,
                }));
            }
            message = poll_fn(|context| line.poll_message(context)) => match message {
                // Notices are nobody's business yet.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Ok(None),
            },
        }
    }
}
