//! `deployments` and `live_logs` as a source of logical replication: what Debezium, Supabase Realtime and the like get to see.
//!
//! Needs `TENDRIL_TEST_SUPERUSER_URL` of a server with `wal_level = logical`: only a superuser, or whom a managed server
//! makes one's equal, lets a role read slots.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails here, and says where")]

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use sqlx::postgres::{PgConnection, PgDatabaseError};
use sqlx::types::time::OffsetDateTime;
use sqlx::{Connection, Row};
use tendril_broker::connect::Address;
use tendril_broker::operator::grants::Scope;
use tendril_broker::runner::{Broker, Claimed, LogRow, LogWriter, Registration, Written};
use tendril_broker::testing::{TestDatabase, run};
use tendril_broker::token::AgentToken;
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
        self.wal2json_of("tendril.deployments").await
    }

    async fn wal2json_of(&mut self, table: &str) -> Vec<Value> {
        let read = "select data from pg_logical_slot_get_changes($1, null, null, 'format-version', '2', \
                    'add-tables', $2, 'include-transaction', 'false')";
        let rows = sqlx::query_scalar::<_, String>(read).bind(self.database.name()).bind(table);
        let rows = rows.fetch_all(&mut self.reader).await.unwrap();
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

/// A customer behind Supabase: a cluster, a user, and a runner that prints.
struct Customer {
    user: Uuid,
    broker: Broker,
    logs: LogWriter,
    claimed: Claimed,
}

impl Customer {
    /// Submits a job as the portal's user, and has a runner claim it.
    async fn open(database: &TestDatabase, name: &str) -> Self {
        let (user, writer) =
            (Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes()), Uuid::new_v5(&Uuid::NAMESPACE_URL, name.as_bytes()));
        let mut operator = database.operator().await;
        let made: Value = sqlx::query_scalar("select to_jsonb(c) from tendril.cluster_create($1, $2) c")
            .bind(name)
            .bind(user.to_string())
            .fetch_one(&mut operator)
            .await
            .unwrap();
        let token: AgentToken = made["token"].as_str().unwrap().parse().unwrap();
        let submit = sqlx::query("insert into tendril.deployments (cluster_id, config_snapshot) values ($1::uuid, $2)");
        let job = json!({"jobs": [{"name": "a", "kind": "exec", "argv": ["true"], "reading": true}]});
        submit.bind(made["id"].as_str()).bind(job).execute(&mut operator).await.unwrap();
        let url = database.url();
        let (_, place) = url.rsplit_once('@').unwrap();
        let connector = Address::parse(&format!("postgres://{place}")).unwrap().connector(&token).unwrap();
        let broker = Broker::new(connector.clone(), writer, 1).unwrap();
        let (version, labels) = ("0".into(), vec!["kind=exec".into()]);
        let name = name.to_owned();
        let registration = Registration { name, version, place: None, labels, slots: 1, log_writer: writer };
        broker.register(&registration).await.unwrap();
        let claimed = broker.claim(1, 1).await.unwrap().remove(0);
        let logs = LogWriter::take_over(&connector, writer).await.unwrap();
        Self { user, broker, logs, claimed }
    }

    async fn print(&mut self, seq: i64, text: &str) {
        let row = LogRow {
            deployment_id: self.claimed.deployment_id,
            lease: self.claimed.lease,
            claim_day: self.claimed.claim_day,
            job: &self.claimed.job,
            attempt: self.claimed.ordinal,
            seq,
            seq_to: seq,
            stream: "stdout",
            text,
            ts: OffsetDateTime::UNIX_EPOCH,
            gap_kind: None,
            gap_bytes: None,
        };
        assert_eq!(self.logs.write(&[row], Duration::from_secs(10)).await.unwrap(), Written::Stored);
    }
}

/// What Realtime passes on to a subscriber: of each inserted row it asks, as the subscriber's role and with its claims,
/// whether the row is there; of a deleted one it passes on the key.
async fn passed_on(session: &mut PgConnection, role: &str, user: Uuid, changes: &[Value]) -> Vec<String> {
    let mut passed = Vec::new();
    for change in changes.iter().filter(|change| change["action"] == "I") {
        let id = column(change, "columns", "id").and_then(Value::as_i64).unwrap();
        let mut asking = session.begin().await.unwrap();
        sqlx::query("select set_config('role', $1, true), set_config('request.jwt.claims', $2, true)")
            .bind(role)
            .bind(json!({"sub": user}).to_string())
            .execute(&mut *asking)
            .await
            .unwrap();
        let ask = sqlx::query_scalar("select exists (select from tendril.live_logs where id = $1)").bind(id);
        if ask.fetch_one(&mut *asking).await.unwrap() {
            passed.push(column(change, "columns", "log_chunk").unwrap().as_str().unwrap().to_owned());
        }
        asking.rollback().await.unwrap();
    }
    passed
}

#[tokio::test]
async fn live_log_lines_reach_those_whom_the_policy_shows_them_and_nobody_else() {
    let Some(mut source) = Source::open("wal2json").await else { return };
    let mut operator = source.database.operator().await;
    let user = "create or replace function tendril.portal_user() returns text language sql stable as \
                $$ select nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub' $$";
    run(&mut operator, user).await;
    run(&mut operator, "alter publication watched add table tendril.live_logs").await;
    let role = source.database.portal(Scope::Own).await.role;
    let mut alice = Customer::open(&source.database, "alice").await;
    let mut bob = Customer::open(&source.database, "bob").await;
    // As PostgREST would: each asks to watch what is his own, and is refused what is not.
    let superuser = source.database.superuser_url().unwrap();
    let mut realtime = PgConnection::connect(&superuser).await.unwrap();
    for (who, what, may) in [(&alice, &alice, true), (&bob, &bob, true), (&alice, &bob, false)] {
        let mut asking = realtime.begin().await.unwrap();
        let claims = json!({"sub": who.user}).to_string();
        let set = sqlx::query("select set_config('role', $1, true), set_config('request.jwt.claims', $2, true)");
        set.bind(&role).bind(claims).execute(&mut *asking).await.unwrap();
        let watch = sqlx::query("select tendril.watch_logs($1)").bind(what.claimed.deployment_id);
        assert_eq!(watch.execute(&mut *asking).await.is_ok(), may);
        asking.commit().await.unwrap();
    }
    alice.print(0, "of alice\n").await;
    bob.print(0, "of bob\n").await;
    alice.print(1, &"large\n".repeat(2_000)).await;
    let changes = source.wal2json_of("tendril.live_logs").await;
    assert_eq!(changes.len(), 3, "wal2json names the table, and finds its rows whole");
    let seen = passed_on(&mut realtime, &role, alice.user, &changes).await;
    assert_eq!(seen, ["of alice\n".to_owned(), "large\n".repeat(2_000)]);
    assert_eq!(passed_on(&mut realtime, &role, bob.user, &changes).await, ["of bob\n"]);
    assert!(passed_on(&mut realtime, &role, Uuid::nil(), &changes).await.is_empty());
    // Policies do not hold for deletes: their key must tell nothing.
    run(&mut operator, "update tendril.live_logs set stored_at = stored_at - interval '1 h'").await;
    source.wal2json_of("tendril.live_logs").await;
    source.database.duty("live_logs").await;
    let deleted = source.wal2json_of("tendril.live_logs").await;
    assert_eq!(deleted.len(), 3);
    for change in deleted {
        assert_eq!(change["action"], "D");
        let told: Vec<&Value> = change["identity"].as_array().unwrap().iter().map(|column| &column["name"]).collect();
        assert_eq!(told, ["id"]);
    }
    drop((alice.broker, bob.broker));
}
