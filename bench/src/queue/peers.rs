//! Other queues on Postgres, each driven by a small program of ours in `bench/peers`, which is built when it is asked for.

use crate::program::output;
use anyhow::Context;
use clap::ValueEnum;
use serde::Deserialize;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use tendril_broker::baseline::queue::PlainQueue;
use tendril_broker::testing::TestDatabase;
use tokio::process::Command;
use tokio::task::JoinSet;

/// Another queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Peer {
    /// River, a Go library: needs `go`.
    River,
    /// graphile-worker, a Node library: needs `node` and `npm`.
    GraphileWorker,
    /// One table, read with SKIP LOCKED and deleted from, as pgmq does it.
    Plain,
}

/// How a queue learns that a job is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Each by a commit of its own, before its worker goes on.
    Durable,
    /// Many by one commit: what a crash catches between runs again.
    Buffered,
}

/// Sessions that work.
const SESSIONS: usize = 16;
/// Messages of a turn of the plain queue, buffered.
const PLAIN_BATCH: i64 = 50;

/// What a peer's program prints.
#[derive(Debug, Deserialize)]
struct Worked {
    jobs: u64,
    seconds: f64,
}

impl Peer {
    /// All there are.
    pub const ALL: [Self; 3] = [Self::River, Self::GraphileWorker, Self::Plain];

    /// As people call it, with what the mode means there.
    pub fn name(self, mode: Mode) -> &'static str {
        match (self, mode) {
            (Self::River, Mode::Durable) => "River, each job completed by a transaction",
            (Self::River, Mode::Buffered) => "River, completions collected",
            (Self::GraphileWorker, Mode::Durable) => "graphile-worker, job by job",
            (Self::GraphileWorker, Mode::Buffered) => "graphile-worker, local queue and completions collected",
            (Self::Plain, Mode::Durable) => "a bare table, read and deleted one by one",
            (Self::Plain, Mode::Buffered) => "a bare table, read and deleted by 50",
        }
    }

    /// Builds its program, if it has one, into a folder beside this program.
    ///
    /// # Errors
    /// What it is built with is missing, or failed.
    pub async fn build(self) -> anyhow::Result<()> {
        let built = self.built()?;
        match self {
            Self::River => {
                let target = built.display().to_string();
                let source = self.source().display().to_string();
                let arguments = ["build", "-C", &source, "-o", &target, "."];
                output(Path::new("go"), &arguments)
                    .await
                    .context("River's program cannot be built; without it: --peers plain")?;
            }
            Self::GraphileWorker => {
                std::fs::create_dir_all(&built)?;
                for file in ["package.json", "package-lock.json", "main.mjs"] {
                    std::fs::copy(self.source().join(file), built.join(file))?;
                }
                let folder = built.display().to_string();
                let arguments = ["ci", "--prefix", &folder, "--silent", "--ignore-scripts", "--no-audit", "--no-fund"];
                output(Path::new("npm"), &arguments)
                    .await
                    .context("graphile-worker cannot be installed; without it: --peers plain")?;
            }
            Self::Plain => {}
        }
        Ok(())
    }

    /// Works so many jobs off in a database of its own; returns how many a second.
    ///
    /// # Errors
    /// Its program failed.
    pub async fn rate(self, mode: Mode, jobs: u64) -> anyhow::Result<f64> {
        let database = TestDatabase::empty().await;
        let worked = match self {
            Self::Plain => plain(&database.url(), mode, jobs).await?,
            Self::River | Self::GraphileWorker => self.run(&database.url(), mode, jobs).await?,
        };
        anyhow::ensure!(worked.jobs == jobs, "{} of {jobs} jobs were worked off", worked.jobs);
        Ok(jobs as f64 / worked.seconds)
    }

    async fn run(self, url: &str, mode: Mode, jobs: u64) -> anyhow::Result<Worked> {
        let built = self.built()?;
        let mut command = match self {
            Self::GraphileWorker => {
                let mut node = Command::new("node");
                node.arg(built.join("main.mjs")).args(["--processes", "2"]);
                node
            }
            _ => {
                let mut river = Command::new(built);
                // A worker that waits for a connection of its own only holds a job back.
                river.arg(match mode {
                    Mode::Durable => format!("--workers={}", 4 * SESSIONS),
                    Mode::Buffered => "--workers=2000".to_owned(),
                });
                river.arg(format!("--connections={SESSIONS}"));
                river
            }
        };
        let mode = if mode == Mode::Durable { "durable" } else { "buffered" };
        command.arg(format!("--mode={mode}")).arg(format!("--jobs={jobs}")).env("BENCH_DATABASE_URL", url);
        let done = command.stdin(Stdio::null()).stderr(Stdio::inherit()).kill_on_drop(true).output().await?;
        anyhow::ensure!(done.status.success(), "the program of {self:?} failed ({})", done.status);
        let said = String::from_utf8_lossy(&done.stdout);
        serde_json::from_str(said.trim()).with_context(|| format!("the program of {self:?} said {said:?}"))
    }

    fn source(self) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("peers").join(self.folder())
    }

    fn built(self) -> anyhow::Result<PathBuf> {
        Ok(std::env::current_exe()?.with_file_name(format!("tendril-bench-peer-{}", self.folder())))
    }

    fn folder(self) -> &'static str {
        match self {
            Self::River => "river",
            Self::GraphileWorker => "graphile-worker",
            Self::Plain => "plain",
        }
    }
}

async fn plain(url: &str, mode: Mode, jobs: u64) -> anyhow::Result<Worked> {
    PlainQueue::fill(url, jobs).await?;
    let mut sessions = Vec::new();
    for _ in 0..SESSIONS {
        sessions.push(PlainQueue::open(url).await?);
    }
    let most = if mode == Mode::Durable { 1 } else { PLAIN_BATCH };
    let (begun, mut working, mut worked) = (crate::clock::Moment::now(), JoinSet::new(), 0);
    for session in sessions {
        working.spawn(async move {
            let mut worked = 0;
            loop {
                match session.turn(most).await? {
                    0 => return anyhow::Ok(worked),
                    some => worked += some as u64,
                }
            }
        });
    }
    while let Some(done) = working.join_next().await {
        worked += done??;
    }
    Ok(Worked { jobs: worked, seconds: crate::clock::Moment::now().ms_since(begun) / 1e3 })
}
