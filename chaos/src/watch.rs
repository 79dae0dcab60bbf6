//! The facts file while it grows.

use std::path::PathBuf;
use std::time::Duration;

use uuid::Uuid;

use crate::facts::{self, Fact, What};

const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Looks at the facts file now and again.
#[derive(Clone, Debug)]
pub struct Watch {
    file: PathBuf,
}

impl Watch {
    /// Of this file.
    pub fn new(file: PathBuf) -> Self {
        Self { file }
    }

    /// All facts so far.
    ///
    /// # Errors
    /// The system's error, or a line that is no fact.
    pub fn facts(&self) -> anyhow::Result<Vec<Fact>> {
        Ok(facts::read(&self.file)?)
    }

    /// Waits until so many children have started, or until `idle` has passed without any fact.
    ///
    /// # Errors
    /// As for [`Watch::facts`].
    pub async fn starts(&self, count: usize, idle: Duration) -> anyhow::Result<()> {
        let (mut known, mut quiet) = (0, Duration::ZERO);
        while quiet < idle {
            let facts = self.facts()?;
            if facts.iter().filter(|fact| fact.what == What::Start).count() >= count {
                return Ok(());
            }
            quiet = if facts.len() == known { quiet + LOOK_EVERY } else { Duration::ZERO };
            known = facts.len();
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Waits until a child of the deployment has started, or until `patience` is over.
    ///
    /// # Errors
    /// As for [`Watch::facts`].
    pub async fn start_of(&self, deployment: Uuid, patience: Duration) -> anyhow::Result<()> {
        let begins = format!("{deployment}/");
        let wait = async {
            while !self.facts()?.iter().any(|fact| fact.job.starts_with(&begins)) {
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Ok(())
        };
        tokio::time::timeout(patience, wait).await.unwrap_or(Ok(()))
    }
}
