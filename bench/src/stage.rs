//! The stage of a measurement: a migrated database of its own, the real broker and real runners on it.

use crate::program::{self, Program};
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tendril_broker::baseline::Idleness;
use tendril_broker::operator::grants::Scope;
use tendril_broker::testing::neighbour::Neighbour;
use tendril_broker::testing::{TestDatabase, TestPortal};
use tokio::process::Command;
use uuid::Uuid;

/// How long a fleet may take to come to rest.
const COMES_TO_REST_WITHIN: Duration = Duration::from_secs(60);
/// How often that is asked.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// A runner that is to be started, in a cluster of its own.
pub struct RunnerPlan {
    /// Name of the runner and of its cluster; also the place of its `local` states.
    pub name: String,
    /// Jobs at once.
    pub slots: usize,
    /// Terraform or OpenTofu, by its kind's name in the settings.
    pub engine: Option<(&'static str, PathBuf)>,
}

/// How a runner of a cluster connects.
#[derive(Clone)]
pub struct Access {
    /// The cluster.
    pub cluster: Uuid,
    /// Its credential.
    pub token: String,
    /// The database, without a login.
    pub url: String,
}

impl Access {
    /// Registers a cluster.
    pub async fn to(database: &TestDatabase, name: &str) -> Self {
        let cluster = database.cluster(name).await;
        let token = cluster.token.reveal().to_owned();
        Self { cluster: cluster.id, token, url: without_login(&database.url()) }
    }
}

/// A database, `tendril-broker serve` and runners.
pub struct Stage {
    database: TestDatabase,
    folder: TempDir,
    portal: TestPortal,
    programs: Vec<Program>,
    /// Of runners that have not been ended.
    clusters: Vec<Uuid>,
    idleness: Idleness,
}

impl Stage {
    /// A database with the newest schema, a portal that may do everything, and a serving broker.
    ///
    /// # Errors
    /// The broker cannot be started.
    pub async fn set() -> anyhow::Result<Self> {
        let database = TestDatabase::create().await;
        let portal = database.portal(Scope::All).await;
        let folder = TempDir::with_prefix("tendril-bench-")?;
        let mut serve = Command::new(program::beside("tendril-broker")?);
        serve.arg("serve").env("TENDRIL_DATABASE_URL", database.url());
        let serve = Program::start("broker", &mut serve, folder.path())?;
        let idleness = Idleness::open(&database.url()).await?;
        Ok(Self { database, folder, portal, programs: vec![serve], clusters: Vec::new(), idleness })
    }

    /// Registers a cluster and starts its runner; returns the cluster.
    ///
    /// # Errors
    /// The runner cannot be started.
    pub async fn add_runner(&mut self, plan: &RunnerPlan) -> anyhow::Result<Uuid> {
        let access = self.add_cluster(&plan.name).await;
        self.start_runner(plan, &access).await?;
        Ok(access.cluster)
    }

    /// Starts a runner of a cluster that is there: a further one, or one that ended in its place.
    ///
    /// # Errors
    /// The runner cannot be started.
    pub async fn start_runner(&mut self, plan: &RunnerPlan, access: &Access) -> anyhow::Result<()> {
        let binary = program::beside("tendril-runner")?;
        let key = self.folder.path().join("artifact.key");
        if !key.exists() {
            std::fs::write(&key, program::output(&binary, &["artifact-key"]).await?)?;
        }
        let config = self.folder.path().join(format!("{}.toml", plan.name));
        std::fs::write(&config, settings(plan, &key, self.folder.path()).to_string())?;
        let mut runner = Command::new(binary);
        runner.arg("--config").arg(config);
        runner.env("TENDRIL_DATABASE_URL", &access.url).env("TENDRIL_AGENT_TOKEN", &access.token);
        self.programs.push(Program::start(&plan.name, &mut runner, self.folder.path())?);
        if !self.clusters.contains(&access.cluster) {
            self.clusters.push(access.cluster);
        }
        Ok(())
    }

    /// Ends a runner by SIGKILL.
    ///
    /// # Errors
    /// It is not there.
    pub async fn kill_runner(&mut self, name: &str) -> anyhow::Result<()> {
        let at = self.programs.iter().position(|program| program.name() == name);
        self.programs.remove(at.with_context(|| format!("the runner {name} is not there"))?).kill().await
    }

    /// The process of a runner.
    ///
    /// # Errors
    /// It is not there.
    pub fn runner_pid(&self, name: &str) -> anyhow::Result<i32> {
        let pid = self.programs.iter().find(|program| program.name() == name).and_then(Program::pid);
        pid.with_context(|| format!("the runner {name} is not there"))
    }

    /// Says so when a program has ended that nobody asked to.
    ///
    /// # Errors
    /// One has.
    pub fn require_alive(&mut self) -> anyhow::Result<()> {
        self.programs.iter_mut().try_for_each(Program::require_alive)
    }

    /// Ends the runner of a cluster before the others.
    ///
    /// # Errors
    /// It did not end when it was asked to.
    pub async fn stop_runner(&mut self, name: &str, cluster: Uuid) -> anyhow::Result<()> {
        self.clusters.retain(|other| *other != cluster);
        match self.programs.iter().position(|program| program.name() == name) {
            Some(at) => self.programs.remove(at).stop().await,
            None => Ok(()),
        }
    }

    /// Registers a cluster without a runner; returns it with its token, and the address at which that is shown.
    pub async fn add_cluster(&self, name: &str) -> Access {
        Access::to(&self.database, name).await
    }

    /// How a runner with this token connects, login and all.
    pub fn runner_url(&self, token: &str) -> String {
        self.database.runner_url(token)
    }

    /// A tenant that works by the typed client, in a cluster of this name.
    pub async fn neighbour(&self, name: &str) -> Neighbour {
        Neighbour::at_work(&self.database, name).await
    }

    /// Waits until every runner has found nothing to do and has asked to be rung.
    ///
    /// # Errors
    /// A program has ended, or the fleet does not come to rest.
    pub async fn at_rest(&mut self) -> anyhow::Result<()> {
        let resting = async {
            while !self.idleness.holds(&self.clusters).await? {
                self.programs.iter_mut().try_for_each(Program::require_alive)?;
                tokio::time::sleep(ASK_EVERY).await;
            }
            anyhow::Ok(())
        };
        let rested = tokio::time::timeout(COMES_TO_REST_WITHIN, resting).await;
        rested.context("the runners do not come to rest; their logs say why")?
    }

    /// How the operator connects.
    pub fn operator_url(&self) -> String {
        self.database.url()
    }

    /// How the portal connects.
    pub fn portal_url(&self) -> &str {
        &self.portal.url
    }

    /// A folder on the disk that the runners work on; gone with the stage.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends all programs; the database and the folder go, too.
    ///
    /// # Errors
    /// A program did not end when it was asked to.
    pub async fn strike(mut self) -> anyhow::Result<()> {
        while let Some(program) = self.programs.pop() {
            program.stop().await?;
        }
        Ok(())
    }
}

/// A runner's settings; everything that is not named here is the default.
fn settings(plan: &RunnerPlan, key: &Path, folder: &Path) -> toml::Table {
    let path = |path: &Path| toml::Value::String(path.display().to_string());
    let mut settings = toml::toml! {
        [http]
        listen = ""
    };
    settings.insert("name".into(), plan.name.clone().into());
    settings.insert("place".into(), plan.name.clone().into());
    settings.insert("slots".into(), i64::try_from(plan.slots).unwrap_or(i64::MAX).into());
    settings.insert("artifact_key_file".into(), path(key));
    settings.insert("state_dir".into(), path(&folder.join(&plan.name)));
    // Where jobs tell a row what it measures, and what the shell of a `local-exec` calls.
    let programs = ["/bin", "/usr"].map(|folder| path(Path::new(folder)));
    let sandbox = [("write".into(), vec![path(folder)].into()), ("programs".into(), programs.to_vec().into())];
    settings.insert("sandbox".into(), toml::Table::from_iter(sandbox).into());
    if let Some((engine, program)) = &plan.engine {
        let tools = toml::Table::from_iter([((*engine).to_owned(), vec![path(program)].into())]);
        settings.insert("tools".into(), tools.into());
    }
    settings
}

/// A database URL without user and password: a runner's token carries both.
fn without_login(url: &str) -> String {
    match (url.split_once("://"), url.rsplit_once('@')) {
        (Some((scheme, _)), Some((_, rest))) => format!("{scheme}://{rest}"),
        _ => url.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runner_gets_no_login_by_its_url() {
        assert_eq!(without_login("postgres://a:b@127.0.0.1:5/d?x=y"), "postgres://127.0.0.1:5/d?x=y");
        assert_eq!(without_login("postgres://a:p@ss@h/d"), "postgres://h/d");
        assert_eq!(without_login("postgres://h/d"), "postgres://h/d");
    }

    #[test]
    fn settings_leave_all_but_the_plan_at_the_defaults() {
        let plan = RunnerPlan { name: "a".into(), slots: 4, engine: Some(("tofu", "/bin/tofu".into())) };
        let settings = settings(&plan, Path::new("/k"), Path::new("/s"));
        assert_eq!(settings["tools"]["tofu"][0].as_str(), Some("/bin/tofu"));
        assert_eq!(settings["slots"].as_integer(), Some(4));
        let keys: Vec<&str> = settings.keys().map(String::as_str).collect();
        assert_eq!(keys, ["artifact_key_file", "http", "name", "place", "sandbox", "slots", "state_dir", "tools"]);
    }
}
