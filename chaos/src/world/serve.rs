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
    environment: Vec<(String, String)>,
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
        let process = Mutex::new(serve(broker, &name, &log, (url, &[]))?);
        Ok(Self { broker: broker.to_owned(), log, name, url: url.to_owned(), environment: Vec::new(), process })
    }

    /// Starts another replica, with more in its environment.
    ///
    /// # Errors
    /// The system's error.
    pub fn beside(&self, number: u32, environment: Vec<(String, String)>) -> anyhow::Result<Self> {
        let name = format!("serve-{number}");
        let log = self.log.with_file_name(format!("{name}.log"));
        let process = Mutex::new(serve(&self.broker, &name, &log, (&self.url, &environment))?);
        Ok(Self { broker: self.broker.clone(), log, name, url: self.url.clone(), environment, process })
    }

    /// Another process in its place.
    ///
    /// # Errors
    /// The system's error.
    pub fn again(&self) -> anyhow::Result<Program> {
        serve(&self.broker, &self.name, &self.log, (&self.url, &self.environment))
    }
}

type Environment<'a> = (&'a str, &'a [(String, String)]);

fn serve(broker: &Path, name: &str, log: &Path, (url, more): Environment<'_>) -> anyhow::Result<Program> {
    let mut command = Command::new(broker);
    command.arg("serve").env("TENDRIL_DATABASE_URL", url);
    command.envs(more.iter().map(|(name, value)| (name, value)));
    Program::start(name.to_owned(), &mut command, log)
}
