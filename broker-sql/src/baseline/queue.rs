//! Queues under measurement: jobs of ours made beforehand, what became of them, and a queue of one table.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_postgres::types::Json;
use tokio_postgres::{Client, Statement};
use uuid::Uuid;

use super::{BaselineError, connect};

/// Deployments of one submit.
const AT_ONCE: u64 = 500;

/// What is submitted, by its snapshot: one of these is one deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One job, which changes the world: its start is a commit of its own.
    Single,
    /// One job, which only reads: its claim counts as its start.
    Reading,
    /// Five jobs, which change the world: one, then three beside each other, then one.
    Diamond,
    /// Ten jobs, which change the world, none of which waits for another.
    Ten,
    /// The same ten for runners with a label that nobody has, and more urgent than others.
    Elsewhere,
    /// The same ten, of which one may run at a time, and none beside those of other such deployments.
    OneByOne,
    /// One job that waits for an approval, and nine that need it.
    Unapproved,
}

impl Shape {
    /// Jobs of one deployment.
    pub fn jobs(self) -> u64 {
        match self {
            Self::Single | Self::Reading => 1,
            Self::Diamond => 5,
            Self::Ten | Self::Elsewhere | Self::OneByOne | Self::Unapproved => 10,
        }
    }

    fn snapshot(self) -> Value {
        let job = |name: &str, needs: &[&str]| json!({"name": name, "kind": "exec", "argv": ["true"], "needs": needs});
        let alone = |name: String| json!({"name": name, "kind": "exec", "argv": ["true"]});
        let jobs = match self {
            Self::Single => vec![alone("only".into())],
            Self::Reading => vec![json!({"name": "only", "kind": "exec", "argv": ["true"], "reading": true})],
            Self::Diamond => vec![
                alone("first".into()),
                job("left", &["first"]),
                job("middle", &["first"]),
                job("right", &["first"]),
                job("last", &["left", "middle", "right"]),
            ],
            Self::Ten | Self::OneByOne => (0..10).map(|number| alone(format!("j{number}"))).collect(),
            Self::Elsewhere => (0..10)
                .map(|number| json!({"name": format!("j{number}"), "kind": "exec", "argv": ["true"], "labels": ["zone=nowhere"]}))
                .collect(),
            Self::Unapproved => {
                let first = json!({"name": "first", "kind": "exec", "argv": ["true"], "approval": "required"});
                let others = (1..10).map(|number| job(&format!("j{number}"), &["first"]));
                std::iter::once(first).chain(others).collect()
            }
        };
        match self {
            Self::OneByOne => json!({"jobs": jobs, "priority": 0, "concurrency": {"key": "one", "limit": 1}}),
            Self::Elsewhere | Self::Unapproved => json!({"jobs": jobs, "priority": 0}),
            _ => json!({ "jobs": jobs }),
        }
    }
}

/// The operator's view of the queue.
pub struct Queued {
    client: Client,
    submit: Statement,
}

impl Queued {
    /// Opens a session of the operator's.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn open(url: &str) -> Result<Self, BaselineError> {
        const SUBMIT: &str = "-- fill a queue\ninsert into tendril.deployments (cluster_id, config_snapshot)
            select $1, $2 from generate_series(1, $3::int)";
        let client = connect(url).await?;
        let submit = client.prepare(SUBMIT).await?;
        Ok(Self { client, submit })
    }

    /// Submits so many deployments to a cluster.
    ///
    /// # Errors
    /// The database refused.
    pub async fn fill(&self, cluster: Uuid, shape: Shape, deployments: u64) -> Result<(), BaselineError> {
        let snapshot = Json(shape.snapshot());
        let mut left = deployments;
        while left > 0 {
            let some = left.min(AT_ONCE);
            left -= some;
            let count = i32::try_from(some).unwrap_or(i32::MAX);
            self.client.execute(&self.submit, &[&cluster, &snapshot, &count]).await?;
        }
        Ok(())
    }

    /// Folds what is counted and tidies up, as time would: so that no round pays for what the one before has left.
    ///
    /// # Errors
    /// The database refused.
    pub async fn settle(&self) -> Result<(), BaselineError> {
        const FOLD: &str = "-- fold\nselect (tendril_core.duty_fold() + tendril_core.duty_fold_happenings())::bigint";
        while self.client.query_one(FOLD, &[]).await?.try_get::<_, i64>(0)? > 0 {}
        for table in [
            "tendril.deployments",
            "tendril_core.jobs",
            "tendril_core.queue",
            "tendril_core.attempts",
            "tendril_core.parked",
            "tendril_core.queue_deltas",
            "tendril_core.happening_deltas",
        ] {
            self.client.batch_execute(&format!("-- tidy up\nvacuum (analyze) {table}")).await?;
        }
        Ok(())
    }

    /// Jobs that could be claimed in a cluster.
    ///
    /// # Errors
    /// The database refused.
    pub async fn waiting(&self, cluster: Uuid) -> Result<i64, BaselineError> {
        const SQL: &str = "-- length of a queue\nselect count(*) from tendril_core.queue where cluster_id = $1";
        Ok(self.client.query_one(SQL, &[&cluster]).await?.try_get(0)?)
    }

    /// Of a cluster: jobs that succeeded at their first attempt; all jobs.
    ///
    /// # Errors
    /// The database refused.
    pub async fn ended(&self, cluster: Uuid) -> Result<(i64, i64), BaselineError> {
        const SQL: &str =
            "-- what became of a queue\nselect count(*) filter (where state = 'SUCCESS' and attempts = 1), count(*)
            from tendril_core.jobs where cluster_id = $1";
        let row = self.client.query_one(SQL, &[&cluster]).await?;
        Ok((row.try_get(0)?, row.try_get(1)?))
    }
}

/// A transaction that somebody has left open: a long report, a dump. While it lasts, no row that was deleted or changed since
/// can be tidied up.
pub struct Pinned {
    _client: Client,
}

impl Pinned {
    /// Opens it.
    ///
    /// # Errors
    /// The server refused.
    pub async fn open(url: &str) -> Result<Self, BaselineError> {
        const PIN: &str = "-- pin\nbegin isolation level repeatable read; select count(*) from tendril_core.settings";
        let client = connect(url).await?;
        client.batch_execute(PIN).await?;
        Ok(Self { _client: client })
    }
}

/// The sessions of a cluster's credential, looked at from aside.
pub struct Sessions {
    client: Client,
    look: Statement,
    cluster: Uuid,
}

/// What a cluster's runners did with the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watched {
    /// Sessions that do not listen, the most at a time.
    pub deaf: usize,
    /// Statements that were begun, as far as they were no less than `LOOK_EVERY` apart in a session.
    pub statements: usize,
}

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

impl Sessions {
    /// Opens a session of the operator's.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub async fn open(url: &str, cluster: Uuid) -> Result<Self, BaselineError> {
        const LOOK: &str =
            "-- sessions of a cluster\nselect a.pid, a.query_start::text, a.application_name like '%doorbell'
              from pg_stat_activity a join tendril_core.cluster_credentials c on c.role_name = a.usename
             where c.cluster_id = $1 and a.query_start is not null";
        let client = connect(url).await?;
        let look = client.prepare(LOOK).await?;
        Ok(Self { client, look, cluster })
    }

    /// Watches them for so long.
    ///
    /// # Errors
    /// The session ended.
    pub async fn watch(&mut self, lasts: Duration) -> Result<Watched, BaselineError> {
        let mut seen: BTreeMap<i32, String> = BTreeMap::new();
        let mut watched = Watched { deaf: 0, statements: 0 };
        let end = Instant::now() + lasts;
        let mut first = true;
        while Instant::now() < end {
            let rows = self.client.query(&self.look, &[&self.cluster]).await?;
            let mut deaf = 0;
            for row in &rows {
                let (pid, begun): (i32, String) = (row.try_get(0)?, row.try_get(1)?);
                deaf += usize::from(!row.try_get::<_, bool>(2)?);
                let before = seen.insert(pid, begun.clone());
                watched.statements += usize::from(!first && before.as_ref() != Some(&begun));
            }
            (watched.deaf, first) = (watched.deaf.max(deaf), false);
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(watched)
    }
}

/// A queue of one table, without states, attempts or owners: a message is hidden while somebody has it, and deleted when
/// they are done with it.
pub struct PlainQueue {
    client: Client,
    read: Statement,
    delete: Statement,
}

impl PlainQueue {
    /// Makes the table anew, with so many messages.
    ///
    /// # Errors
    /// The server refused.
    pub async fn fill(url: &str, messages: u64) -> Result<(), BaselineError> {
        const TABLE: &str = "-- plain queue\ncreate schema if not exists bare; drop table if exists bare.messages;
            create table bare.messages (id bigint generated always as identity primary key, reads int not null default 0,
              hidden_until timestamptz not null default clock_timestamp(), message jsonb not null) with (fillfactor = 80);
            create index on bare.messages (hidden_until)";
        const FILL: &str = "-- plain messages\ninsert into bare.messages (message)
            select jsonb_build_object('argv', jsonb_build_array('true'), 'number', n) from generate_series(1, $1::bigint) n";
        let client = connect(url).await?;
        client.batch_execute(TABLE).await?;
        client.execute(FILL, &[&i64::try_from(messages).unwrap_or(i64::MAX)]).await?;
        client.batch_execute("-- tidy up\nvacuum (analyze) bare.messages").await?;
        Ok(())
    }

    /// Opens a session that reads and deletes.
    ///
    /// # Errors
    /// The server cannot be reached, or has no such table.
    pub async fn open(url: &str) -> Result<Self, BaselineError> {
        const READ: &str = "-- plain read\nwith taken as (
              select id from bare.messages where hidden_until <= clock_timestamp() order by id limit $1 for update skip locked)
            update bare.messages m set hidden_until = clock_timestamp() + interval '30 s', reads = m.reads + 1
              from taken t where m.id = t.id returning m.id, m.message";
        const DELETE: &str = "-- plain delete\ndelete from bare.messages where id = any ($1)";
        let client = connect(url).await?;
        let (read, delete) = (client.prepare(READ).await?, client.prepare(DELETE).await?);
        Ok(Self { client, read, delete })
    }

    /// Takes up to so many messages, and deletes them by another commit; returns how many it were.
    ///
    /// # Errors
    /// The session ended.
    pub async fn turn(&self, most: i64) -> Result<usize, BaselineError> {
        let rows = self.client.query(&self.read, &[&most]).await?;
        let ids = rows.iter().map(|row| row.try_get(0)).collect::<Result<Vec<i64>, _>>()?;
        if !ids.is_empty() {
            self.client.execute(&self.delete, &[&ids]).await?;
        }
        Ok(ids.len())
    }
}
