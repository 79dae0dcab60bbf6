//! A tenant at its worst: with its own credential it does to the server what load it can, in as many sessions as it is given,
//! and comes back whenever it is sent away.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt, pin_mut};
use tokio::task::JoinHandle;
use tokio_postgres::{Client, Connection, NoTls, Socket, tls::NoTlsStream};
use tokio_util::sync::CancellationToken;

use crate::clock::new_id;

/// A server with no room is asked again after this; a real one would not wait at all, and be slower for it.
const TRY_AGAIN: Duration = Duration::from_millis(5);
/// Between two rows of a COPY that is never to end.
const TRICKLE: Duration = Duration::from_millis(100);

/// What it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Harm {
    /// Takes advisory locks until the server has no place for one more, and sits on them.
    Locks,
    /// Listens, and sends notifications of 7 KB by the thousand.
    Rings,
    /// Logs in and out.
    Logins,
    /// Holds a transaction open, with all locks that its own rows have.
    Transactions,
    /// Holds a COPY open that trickles.
    Copies,
    /// Computes without end.
    Processor,
    /// Fills temporary tables and large objects.
    Disk,
}

impl Harm {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Locks, Self::Rings, Self::Logins, Self::Transactions, Self::Copies, Self::Processor, Self::Disk];

    /// For people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Locks => "a hoard of advisory locks",
            Self::Rings => "a flood of notifications",
            Self::Logins => "logins without end",
            Self::Transactions => "transactions held open",
            Self::Copies => "a COPY that trickles",
            Self::Processor => "queries that compute without end",
            Self::Disk => "temporary tables and large objects",
        }
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Sessions that were let in.
    pub logins: u64,
    /// Logins that were refused.
    pub refused: u64,
    /// Statements that went through.
    pub statements: u64,
}

#[derive(Default)]
struct Counts {
    logins: AtomicU64,
    refused: AtomicU64,
    statements: AtomicU64,
}

/// Its sessions, until it is asked to stop.
pub struct Hostile {
    stop: CancellationToken,
    counts: Arc<Counts>,
    sessions: Vec<JoinHandle<()>>,
}

impl Hostile {
    /// Begins, with so many sessions; `url` is how a runner of the tenant connects.
    pub fn begin(url: &str, harm: Harm, sessions: usize) -> Self {
        let (stop, counts) = (CancellationToken::new(), Arc::new(Counts::default()));
        let sessions = (0..sessions).map(|_| {
            let (url, stop, counts) = (url.to_owned(), stop.clone(), counts.clone());
            tokio::spawn(async move {
                tokio::select! {
                    () = again_and_again(&url, harm, &counts) => {}
                    () = stop.cancelled() => {}
                }
            })
        });
        let sessions = sessions.collect();
        Self { stop, counts, sessions }
    }

    /// What it has done so far.
    pub fn done(&self) -> Done {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let Counts { logins, refused, statements } = &*self.counts;
        Done { logins: read(logins), refused: read(refused), statements: read(statements) }
    }

    /// Ends it.
    pub async fn end(self) -> Done {
        self.stop.cancel();
        let done = self.done();
        for session in self.sessions {
            drop(session.await);
        }
        done
    }
}

async fn again_and_again(url: &str, harm: Harm, counts: &Counts) {
    loop {
        match tokio_postgres::connect(url, NoTls).await {
            Ok((client, line)) => {
                counts.logins.fetch_add(1, Ordering::Relaxed);
                let session = tokio::spawn(drive(line));
                // Whatever ends it: it comes back.
                drop(hurt(&client, harm, counts).await);
                drop(client);
                session.abort();
            }
            Err(_) => {
                counts.refused.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(TRY_AGAIN).await;
            }
        }
    }
}

async fn drive(line: Connection<Socket, NoTlsStream>) {
    drop(line.await);
}

async fn hurt(client: &Client, harm: Harm, counts: &Counts) -> Result<(), tokio_postgres::Error> {
    let count = || counts.statements.fetch_add(1, Ordering::Relaxed);
    match harm {
        Harm::Logins => Ok(()),
        Harm::Locks => {
            // Those taken before the table was full stay with the session, as session locks do.
            let sql = format!(
                "select pg_advisory_lock({}, n) from generate_series(1, 1000000) n",
                new_id().as_u128() as u32 as i32
            );
            drop(client.batch_execute(&sql).await);
            count();
            ended(client).await
        }
        Harm::Rings => {
            client.batch_execute("listen hostile").await?;
            let sql = "select pg_notify('hostile', repeat('x', 7000) || n) from generate_series(1, 2000) n";
            loop {
                client.batch_execute(sql).await?;
                count();
            }
        }
        Harm::Transactions => {
            let sql = format!(
                "set idle_in_transaction_session_timeout = 0; begin; select tendril.log_takeover('{}')",
                new_id()
            );
            client.batch_execute(&sql).await?;
            count();
            ended(client).await
        }
        Harm::Copies => trickle(client, counts).await,
        Harm::Processor => loop {
            client.batch_execute("select count(n) from (select generate_series(1, 1000000000000) as n) s").await?;
            count();
        },
        Harm::Disk => {
            client.batch_execute("create temp table if not exists t (x text)").await?;
            loop {
                let sql = "insert into t select repeat('x', 1000) from generate_series(1, 2000);
                    select lo_from_bytea(0, decode(repeat('00', 1000000), 'hex'))";
                client.batch_execute(sql).await?;
                count();
            }
        }
    }
}

/// Waits until the server ends the session.
async fn ended(client: &Client) -> Result<(), tokio_postgres::Error> {
    while !client.is_closed() {
        tokio::time::sleep(TRY_AGAIN).await;
    }
    Ok(())
}

async fn trickle(client: &Client, counts: &Counts) -> Result<(), tokio_postgres::Error> {
    let day: String = client.query_one("select (now() at time zone 'UTC')::date::text", &[]).await?.try_get(0)?;
    client.batch_execute("begin").await?;
    let copy = client.copy_in("copy tendril.log_inbox (deployment_id, attempt_id, fence, claim_day, job, attempt, seq, seq_to, stream, log_chunk, ts) from stdin").await?;
    counts.statements.fetch_add(1, Ordering::Relaxed);
    pin_mut!(copy);
    let id = new_id();
    for seq in 0_i64.. {
        let row = format!("{id}\t{id}\t1\t{day}\tjob\t1\t{seq}\t{seq}\tstdout\tx\t2026-01-01T00:00:00Z\n");
        copy.send(Bytes::from(row)).await?;
        tokio::time::sleep(TRICKLE).await;
    }
    Ok(())
}
