//! Where an engine runs: the tree with its backend file, and the engine's environment.

use crate::command::Command;
use crate::engines::Installed;
use crate::kinds::terraform::failure;
use crate::prepare::snapshot::Snapshot;
use crate::prepare::{backend, environment, source};
use crate::run::Run;
use crate::sandbox::{Access, Profile};
use crate::stop::Stop;
use crate::toolbox::Toolbox;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use tendril_templates::Tree;

/// The engine's own folder and settings file beside the tree.
const DATA_DIR: &str = "data";
/// What a command of the engine leaves for the next: its plan.
const OUT_DIR: &str = "out";
/// The engine's installed providers, in its own folder.
const PROVIDERS_DIR: &str = "providers";
const SETTINGS_FILE: &str = "engine.tfrc";
/// How much the heap of an `init` may grow between collections, in percent of what lives.
const INIT_GOGC: &str = "400";
/// The engines' lock of provider versions.
pub const LOCK_FILE: &str = ".terraform.lock.hcl";

/// A place to run an engine in.
pub struct Site {
    /// The engine.
    pub engine: Installed,
    cwd: PathBuf,
    data: PathBuf,
    env: BTreeMap<String, String>,
    workspace: Option<String>,
    access: Access,
    lock_timeout: String,
    /// The backend that Tendril has written down.
    expected: Option<Value>,
}

impl Site {
    /// Writes the tree, the backend file and the engine's settings.
    ///
    /// # Errors
    /// A tree or place that disagrees with the snapshot; a disk that refuses.
    pub async fn set_up(
        run: &Run,
        toolbox: &Toolbox,
        snapshot: &Snapshot,
        engine: Installed,
        tree: Tree,
    ) -> Result<Self, Stop> {
        backend::check_tree(&tree, &snapshot.state)?;
        let cwd = run.work.tree();
        source::write(tree, &cwd).await?;
        let expected = backend::write(snapshot, run.config(), &run.work)?;
        let settings = settings_text(run.config().tools.provider_mirror.as_deref());
        let settings = run.work.write(SETTINGS_FILE, settings.as_bytes())?;
        let (data, out) = (run.work.file(DATA_DIR), run.work.file(OUT_DIR));
        for folder in [&data, &out] {
            std::fs::create_dir(folder).map_err(|e| Stop::disk("make", folder, &e))?;
        }
        let mirror: Vec<_> = run.config().tools.provider_mirror.clone().into_iter().collect();
        let access = Access {
            read: [vec![settings.clone(), data.clone(), run.work.file(source::VARIABLES_FILE)], mirror.clone()]
                .concat(),
            write: vec![out, run.work.file(backend::STATE_LINK)],
            execute: [mirror, vec![data.join(PROVIDERS_DIR)]].concat(),
            ..Access::of(Profile::Terraform)
        };
        let mut env = environment::of_attempt(&toolbox.env, &run.work);
        for (name, value) in [
            ("TF_IN_AUTOMATION", "1"),
            ("TF_INPUT", "0"),
            ("CHECKPOINT_DISABLE", "1"),
            ("TF_DATA_DIR", &data.display().to_string()),
            ("TF_CLI_CONFIG_FILE", &settings.display().to_string()),
        ] {
            env.insert(name.to_owned(), value.to_owned());
        }
        let lock_timeout = format!("-lock-timeout={}s", run.config().tools.lock_timeout_s);
        Ok(Self { engine, cwd, data, env, workspace: snapshot.workspace.clone(), access, lock_timeout, expected })
    }

    /// A command of the engine that only reads, with its output in the log.
    pub fn command(&self, name: &'static str) -> Command {
        let command = Command::new(name, &self.engine.program, self.cwd.clone()).args([name]).env(self.env.clone());
        command.access(self.access.clone())
    }

    /// A command that installs: it may write to the engine's own folder, and execute nothing that is in there.
    fn installing(&self, name: &'static str) -> Command {
        let Access { read, write, .. } = self.access.clone();
        let write = [write, vec![self.data.clone()]].concat();
        self.command(name).access(Access { read, write, ..Access::of(Profile::Terraform) })
    }

    /// The flag for how long to wait for a state lock.
    pub fn lock_timeout(&self) -> String {
        self.lock_timeout.clone()
    }

    /// The tree's folder.
    pub fn tree(&self) -> &Path {
        &self.cwd
    }

    /// Initialises for a plan, and selects the workspace; makes it if it is new.
    ///
    /// # Errors
    /// The job's [`Stop`], with the engine's first error.
    pub async fn init(&mut self, run: &mut Run) -> Result<(), Stop> {
        self.step(run, self.init_command()).await?;
        backend::check_initialised(&self.data, self.expected.as_ref())?;
        if let Some(workspace) = self.workspace.clone() {
            let select = ["select", "-no-color", "-or-create=true", &workspace];
            self.step(run, self.installing("workspace").args(select)).await?;
            self.enter_workspace();
        }
        Ok(())
    }

    /// Initialises for the apply of a plan, with exactly the providers that the plan was made with.
    ///
    /// # Errors
    /// As [`Site::init`].
    pub async fn init_again(&self, run: &mut Run) -> Result<(), Stop> {
        self.step(run, self.init_command().args(["-lockfile=readonly"])).await
    }

    /// An `init` lives briefly, needs little memory and starts no provider that would inherit the setting: with a lazier
    /// collector it takes a third less of the processor. What `tools.env` says wins.
    pub fn init_command(&self) -> Command {
        let mut env = self.env.clone();
        env.entry("GOGC".to_owned()).or_insert_with(|| INIT_GOGC.to_owned());
        self.installing("init").args(["-input=false", "-no-color"]).env(env)
    }

    /// All further commands work in the snapshot's workspace, which is there.
    pub fn enter_workspace(&mut self) {
        if let Some(workspace) = &self.workspace {
            self.env.insert("TF_WORKSPACE".to_owned(), workspace.clone());
        }
    }

    /// Whether the engine has installed anything that a plan does not carry itself: providers, or modules from elsewhere.
    pub fn has_installed(&self) -> bool {
        let providers = std::fs::read_to_string(self.cwd.join(LOCK_FILE));
        let providers = providers.is_ok_and(|text| text.lines().any(|line| line.starts_with("provider ")));
        let modules = std::fs::read_dir(self.data.join("modules"));
        providers || modules.is_ok_and(|entries| entries.flatten().any(|entry| entry.path().is_dir()))
    }

    async fn step(&self, run: &mut Run, command: Command) -> Result<(), Stop> {
        let what = format!("{} {}", self.engine.engine, command.name);
        let finished = run.command(command).await?;
        failure::of_text(&finished, &what)
    }
}

/// The settings file of the engine. It is there even if it says little: an engine warns of a missing one, and would look
/// for its user's.
fn settings_text(provider_mirror: Option<&Path>) -> String {
    let mut text = "disable_checkpoint = true\n".to_owned();
    if let Some(mirror) = provider_mirror {
        let path = mirror.display().to_string().replace('\\', "\\\\").replace('"', "\\\"").replace("${", "$${");
        text += &format!("provider_installation {{\n  filesystem_mirror {{\n    path = \"{path}\"\n  }}\n}}\n");
    }
    text
}
