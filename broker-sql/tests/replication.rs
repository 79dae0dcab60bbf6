//! `deployments` as a source of logical replication: what Debezium, Supabase Realtime and the like get to see.
//!
//! Needs `TENDRIL_TEST_SUPERUSER_URL` of a server with `wal_level = logical`: only a superuser, or whom a managed server
//! makes one's equal, lets a role read slots.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here, and says where")]

use std::collections::BTreeMap;

use serde_json::{Value, json};
use sqlx::postgres::{PgConnection, PgDatabaseError};
use sqlx::{Connection, Row};
use tendril_broker::operator::grants::Scope;
use tendril_broker::testing::{TestDatabase, run};
use uuid::Uuid;

/// A database with one cluster, a portal, and a slot that decodes what happens from now on.
struct Source {
    database: TestDatabase,
    cluster: Uuid,
    portal: PgConnection,
    reader: PgConnection,
}

impl Source {
    /// `None`, said loudly, when the server cannot do it.
    async fn open(plugin: &str) -> Option<Self> {
        let Ok(superuser) = std::env::var("TENDRIL_TEST_SUPERUSER_URL") else {
            skip("TENDRIL_TEST_SUPERUSER_URL is not set");
            return None;
        };
        let database = TestDatabase::create().await;
        let cluster = database.cluster("replicated").await.id;
        let portal = PgConnection::connect(&database.portal(Scope::All).await.url).await.unwrap();
        // The owner of the schema may publish its own table; no superuser is needed for that.
        run(&mut database.operator().await, "create publication watched for table tendril.deployments").await;
        // Who reads a slot needs this one attribute, and no right to any table.
        let role = database.login_role().await;
        let mut superuser = PgConnection::connect(&superuser).await.unwrap();
        run(&mut superuser, &format!("alter role {} replication", role.role)).await;
        let mut reader = PgConnection::connect(&role.url).await.unwrap();
        // Names of slots are the server's. It goes with its database.
        let slot = sqlx::query("select pg_create_logical_replication_slot($1, $2)").bind(database.name().to_owned());
        if let Err(error) = slot.bind(plugin).execute(&mut reader).await {
            let refusal = error.as_database_error().unwrap().downcast_ref::<PgDatabaseError>();
            // 58P01: the server has no such library. Only Debian's packages ship wal2json.
            assert_eq!(refusal.code(), "58P01", "{refusal}");
            skip(&format!("the server has no {plugin}"));
            return None;
        }
        Some(Self { database, cluster, portal, reader })
    }

    /// Submits, as a portal does; the snapshot is too large to be stored in the row itself.
    async fn submit(&mut self) -> (Uuid, Value) {
        let noise: String = (1..500_u64).map(|n| format!("{:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
        let snapshot = json!({"jobs": [{"name": "a", "kind": "exec", "argv": ["true", noise]}]});
        let insert = "insert into tendril.deployments (cluster_id, config_snapshot) values ($1, $2) returning id";
        let submitted = sqlx::query_scalar(insert).bind(self.cluster).bind(&snapshot).fetch_one(&mut self.portal);
        (submitted.await.unwrap(), snapshot)
    }

    async fn cancel(&mut self, deployment: Uuid) {
        sqlx::query("select tendril.cancel($1)").bind(deployment).execute(&mut self.portal).await.unwrap();
    }

    /// Has updates carry the old row, too: the operator's choice, since it makes each of them larger.
    async fn keep_old_rows(&self) {
        run(&mut self.database.operator().await, "alter table tendril.deployments replica identity full").await;
    }

    /// What wal2json has decoded since the last call.
    async fn wal2json(&mut self) -> Vec<Value> {
        let read = "select data from pg_logical_slot_get_changes($1, null, null, 'format-version', '2', \
                    'add-tables', 'tendril.deployments', 'include-transaction', 'false')";
        let rows =
            sqlx::query_scalar::<_, String>(read).bind(self.database.name()).fetch_all(&mut self.reader).await.unwrap();
        rows.iter().map(|row| serde_json::from_str(row).unwrap()).collect()
    }

    /// What pgoutput has decoded since the last call.
    async fn pgoutput(&mut self) -> Vec<Change> {
        let read = "select data from pg_logical_slot_get_binary_changes($1, null, null, 'proto_version', '1', \
                    'publication_names', 'watched')";
        let rows = sqlx::query(read).bind(self.database.name()).fetch_all(&mut self.reader).await.unwrap();
        let mut columns = Vec::new();
        let messages = rows.iter().map(|row| row.get::<Vec<u8>, _>(0));
        messages.filter_map(|message| Message(&message).read(&mut columns)).collect()
    }
}

fn skip(why: &str) {
    let expected = std::env::var("TENDRIL_TEST_POSTGRES_MAJOR").as_deref() == Ok("15");
    assert!(!(expected && std::env::var("CI").as_deref() == Ok("true")), "{why}, and CI needs it");
    eprintln!("SKIPPED: {why}");
}

/// A row by column. `None` is NULL; a value that was left out because it did not change is not there at all.
type Tuple = BTreeMap<String, Option<String>>;

#[derive(Debug)]
struct Change {
    old: Option<Tuple>,
    new: Tuple,
}

/// A message of pgoutput, protocol version 1.
struct Message<'a>(&'a [u8]);

impl<'a> Message<'a> {
    fn read(&mut self, columns: &mut Vec<String>) -> Option<Change> {
        match self.byte() {
            b'R' => *columns = self.relation(),
            b'I' => {
                assert_eq!((self.number(4), self.byte()).1, b'N');
                return Some(Change { old: None, new: self.tuple(columns) });
            }
            b'U' => {
                self.number(4);
                let (mut kind, mut old) = (self.byte(), None);
                if kind != b'N' {
                    old = Some(self.tuple(columns));
                    kind = self.byte();
                }
                assert_eq!(kind, b'N');
                return Some(Change { old, new: self.tuple(columns) });
            }
            b'B' | b'C' | b'Y' => {}
            other => panic!("a message {:?} was not expected", char::from(other)),
        }
        None
    }

    fn relation(&mut self) -> Vec<String> {
        self.number(4);
        assert_eq!((self.text(), self.text()), ("tendril".into(), "deployments".into()));
        self.byte();
        let count = self.number(2);
        let column = |_| {
            self.byte();
            let name = self.text();
            self.number(8);
            name
        };
        (0..count).map(column).collect()
    }

    fn tuple(&mut self, columns: &[String]) -> Tuple {
        assert_eq!(self.number(2), columns.len());
        let mut tuple = Tuple::new();
        for column in columns {
            let value = match self.byte() {
                b'n' => None,
                b't' => {
                    let length = self.number(4);
                    Some(String::from_utf8(self.take(length).to_vec()).unwrap())
                }
                _ => continue,
            };
            tuple.insert(column.clone(), value);
        }
        tuple
    }

    fn take(&mut self, count: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(count);
        self.0 = rest;
        taken
    }

    fn byte(&mut self) -> u8 {
        self.take(1)[0]
    }

    fn number(&mut self, bytes: usize) -> usize {
        self.take(bytes).iter().fold(0, |number, byte| number << 8 | usize::from(*byte))
    }

    fn text(&mut self) -> String {
        let end = self.0.iter().position(|byte| *byte == 0).unwrap();
        let text = String::from_utf8(self.take(end).to_vec()).unwrap();
        self.byte();
        text
    }
}

fn is(tuple: &Tuple, column: &str, value: &str) -> bool {
    tuple[column].as_deref() == Some(value)
}

#[tokio::test]
async fn pgoutput_shows_a_submit_and_what_becomes_of_it() {
    let Some(mut source) = Source::open("pgoutput").await else { return };
    let (id, snapshot) = source.submit().await;
    let inserted = source.pgoutput().await;
    let [change] = inserted.as_slice() else { panic!("{inserted:?}") };
    assert!(is(&change.new, "id", &id.to_string()) && is(&change.new, "status", "QUEUED"));
    let sent: Value = serde_json::from_str(change.new["config_snapshot"].as_deref().unwrap()).unwrap();
    assert_eq!(sent, snapshot);

    source.cancel(id).await;
    let updated = source.pgoutput().await;
    let last = updated.last().unwrap();
    assert!(is(&last.new, "id", &id.to_string()) && is(&last.new, "status", "CANCELLED"));
    assert!(last.new["ended_at"].is_some());
    // Cheap by default: neither the old row nor a snapshot that cannot have changed is sent along.
    assert!(updated.iter().all(|change| change.old.is_none() && !change.new.contains_key("config_snapshot")));
}

#[tokio::test]
async fn pgoutput_shows_old_values_when_the_operator_asks_for_them() {
    let Some(mut source) = Source::open("pgoutput").await else { return };
    source.keep_old_rows().await;
    let (id, _) = source.submit().await;
    source.cancel(id).await;
    let changes = source.pgoutput().await;
    let ended = changes.iter().find(|change| is(&change.new, "status", "CANCELLED")).unwrap();
    let old = ended.old.as_ref().unwrap();
    assert!(is(old, "status", "QUEUED") && is(old, "id", &id.to_string()));
    assert!(old["ended_at"].is_none() && old["config_snapshot"].is_some());
}

/// The value of a column in one of wal2json's lists.
fn column<'a>(change: &'a Value, list: &str, name: &str) -> Option<&'a Value> {
    let columns = change[list].as_array().unwrap().iter();
    columns.filter(|column| column["name"] == name).map(|column| &column["value"]).next()
}

#[tokio::test]
async fn wal2json_shows_a_submit_and_what_becomes_of_it() {
    let Some(mut source) = Source::open("wal2json").await else { return };
    let (id, snapshot) = source.submit().await;
    let inserted = source.wal2json().await;
    let [change] = inserted.as_slice() else { panic!("{inserted:?}") };
    assert_eq!(
        (&change["action"], &change["schema"], &change["table"]),
        (&json!("I"), &json!("tendril"), &json!("deployments"))
    );
    assert_eq!(column(change, "columns", "id"), Some(&json!(id)));
    assert_eq!(column(change, "columns", "status"), Some(&json!("QUEUED")));
    let sent = column(change, "columns", "config_snapshot").and_then(Value::as_str).unwrap();
    assert_eq!(serde_json::from_str::<Value>(sent).unwrap(), snapshot);

    source.cancel(id).await;
    let updated = source.wal2json().await;
    let last = updated.last().unwrap();
    assert_eq!(last["action"], "U");
    assert_eq!(column(last, "columns", "status"), Some(&json!("CANCELLED")));
    // By default the old row is told by its key alone.
    assert_eq!(last["identity"], json!([{"name": "id", "type": "uuid", "value": id}]));
    assert_eq!(column(last, "columns", "config_snapshot"), None);
}

#[tokio::test]
async fn wal2json_shows_old_values_when_the_operator_asks_for_them() {
    let Some(mut source) = Source::open("wal2json").await else { return };
    source.keep_old_rows().await;
    let (id, _) = source.submit().await;
    source.cancel(id).await;
    let changes = source.wal2json().await;
    let cancelled = |change: &&Value| column(change, "columns", "status") == Some(&json!("CANCELLED"));
    let ended = changes.iter().find(cancelled).unwrap();
    assert_eq!(column(ended, "identity", "status"), Some(&json!("QUEUED")));
    assert_eq!(column(ended, "identity", "id"), Some(&json!(id)));
}
