//! A broker that serves, a runner that works, and one that is lost in the middle of a change.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use tempfile::TempDir;
use tendril_broker::operator::clusters::IssuedCredential;
use tendril_broker::operator::grants::Scope;
use tendril_broker::portal::submission::{Submission, submit};
use tendril_broker::runner::{Broker, Registration};
use tendril_broker::testing::{TestDatabase, run};
use tendril_broker::token::AgentToken;
use tendril_broker::{Address, connect};
use tokio::process::{Child, Command};
use uuid::Uuid;

/// Real processes around a database of their own.
pub struct Fleet {
    database: TestDatabase,
    cluster: IssuedCredential,
    portal: Address,
    folder: TempDir,
    submitted: AtomicU64,
    /// Where the broker answers.
    pub broker_at: String,
    /// Where the runner answers.
    pub runner_at: String,
    programs: Vec<Child>,
}

/// A free address, as far as one can know.
pub fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// A program of this build.
fn beside(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let path = own.parent().and_then(Path::parent).unwrap().join(name);
    assert!(path.is_file(), "{} is not built: cargo build -p tendril-broker -p tendril-runner", path.display());
    path
}

fn start(command: &mut Command, log: &Path) -> Child {
    let log = std::fs::File::create(log).unwrap();
    command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).kill_on_drop(true);
    command.spawn().unwrap()
}

impl Fleet {
    /// Starts everything.
    pub async fn start() -> Self {
        let database = TestDatabase::create().await;
        let mut operator = database.operator().await;
        // A loss is known within seconds.
        run(&mut operator, "update tendril_core.settings set lease_ttl = '5 s', heartbeat_interval = '500 ms'").await;
        let cluster = database.cluster("acme").await;
        let portal = database.portal(Scope::All).await.url.parse().unwrap();
        let (folder, broker_at, runner_at) = (tempfile::tempdir().unwrap(), free_address(), free_address());
        let submitted = AtomicU64::new(0);
        let mut fleet =
            Self { database, cluster, portal, folder, submitted, broker_at, runner_at, programs: Vec::new() };
        let (broker, runner) = (fleet.broker(), fleet.runner().await);
        fleet.programs.extend([broker, runner]);
        fleet.lose_a_runner().await;
        fleet
    }

    fn broker(&self) -> Child {
        let mut command = Command::new(beside("tendril-broker"));
        command.args(["serve", "--listen", &self.broker_at]).env("TENDRIL_DATABASE_URL", self.database.url());
        start(&mut command, &self.folder.path().join("broker.log"))
    }

    async fn runner(&self) -> Child {
        let (program, folder) = (beside("tendril-runner"), self.folder.path());
        let key = Command::new(&program).arg("artifact-key").output().await.unwrap().stdout;
        std::fs::write(folder.join("key"), key).unwrap();
        let config = format!(
            "artifact_key_file = {:?}\nstate_dir = {:?}\nslots = 4\nkinds = [\"exec\"]\n[http]\nlisten = {:?}\n[sandbox]\nmode = \"best-effort\"\n",
            folder.join("key"),
            folder.join("state"),
            self.runner_at
        );
        std::fs::write(folder.join("runner.toml"), config).unwrap();
        let mut command = Command::new(program);
        command.arg("--config").arg(folder.join("runner.toml"));
        command.env("TENDRIL_DATABASE_URL", self.address()).env("TENDRIL_AGENT_TOKEN", self.cluster.token.reveal());
        start(&mut command, &folder.join("runner.log"))
    }

    /// The database, without a login.
    fn address(&self) -> String {
        format!("postgres://{}", self.database.url().rsplit_once('@').unwrap().1)
    }

    /// One that claims a change, starts it, and is not heard again.
    async fn lose_a_runner(&self) {
        self.deploy(json!({"labels": ["doomed"], "jobs": [{"name": "change", "kind": "exec", "argv": ["true"]}]}))
            .await;
        let token: AgentToken = self.cluster.token.reveal().parse().unwrap();
        let connector = connect::Address::parse(&self.address()).unwrap().connector(&token).unwrap();
        let broker = Broker::new(connector, Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_0020), 1).unwrap();
        let registration = Registration {
            name: "doomed".into(),
            version: "0".into(),
            place: None,
            labels: vec!["kind=exec".into(), "doomed".into()],
            slots: 1,
            log_writer: Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0000_0021),
        };
        broker.register(&registration).await.unwrap();
        let claimed = broker.claim(1, 1).await.unwrap();
        broker.start(&claimed[0].lease).await.unwrap();
    }

    async fn deploy(&self, snapshot: Value) {
        let mut session = self.portal.connect("test").await.unwrap();
        let number = self.submitted.fetch_add(1, Ordering::Relaxed);
        let id = Uuid::from_u128(0x0198_0000_0000_7000_8000_0000_0001_0000 + u128::from(number));
        let submission = Submission { id, cluster: self.cluster.id, snapshot };
        submit(&mut session, &submission).await.unwrap();
    }

    /// A little of everything: what succeeds, fails for good, waits for an approval, a need, a moment, or a limit.
    pub async fn submit(&self) {
        let say = |name: &str| json!({"name": name, "kind": "exec", "argv": ["/bin/sh", "-c", "echo said; echo more"]});
        let mut second = say("second");
        second["needs"] = json!(["first"]);
        self.deploy(json!({"jobs": [say("first"), second]})).await;
        let fails = json!({"name": "fails", "kind": "exec", "argv": ["/bin/false"], "reading": true, "limits": {"max_attempts": 1}});
        self.deploy(json!({"jobs": [fails]})).await;
        let mut asks = say("asks");
        asks["approval"] = json!("required");
        self.deploy(json!({"jobs": [asks]})).await;
        let later = format!(
            "insert into tendril.deployments (cluster_id, config_snapshot) select '{}', '{}'::jsonb || jsonb_build_object('run_after', \
             to_char(clock_timestamp() at time zone 'UTC' + interval '1 day', 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"'))",
            self.cluster.id,
            json!({"jobs": [say("later")]})
        );
        run(&mut self.database.operator().await, &later).await;
        self.deploy(json!({"labels": ["nobody"], "jobs": [say("first")]})).await;
    }

    /// What broker and runner have said, for somebody who wonders.
    pub fn said(&self) -> String {
        ["broker.log", "runner.log"]
            .map(|name| std::fs::read_to_string(self.folder.path().join(name)).unwrap_or_default())
            .join("\n")
    }
}
