//! A database with a cluster, the API in front of it, tokens, and a runner that does what real ones do.

use std::sync::atomic::{AtomicU64, Ordering};

use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tendril_api::{config::Config, process};
use tendril_broker::connect::Address;
use tendril_broker::operator::clusters::IssuedCredential;
use tendril_broker::operator::grants::Scope;
use tendril_broker::operator::tokens::{self, Issue, Reach};
use tendril_broker::portal::api_token::ApiToken;
use tendril_broker::runner::{Broker, Claimed, LogRow, LogWriter, Outcome, Registration, Report, Written};
use tendril_broker::testing::{TestDatabase, TestPortal};
use time::OffsetDateTime;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub const ALL: [&str; 5] = ["read", "logs", "submit", "cancel", "approve"];

pub struct Service {
    pub database: TestDatabase,
    pub cluster: IssuedCredential,
    pub portal: TestPortal,
    pub base: String,
    pub client: Client,
    pub stop: CancellationToken,
    pub task: JoinHandle<anyhow::Result<()>>,
}

pub fn id() -> Uuid {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = (u128::from(std::process::id()) << 64) + u128::from(NEXT.fetch_add(1, Ordering::Relaxed));
    Uuid::new_v5(&Uuid::NAMESPACE_URL, &n.to_be_bytes())
}

pub fn exec() -> Value {
    json!({"jobs": [{"name": "a", "kind": "exec", "argv": ["true"], "reading": true}]})
}

impl Service {
    pub async fn new() -> Self {
        Self::with("").await
    }

    /// With more settings than where the database is.
    pub async fn with(settings: &str) -> Self {
        let database = TestDatabase::create().await;
        let cluster = database.cluster("one").await;
        let portal = database.portal(Scope::Tokens).await;
        let (base, stop, task) = serve(&portal.url, settings).await;
        Self { database, cluster, portal, base, client: Client::new(), stop, task }
    }

    pub async fn token(&self, scopes: &[&str], reach: Reach) -> String {
        self.token_of(scopes, reach, None).await
    }

    pub async fn token_of(&self, scopes: &[&str], reach: Reach, user: Option<&str>) -> String {
        let token = ApiToken::generate().unwrap();
        let issue = Issue {
            name: format!("t-{}", id().simple()),
            hash: token.hash(),
            scopes: scopes.iter().map(|scope| (*scope).to_owned()).collect(),
            reach,
            user_id: user.map(str::to_owned),
            expires_in: None,
        };
        tokens::create(&mut self.database.operator().await, &issue).await.unwrap();
        token.reveal().to_owned()
    }

    /// A token that may do all in all clusters.
    pub async fn master(&self) -> String {
        self.token(&ALL, Reach::All).await
    }

    pub fn request(&self, method: Method, path: &str, token: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.base)).bearer_auth(token)
    }

    pub async fn get(&self, path: &str, token: &str) -> (StatusCode, Value) {
        read(self.request(Method::GET, path, token).send().await.unwrap()).await
    }

    pub async fn post(&self, path: &str, token: &str, body: &Value) -> (StatusCode, Value) {
        read(self.request(Method::POST, path, token).json(body).send().await.unwrap()).await
    }

    pub async fn submit(&self, token: &str, key: Uuid, snapshot: &Value) -> (StatusCode, Value) {
        let body = json!({"cluster_id": self.cluster.id, "config_snapshot": snapshot});
        let request = self.request(Method::POST, "/api/deployments", token).header("Idempotency-Key", key.to_string());
        read(request.json(&body).send().await.unwrap()).await
    }

    /// Submits and returns the id.
    pub async fn deploy(&self, token: &str) -> Uuid {
        let (status, reply) = self.submit(token, id(), &exec()).await;
        assert_eq!(status, StatusCode::CREATED, "{reply}");
        reply["id"].as_str().unwrap().parse().unwrap()
    }

    /// Submits and has a runner of the cluster claim it.
    pub async fn running(&self, token: &str) -> (Hand, Claimed) {
        self.deploy(token).await;
        let mut hand = Hand::new(self).await;
        let claimed = hand.claim().await;
        (hand, claimed)
    }

    /// Ends the API and waits until it has.
    pub async fn end(self) -> TestDatabase {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
        self.database
    }
}

/// An API on a port of its own.
pub async fn serve(url: &str, settings: &str) -> (String, CancellationToken, JoinHandle<anyhow::Result<()>>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.toml");
    std::fs::write(&path, format!("database_url = \"{url}\"\n{settings}\n")).unwrap();
    let config = Config::load(Some(&path), &|_| None).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let stop = CancellationToken::new();
    (base, stop.clone(), tokio::spawn(process::run(config, listener, stop)))
}

/// Status and body; a body that is no JSON is text.
pub async fn read(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

/// A runner.
pub struct Hand {
    broker: Broker,
    writer: LogWriter,
    claims: i64,
}

impl Hand {
    pub async fn new(service: &Service) -> Self {
        let token = service.cluster.token.reveal();
        let url = service.database.runner_url(token);
        let (_, server) = url.rsplit_once('@').unwrap();
        let address = Address::parse(&format!("postgres://{server}")).unwrap();
        let connector = address.connector(&token.parse().unwrap()).unwrap();
        let (runner, log_writer) = (id(), id());
        let broker = Broker::new(connector.clone(), runner, 2).unwrap();
        let labels = vec!["kind=exec".to_owned()];
        let (name, version) = ("hand".to_owned(), "0".to_owned());
        broker.register(&Registration { name, version, place: None, labels, slots: 8, log_writer }).await.unwrap();
        let writer = LogWriter::take_over(&connector, log_writer).await.unwrap();
        Self { broker, writer, claims: 0 }
    }

    pub async fn claim(&mut self) -> Claimed {
        self.claims += 1;
        let mut claimed = self.broker.claim(self.claims, 1).await.unwrap();
        assert_eq!(claimed.len(), 1, "one job is there to be claimed");
        claimed.remove(0)
    }

    /// Stores records `from..to`, a chunk each, in one batch.
    pub async fn print(&mut self, of: &Claimed, from: i64, to: i64) {
        let texts: Vec<String> = (from..to).map(|seq| format!("line {seq}\n")).collect();
        self.print_texts(of, from, &texts).await;
    }

    pub async fn print_texts(&mut self, of: &Claimed, from: i64, texts: &[String]) {
        let row = |(seq, text)| LogRow {
            deployment_id: of.deployment_id,
            lease: of.lease,
            claim_day: of.claim_day,
            job: &of.job,
            attempt: of.ordinal,
            seq,
            seq_to: seq,
            stream: "stdout",
            text,
            ts: OffsetDateTime::UNIX_EPOCH,
            gap_kind: None,
            gap_bytes: None,
        };
        let rows: Vec<LogRow<'_>> = (from..).zip(texts.iter().map(String::as_str)).map(row).collect();
        let written = self.writer.write(&rows, std::time::Duration::from_secs(30)).await.unwrap();
        assert_eq!(written, Written::Stored);
    }

    /// Ends it with this last record.
    pub async fn finish(&self, of: &Claimed, log_end: i64) {
        let report = Report {
            outcome: Outcome::Success,
            log_end,
            child_dead: true,
            error: None,
            permanent: false,
            result: Value::Null,
            commands: Value::Null,
        };
        self.broker.finish(&of.lease, &report).await.unwrap();
    }

    pub async fn leave_artifact(&self, of: &Claimed, name: &str, data: &[u8]) {
        self.broker.put_artifact(&of.lease, name, "application/octet-stream", data).await.unwrap();
    }
}
