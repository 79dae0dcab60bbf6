//! What measurements are held against: Postgres used as barely as it can be, for the bench and nothing else.

pub mod log_tables;
pub mod logs;
pub mod queue;
pub mod scrape;

use std::future::poll_fn;

use serde::Serialize;
use tokio::sync::mpsc;
use tokio_postgres::{AsyncMessage, Client, NoTls, Statement};
use uuid::Uuid;

/// A connection or statement of a measurement failed.
#[derive(Debug, thiserror::Error)]
pub enum BaselineError {
    /// The server refused, or the session ended.
    #[error(transparent)]
    Postgres(#[from] tokio_postgres::Error),
    /// The listening session is gone.
    #[error("the session that listens has ended")]
    Deaf,
}

/// Settings of a server that decide what a commit costs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ServerFacts {
    /// As `server_version` says it.
    pub version: String,
    /// on, unless the server may forget.
    pub fsync: String,
    /// on, unless commits do not wait for the disk.
    pub synchronous_commit: String,
    /// How the log is flushed.
    pub wal_sync_method: String,
}

/// Asks a server on the loopback for its settings.
///
/// # Errors
/// The server cannot be reached.
pub async fn server_facts(url: &str) -> Result<ServerFacts, BaselineError> {
    const SQL: &str = "-- server facts\nselect current_setting('server_version'), current_setting('fsync'), \
                       current_setting('synchronous_commit'), current_setting('wal_sync_method')";
    let row = connect(url).await?.query_one(SQL, &[]).await?;
    Ok(ServerFacts {
        version: row.try_get(0)?,
        fsync: row.try_get(1)?,
        synchronous_commit: row.try_get(2)?,
        wal_sync_method: row.try_get(3)?,
    })
}

/// Looks whether the runners of a cluster are idle: have found nothing, and asked to be rung.
pub struct Idleness {
    client: Client,
    ask: Statement,
}

impl Idleness {
    /// With a session of the operator's.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn open(url: &str) -> Result<Self, BaselineError> {
        const SQL: &str = "-- is idle\nselect count(*) = cardinality($1::uuid[]) from tendril_core.bells b where b.waiting and b.cluster_id = any ($1)";
        let client = connect(url).await?;
        let ask = client.prepare(SQL).await?;
        Ok(Self { client, ask })
    }

    /// Whether somebody waits for a ring in each of these clusters.
    ///
    /// # Errors
    /// The session ended.
    pub async fn holds(&self, clusters: &[Uuid]) -> Result<bool, BaselineError> {
        Ok(self.client.query_one(&self.ask, &[&clusters]).await?.try_get(0)?)
    }
}

/// The bare round trip: one session commits a row and a ring, another one that listens answers with commits of one
/// updated row each. Two prepared statements, one table, nothing else.
pub struct RoundTrip {
    submitter: Client,
    submit: Statement,
    listener: Client,
    answer: Statement,
    rings: mpsc::Receiver<()>,
    last: i64,
}

impl RoundTrip {
    /// Makes the table, if need be, and opens both sessions.
    ///
    /// # Errors
    /// The server cannot be reached, or the role may not create a schema.
    pub async fn open(url: &str) -> Result<Self, BaselineError> {
        const TABLE: &str = "-- baseline table\ncreate schema if not exists bare; \
                             create table if not exists bare.items (id bigint primary key, state text not null)";
        const SUBMIT: &str = "-- baseline submit\nwith item as (insert into bare.items (id, state) values ($1, 'new')) \
                              select pg_notify('bare', '')";
        const ANSWER: &str = "-- baseline answer\nupdate bare.items set state = $2 where id = $1";
        let submitter = connect(url).await?;
        submitter.batch_execute(TABLE).await?;
        let (listener, mut driver) = tokio_postgres::connect(url, NoTls).await?;
        let (sender, rings) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|context| driver.poll_message(context)).await {
                if matches!(message, AsyncMessage::Notification(_)) {
                    let _ = sender.try_send(());
                }
            }
        });
        listener.batch_execute("-- baseline listen\nlisten bare").await?;
        let (submit, answer) = (submitter.prepare(SUBMIT).await?, listener.prepare(ANSWER).await?);
        let last = submitter.query_one("-- baseline last\nselect coalesce(max(id), 0) from bare.items", &[]).await?;
        let last = last.try_get(0)?;
        Ok(Self { submitter, submit, listener, answer, rings, last })
    }

    /// One round trip with `answers` answering commits; `mark` is called after each of them with its number, from 0.
    ///
    /// # Errors
    /// A session ended.
    pub async fn turn(&mut self, answers: usize, mut mark: impl FnMut(usize)) -> Result<(), BaselineError> {
        self.last += 1;
        let (id, rings) = (self.last, &mut self.rings);
        let submitting = async { self.submitter.execute(&self.submit, &[&id]).await };
        let answering = async {
            rings.recv().await.ok_or(BaselineError::Deaf)?;
            for number in 0..answers {
                let state = if number == 0 { "claimed" } else { "started" };
                self.listener.execute(&self.answer, &[&id, &state]).await?;
                mark(number);
            }
            Ok(())
        };
        let (submitted, answered) = tokio::join!(submitting, answering);
        submitted?;
        answered
    }
}

async fn connect(url: &str) -> Result<Client, BaselineError> {
    let (client, driver) = tokio_postgres::connect(url, NoTls).await?;
    tokio::spawn(driver);
    Ok(client)
}
