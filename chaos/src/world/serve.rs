//! A seat of `tendril-broker serve`: one process after the other.

use std::path::{Path, PathBuf};

use tokio::process::Command;
use tokio::sync::Mutex;

use super::Program;

/// One replica.
pub struct ServeSeat {
    broker: PathBuf,
    log: PathBuf,
    name: String,
    url: String,
    /// The process; locked by who breaks it.
    pub process: Mutex<Program>,
}

impl ServeSeat {
    /// Starts it.
    ///
    /// # Errors
    /// The system's error.
    pub fn start(broker: &Path, folder: &Path, number: u32, url: &str) -> anyhow::Result<Self> {
        let name = format!("serve-{number}");
        let log = folder.join(format!("{name}.log"));
        let process = Mutex::new(serve(broker, &name, &log, url)?);
        Ok(Self { broker: broker.to_owned(), log, name, url: url.to_owned(), process })
    }

    /// Another process in its place.
    ///
    /// # Errors
    /// The system's error.
    pub fn again(&self) -> anyhow::Result<Program> {
        serve(&self.broker, &self.name, &self.log, &self.url)
    }
}

fn serve(broker: &Path, name: &str, log: &Path, url: &str) -> anyhow::Result<Program> {
    let mut command = Command::new(broker);
    command.arg("serve").env("TENDRIL_DATABASE_URL", url);
    Program::start(name.to_owned(), &mut command, log)
}
