//! A runner's seat: one process after the other in one folder, all of one place.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Mutex as SyncMutex;
use std::sync::PoisonError;

use tokio::process::Command;
use tokio::sync::Mutex;

use super::Program;
use crate::clock;
use crate::history::{RunnerEnd, RunnerLife};
use crate::options::{Engine, PLACE};

/// Folder of the states of `local` backends, in a runner's folder and here in that of the run.
pub const STATES: &str = "states";

/// What all runners have in common.
#[derive(Clone)]
pub struct Seat {
    /// `tendril-runner`.
    pub program: PathBuf,
    /// The folder of the run.
    pub folder: PathBuf,
    /// Where the database is.
    pub database_url: String,
    /// The cluster's credential.
    pub token: String,
    /// Jobs at once.
    pub slots: u32,
    /// The engine.
    pub engine: Option<Engine>,
}

/// One runner.
pub struct RunnerSeat {
    seat: Seat,
    number: u32,
    config: PathBuf,
    lives: SyncMutex<Vec<RunnerLife>>,
    /// The process; locked by who breaks it.
    pub process: Mutex<Program>,
}

impl RunnerSeat {
    /// Starts its first process.
    ///
    /// # Errors
    /// The system's error.
    pub fn start(seat: Seat, number: u32) -> anyhow::Result<Self> {
        let state = seat.folder.join(format!("runner-{number}"));
        fs::create_dir_all(&state)?;
        // One place is one disk: the states of its runners lie in one folder.
        let states = seat.folder.join(STATES);
        fs::create_dir_all(&states)?;
        symlink(&states, state.join(STATES))?;
        let config = seat.folder.join(format!("runner-{number}.toml"));
        fs::write(&config, settings(&seat, &state)?)?;
        let process = Mutex::new(process(&seat, number, 0, &config)?);
        Ok(Self { seat, number, config, lives: SyncMutex::default(), process })
    }

    /// Another process in its place, once the one before has ended in this way.
    ///
    /// # Errors
    /// The system's error.
    pub fn again(&self) -> anyhow::Result<Program> {
        process(&self.seat, self.number, self.lives().len(), &self.config)
    }

    /// Notes how the process of that name ended.
    pub fn note_end(&self, name: &str, end: RunnerEnd) {
        let life = RunnerLife { name: name.to_owned(), end, at: clock::now() };
        self.lives.lock().unwrap_or_else(PoisonError::into_inner).push(life);
    }

    /// The processes that have ended.
    pub fn lives(&self) -> Vec<RunnerLife> {
        self.lives.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn process(seat: &Seat, number: u32, generation: usize, config: &Path) -> anyhow::Result<Program> {
    let name = format!("runner-{number}.{generation}");
    let mut command = Command::new(&seat.program);
    command.arg("--config").arg(config).env("TENDRIL_AGENT_TOKEN", &seat.token).env("TENDRIL_RUNNER_NAME", &name);
    Program::start(name, &mut command, &seat.folder.join(format!("runner-{number}.log")))
}

fn settings(seat: &Seat, state: &Path) -> anyhow::Result<String> {
    // The debug form of a string is a TOML string as long as paths hold no control characters.
    let text = |path: &Path| format!("{:?}", path.display().to_string());
    let tools = seat.engine.as_ref().map(|engine| format!("{} = [{}]\n", engine.name, text(&engine.program)));
    Ok(format!(
        "database_url = {:?}\nartifact_key_file = {}\nstate_dir = {}\nplace = {PLACE:?}\nslots = {}\n\n\
         [tools]\n{}\n[sandbox]\nread = [\"/proc\"]\nwrite = [{}]\nprograms = [\"/bin\", \"/usr\", {}]\n\n[logs]\nflush_interval_ms = 200\n\n[http]\nlisten = \"\"\n",
        seat.database_url,
        text(&seat.folder.join("artifact.key")),
        text(state),
        seat.slots,
        tools.unwrap_or_default(),
        text(&seat.folder),
        text(&std::env::current_exe()?),
    ))
}
