//! A runner's seat: one process after the other in one folder, all of one place.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Mutex as SyncMutex;
use std::sync::PoisonError;

use tokio::process::Command;
use tokio::sync::Mutex;

use super::{DATABASE, Program};
use crate::clock;
use crate::history::{RunnerEnd, RunnerLife};
use crate::line::Line;
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
    /// The cluster's credential.
    pub token: String,
    /// Jobs at once.
    pub slots: u32,
    /// The engine.
    pub engine: Option<Engine>,
}

/// How a runner gets to its database.
pub struct Way {
    /// The line to each of its places, if they are ours.
    pub lines: Vec<Line>,
    /// What it takes for the database's places.
    places: String,
}

impl Way {
    /// To these places, separated by commas; over lines that can be cut or not.
    ///
    /// # Errors
    /// The system's error.
    pub async fn to(places: &str, by_line: bool) -> io::Result<Self> {
        let mut lines = Vec::new();
        for place in places.split(',').filter(|_| by_line) {
            lines.push(Line::to(place.to_owned()).await?);
        }
        let ours: Vec<String> = lines.iter().map(|line| format!("127.0.0.1:{}", line.port)).collect();
        Ok(Self { lines, places: if by_line { ours.join(",") } else { places.to_owned() } })
    }
}

/// One runner.
pub struct RunnerSeat {
    seat: Seat,
    number: u32,
    /// Its way to the database.
    pub way: Way,
    token: SyncMutex<String>,
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
    pub fn start(seat: Seat, number: u32, way: Way) -> anyhow::Result<Self> {
        let state = seat.folder.join(format!("runner-{number}"));
        fs::create_dir_all(&state)?;
        // One place is one disk: the states of its runners lie in one folder.
        let states = seat.folder.join(STATES);
        fs::create_dir_all(&states)?;
        symlink(&states, state.join(STATES))?;
        let config = seat.folder.join(format!("runner-{number}.toml"));
        fs::write(&config, settings(&seat, &way, &state)?)?;
        let process = Mutex::new(process(&seat, &seat.token, (number, 0), &config)?);
        let token = SyncMutex::new(seat.token.clone());
        Ok(Self { seat, number, way, token, config, lives: SyncMutex::default(), process })
    }

    /// Another process in its place, once the one before has ended in this way.
    ///
    /// # Errors
    /// The system's error.
    pub fn again(&self) -> anyhow::Result<Program> {
        let token = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        process(&self.seat, &token, (self.number, self.lives().len()), &self.config)
    }

    /// The next process gets this credential.
    pub fn give(&self, token: &str) {
        token.clone_into(&mut self.token.lock().unwrap_or_else(PoisonError::into_inner));
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

fn process(seat: &Seat, token: &str, (number, generation): (u32, usize), config: &Path) -> anyhow::Result<Program> {
    let name = format!("runner-{number}.{generation}");
    let mut command = Command::new(&seat.program);
    command.arg("--config").arg(config).env("TENDRIL_AGENT_TOKEN", token).env("TENDRIL_RUNNER_NAME", &name);
    Program::start(name, &mut command, &seat.folder.join(format!("runner-{number}.log")))
}

fn settings(seat: &Seat, way: &Way, state: &Path) -> anyhow::Result<String> {
    // The debug form of a string is a TOML string as long as paths hold no control characters.
    let text = |path: &Path| format!("{:?}", path.display().to_string());
    let tools = seat.engine.as_ref().map(|engine| format!("{} = [{}]\n", engine.name, text(&engine.program)));
    Ok(format!(
        "database_url = \"postgres://{}/{DATABASE}\"\nartifact_key_file = {}\nstate_dir = {}\nplace = {PLACE:?}\nslots = {}\n\n\
         [tools]\n{}\n[sandbox]\nread = [\"/proc\"]\nwrite = [{}]\nprograms = [\"/bin\", \"/usr\", {}]\n\n[logs]\nflush_interval_ms = 200\n\n[http]\nlisten = \"\"\n",
        way.places,
        text(&seat.folder.join("artifact.key")),
        text(state),
        seat.slots,
        tools.unwrap_or_default(),
        text(&seat.folder),
        text(&std::env::current_exe()?),
    ))
}
