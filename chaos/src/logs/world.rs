//! The world of many runs: a private Postgres, `serve`, one runner behind a line of ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use sqlx::postgres::PgConnection;
use tendril_broker::Address;
use tendril_broker::testing::history::{self, Times};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use uuid::Uuid;

use super::figures::Figures;
use super::journal::Journal;
use super::room::Room;
use super::script::{SECRET, SECRET_NAME};
use super::settings::Settings;
use super::shelf::Shelf;
use crate::line::Line;
use crate::processes;
use crate::world::{Program, ServeSeat, Server, beside_this_one, output};

/// Long enough for a line with a round trip of two seconds.
const TIMES: Times = Times { lease_ttl_ms: 15_000, heartbeat_ms: 3000, unknown_grace_ms: 1000 };
const DATABASE: &str = "chaos";
const PORTAL_PASSWORD: &str = "portal";
const RUNNER_LOG: &str = "runner.log";
/// Jobs that the runner takes at once.
pub const SLOTS: u32 = 8;
const DRAIN_PATIENCE: Duration = Duration::from_secs(60);
const DEATH_PATIENCE: Duration = Duration::from_secs(5);
/// How often to look for a session of `serve`.
const SESSION_LOOKS: u32 = 200;
const RETRY: Duration = Duration::from_millis(100);

/// Everything that runs stand on.
pub struct LogWorld {
    /// The database server.
    pub server: Server,
    /// The runner's way to it.
    pub line: Line,
    /// Where portals go, and what they see.
    pub desk: Desk,
    serve: ServeSeat,
    folder: PathBuf,
    token: String,
    key: PathBuf,
    runner: Option<(Settings, Program)>,
    started: usize,
    /// The small disk that log rows are on, once they are.
    pub room: Option<Room>,
    /// The small disk that the journal is on, once it is.
    pub journal: Option<Journal>,
    /// Where logs are archived, once they are.
    pub shelf: Option<Shelf>,
}

/// What it takes to submit, to read, and to say what should be read.
#[derive(Clone)]
pub struct Desk {
    /// Where the portal connects.
    pub portal: Address,
    /// Where the operator does.
    pub operator: Address,
    /// Where jobs go.
    pub cluster: Uuid,
    /// Folder of witnesses.
    pub witness: PathBuf,
    /// This program.
    pub chaos: PathBuf,
    runner: PathBuf,
}

#[derive(Deserialize)]
struct Cluster {
    id: Uuid,
    token: String,
}

impl LogWorld {
    /// Builds it.
    ///
    /// # Errors
    /// What the programs say.
    pub async fn start(folder: &Path) -> anyhow::Result<Self> {
        // Whatever a killed runner leaves behind becomes ours.
        nix::sys::prctl::set_child_subreaper(true)?;
        let server = Server::start(format!("chaos-logs-{}", std::process::id())).await?;
        match Self::settle(folder, &server).await {
            Ok((line, desk, serve, token)) => {
                let key = folder.join("artifact.key");
                let folder = folder.to_owned();
                Ok(Self {
                    server,
                    line,
                    desk,
                    serve,
                    folder,
                    token,
                    key,
                    runner: None,
                    started: 0,
                    room: None,
                    journal: None,
                    shelf: None,
                })
            }
            Err(error) => {
                let _ = server.stop().await;
                Err(error)
            }
        }
    }

    async fn settle(folder: &Path, server: &Server) -> anyhow::Result<(Line, Desk, ServeSeat, String)> {
        let (broker, runner) = (beside_this_one("tendril-broker")?, beside_this_one("tendril-runner")?);
        history::create_database(&server.address()?, DATABASE, PORTAL_PASSWORD).await?;
        let url = server.operator_url(DATABASE);
        let run = async |arguments: &[&str]| output(&broker, arguments, &[("TENDRIL_DATABASE_URL", &url)]).await;
        run(&["migrate"]).await?;
        let operator: Address = url.parse()?;
        history::prepare(&mut operator.connect("tendril-chaos").await?, TIMES).await?;
        run(&["portal", "grant", &format!("{DATABASE}_portal"), "--scope", "all"]).await?;
        let cluster: Cluster = serde_json::from_str(&run(&["cluster", "create", "chaos", "--json"]).await?)?;
        fs::write(folder.join("artifact.key"), output(&runner, &["artifact-key"], &[]).await?)?;
        let witness = folder.join("witness");
        fs::create_dir_all(&witness)?;
        let portal = server.url(Some((&format!("{DATABASE}_portal"), PORTAL_PASSWORD)), DATABASE).parse()?;
        let chaos = std::env::current_exe()?;
        let desk = Desk { portal, operator, cluster: cluster.id, witness, chaos, runner };
        let serve = ServeSeat::start(&broker, folder, 0, &url)?;
        Ok((Line::to(server.place().to_owned()).await?, desk, serve, cluster.token))
    }

    /// Has the runner run with these settings: another process when they are others.
    ///
    /// # Errors
    /// It cannot be started, or the one before did not leave.
    pub async fn set(&mut self, settings: Settings) -> anyhow::Result<()> {
        if self.runner.as_ref().is_some_and(|(now, _)| *now == settings) {
            return Ok(());
        }
        self.drain().await?;
        self.start_runner(settings)
    }

    /// Ends the runner with SIGTERM.
    ///
    /// # Errors
    /// It does not leave, or not well.
    pub async fn drain(&mut self) -> anyhow::Result<()> {
        let Some((_, mut runner)) = self.runner.take() else { return Ok(()) };
        runner.signal(Signal::SIGTERM);
        match runner.wait(DRAIN_PATIENCE).await {
            Some(status) if status.success() => Ok(()),
            end => bail!("the runner did not end well after SIGTERM: {end:?}"),
        }
    }

    /// Kills the runner; returns how it was set.
    ///
    /// # Errors
    /// There is none, or it had ended by itself.
    pub async fn kill_runner(&mut self) -> anyhow::Result<Settings> {
        let (settings, mut runner) = self.runner.take().context("no runner is there")?;
        runner.signal(Signal::SIGKILL);
        let ended = runner.wait(DEATH_PATIENCE).await.context("a runner survived SIGKILL")?;
        if let Some(code) = ended.code() {
            bail!("the runner had ended by itself, with exit code {code}");
        }
        Ok(settings)
    }

    /// Starts one in the folder of the one before.
    ///
    /// # Errors
    /// The system's error.
    pub fn start_runner(&mut self, settings: Settings) -> anyhow::Result<()> {
        let name = format!("runner.{}", self.started);
        self.started += 1;
        let state = self.state_dir(settings);
        fs::create_dir_all(&state)?;
        let config = self.folder.join("runner.toml");
        fs::write(&config, self.toml(settings, &state))?;
        let mut command = match settings.disk_bytes {
            None => Command::new(&self.desk.runner),
            Some(bytes) => on_a_disk_of(bytes, &state, &self.desk.runner),
        };
        command.arg("--config").arg(config).env("TENDRIL_AGENT_TOKEN", &self.token).env("TENDRIL_RUNNER_NAME", &name);
        let runner = Program::start(name, &mut command, &self.folder.join(RUNNER_LOG))?;
        self.runner = Some((settings, runner));
        Ok(())
    }

    /// How a runner's program is told where to go, and as whom.
    pub fn access(&self) -> [(&'static str, String); 2] {
        let url = format!("postgres://127.0.0.1:{}/{DATABASE}", self.line.port);
        [("TENDRIL_DATABASE_URL", url), ("TENDRIL_AGENT_TOKEN", self.token.clone())]
    }

    /// Where the operator connects.
    pub fn operator_url(&self) -> String {
        self.server.operator_url(DATABASE)
    }

    /// The folder of the runner's spool.
    pub fn spool(&self) -> PathBuf {
        self.state_dir(Settings::default()).join("spool").join(self.desk.cluster.simple().to_string())
    }

    /// What the runner that is there now says of its logs.
    ///
    /// # Errors
    /// It does not say.
    pub async fn figures(&self) -> anyhow::Result<Figures> {
        Figures::of(&self.folder.join(RUNNER_LOG)).await
    }

    fn state_dir(&self, settings: Settings) -> PathBuf {
        self.folder.join(if settings.disk_bytes.is_some() { "disk" } else { "runner" })
    }

    fn toml(&self, settings: Settings, state: &Path) -> String {
        let text = |path: &Path| format!("{:?}", path.display().to_string());
        format!(
            "database_url = \"postgres://127.0.0.1:{}/{DATABASE}\"\nartifact_key_file = {}\nstate_dir = {}\nslots = {SLOTS}\n\
             kinds = [\"exec\"]\n\n[tools]\nenv = {{ {SECRET_NAME} = {SECRET:?} }}\n\n[logs]\nredact_env = [{SECRET_NAME:?}]\n\
             flush_interval_ms = 200\nspool_bytes = {}\nmemory_bytes = {}\nstall_s = {}\ncap_bytes = {}\ncap_tail_bytes = {}\n\n[sandbox]\nread = [\"/proc\"]\nwrite = [{}]\n\n[http]\nlisten = \"127.0.0.1:0\"\n",
            self.line.port,
            text(&self.key),
            text(state),
            settings.spool_bytes,
            settings.memory_bytes,
            settings.stall_s,
            settings.cap_bytes,
            settings.cap_tail_bytes,
            text(&self.folder),
        )
    }

    /// Puts the log rows on a small disk; false where that cannot be.
    ///
    /// # Errors
    /// It should have been possible, and was not.
    pub async fn keep_logs_on_a_small_disk(&mut self) -> anyhow::Result<bool> {
        if self.room.is_none() && Room::can_be() {
            let room = Room::new("room", self.backend().await?).await?;
            history::keep_logs_at(&mut self.superuser()?.connect("tendril-chaos").await?, &room.folder()).await?;
            self.room = Some(room);
        }
        Ok(self.room.is_some())
    }

    /// Puts the journal on a small disk; false where that cannot be.
    ///
    /// # Errors
    /// It should have been possible, and was not.
    pub async fn keep_journal_on_a_small_disk(&mut self) -> anyhow::Result<bool> {
        if self.journal.is_none() && Room::can_be() {
            let backend = self.backend().await?;
            // Where a server works is where its data are.
            let data = fs::read_link(format!("/proc/{backend}/cwd"))?;
            let room = Room::new("journal", backend).await?;
            history::keep_journal_small(&mut self.superuser()?.connect("tendril-chaos").await?).await?;
            self.server.crash().await?;
            self.journal = Some(Journal::move_to(room, &data).await?);
            self.server.resume().await?;
        }
        Ok(self.journal.is_some())
    }

    /// A process of the server.
    async fn backend(&self) -> anyhow::Result<i32> {
        let mut operator = self.desk.operator().await?;
        for _ in 0..SESSION_LOOKS {
            if let Some(session) = history::sessions(&mut operator).await?.first() {
                return Ok(session.pid);
            }
            // It has just been started.
            tokio::time::sleep(RETRY).await;
        }
        bail!("serve has no session")
    }

    /// A superuser's way to the database.
    ///
    /// # Errors
    /// A URL that is none.
    pub fn superuser(&self) -> anyhow::Result<Address> {
        Ok(self.server.superuser_url(DATABASE).parse()?)
    }

    /// Has logs archived in a bucket, by two replicas of `serve`.
    ///
    /// # Errors
    /// The system's error.
    pub async fn keep_logs_in_a_bucket(&mut self) -> anyhow::Result<()> {
        if self.shelf.is_none() {
            self.shelf = Some(Shelf::start(&self.folder, &self.serve).await?);
        }
        Ok(())
    }

    /// Ends everything, whatever state it is in. Only processes that descend from this one are ended.
    pub async fn stop(mut self) {
        self.runner = None;
        self.serve.process.lock().await.signal(Signal::SIGKILL);
        for process in processes::descendants().iter().filter(|process| !process.dead) {
            let _ = kill(Pid::from_raw(process.identity.pid), Signal::SIGKILL);
        }
        if let Err(error) = self.server.stop().await {
            eprintln!("the server was not stopped: {error:#}");
        }
        for room in [self.room, self.journal.map(|journal| journal.room)].into_iter().flatten() {
            room.remove().await;
        }
    }
}

/// In a mount namespace of its own, which goes with it; where we are not root also in a user namespace.
fn on_a_disk_of(bytes: u64, folder: &Path, program: &Path) -> Command {
    let mut command = Command::new("unshare");
    if !nix::unistd::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.args(["--mount", "sh", "-c", r#"mount -t tmpfs -o "size=$0" tendril "$1" && shift && exec "$@""#]);
    command.arg(bytes.to_string()).arg(folder).arg(program);
    command
}

/// Whether a program can have a disk of its own here.
pub async fn can_mount(folder: &Path) -> bool {
    let mut tried = on_a_disk_of(1 << 20, folder, Path::new("true"));
    tried.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    tried.status().await.is_ok_and(|status| status.success())
}

impl Desk {
    /// A session of the operator, also while the server is just coming up.
    ///
    /// # Errors
    /// What waiting does not mend.
    pub async fn operator(&self) -> anyhow::Result<PgConnection> {
        connected(&self.operator).await
    }

    /// A session of the portal, also while the server is just coming up.
    ///
    /// # Errors
    /// What waiting does not mend.
    pub async fn portal(&self) -> anyhow::Result<PgConnection> {
        connected(&self.portal).await
    }

    /// What has to be stored of these bytes, as the documented function says.
    ///
    /// # Errors
    /// The program fails.
    pub async fn stored_text(&self, printed: &[u8]) -> anyhow::Result<String> {
        let mut command = Command::new(&self.runner);
        command
            .args(["log-text", "--secret", SECRET_NAME])
            .env(SECRET_NAME, SECRET)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn()?;
        let mut stdin = child.stdin.take().context("it has a standard input")?;
        let feed = async move { stdin.write_all(printed).await };
        let (fed, output) = tokio::join!(feed, child.wait_with_output());
        fed?;
        let output = output?;
        if !output.status.success() {
            bail!("tendril-runner log-text: {}", output.status);
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

async fn connected(address: &Address) -> anyhow::Result<PgConnection> {
    loop {
        match address.connect("tendril-chaos").await {
            Ok(session) => return Ok(session),
            Err(error) if error.is_outage() => tokio::time::sleep(RETRY).await,
            Err(error) => return Err(error.into()),
        }
    }
}
