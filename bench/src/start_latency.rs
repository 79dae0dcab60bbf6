//! Row 1: from a submit on an idle fleet to the moment the job's process runs, beside a bare LISTEN/NOTIFY round trip
//! with as many commits.

use crate::clock::Moment;
use crate::comparison::{Comparison, Goal, Unit};
use crate::program::beside;
use crate::report::Table;
use crate::rounds::{Rounds, Row, interleave};
use crate::stage::{RunnerPlan, Stage};
use crate::statistics::percentile;
use anyhow::{Context, ensure};
use clap::Args;
use nix::sys::stat::Mode;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tendril_broker::Address;
use tendril_broker::baseline::RoundTrip;
use tendril_broker::portal::deployments;
use tendril_broker::portal::submission::{Submission, insert};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::net::unix::pipe::{OpenOptions, Receiver};
use tokio::process::{Child, Command};
use uuid::Uuid;

/// Submit, claim, start: an `exec` changes the world unless the snapshot says otherwise, so that its start commits.
const ANSWERS: usize = 2;

/// How long one process may take to start before the row gives up.
const PATIENCE: Duration = Duration::from_secs(30);

/// Settings of the row.
#[derive(Clone, Debug, Args)]
pub struct StartLatency {
    /// Submits per round.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    submits: u32,
    /// Rounds of either side.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Fleets to measure: so many runners of as many clusters.
    #[arg(long, value_delimiter = ',', default_values_t = [1, 8], value_parser = clap::value_parser!(u32).range(1..=50))]
    fleets: Vec<u32>,
    /// Milliseconds of rest before each submit.
    #[arg(long, default_value_t = 100)]
    rest_ms: u64,
}

impl Default for StartLatency {
    fn default() -> Self {
        Self { submits: 200, rounds: 3, fleets: vec![1, 8], rest_ms: 100 }
    }
}

/// Measures the row on each fleet.
///
/// # Errors
/// A program or the database failed.
pub async fn measure(options: &StartLatency) -> anyhow::Result<Vec<Table>> {
    let mut tables = Vec::new();
    for runners in &options.fleets {
        let mut fleet = Fleet::assemble(options, *runners).await?;
        let rounds =
            interleave(&mut fleet, &format!("start-latency, {runners} runners"), options.rounds as usize).await?;
        fleet.stage.strike().await?;
        tables.push(table(options, *runners, &rounds)?);
    }
    Ok(tables)
}

/// What both sides start.
const STAMP: &str = "tendril-bench-stamp";

/// Milliseconds from each submit to some points.
#[derive(Default)]
struct Latencies {
    claimed: Vec<f64>,
    /// Ours: the process runs. The bare round trip's: its last commit is answered.
    started: Vec<f64>,
    /// The process runs, on either side: the bare round trip starts one, too.
    running: Vec<f64>,
}

struct Fleet {
    stage: Stage,
    clusters: Vec<Uuid>,
    submits: u32,
    rest: Duration,
    starts: Starts,
    bare: RoundTrip,
}

impl Fleet {
    async fn assemble(options: &StartLatency, runners: u32) -> anyhow::Result<Self> {
        let mut stage = Stage::set().await?;
        let mut clusters = Vec::new();
        for number in 1..=runners {
            let plan = RunnerPlan { name: format!("runner-{number}"), slots: 4, engine: None };
            clusters.push(stage.add_runner(&plan).await?);
        }
        let starts = Starts::open(&stage.folder().join("starts"))?;
        let bare = RoundTrip::open(&stage.operator_url()).await?;
        let rest = Duration::from_millis(options.rest_ms);
        Ok(Self { stage, clusters, submits: options.submits, rest, starts, bare })
    }

    async fn rest(&mut self) -> anyhow::Result<()> {
        tokio::time::sleep(self.rest).await;
        self.stage.at_rest().await
    }
}

impl Row for Fleet {
    type Figures = Latencies;

    async fn ours(&mut self) -> anyhow::Result<Latencies> {
        let address: Address = self.stage.portal_url().parse()?;
        let mut portal = address.connect("tendril-bench").await?;
        let (mut sent, mut latencies) = (Vec::new(), Latencies::default());
        for number in 0..self.submits {
            let cluster = self.clusters[number as usize % self.clusters.len()];
            let submission = Submission { id: crate::clock::new_id(), cluster, snapshot: self.starts.snapshot() };
            self.rest().await?;
            let before = Moment::now();
            insert(&mut portal, &submission).await?;
            let at = tokio::time::timeout(PATIENCE, self.starts.next()).await;
            let started = at.context("no process started")??.ms_since(before);
            latencies.started.push(started);
            latencies.running.push(started);
            sent.push((submission.id, before));
        }
        self.rest().await?;
        for (id, before) in sent {
            let state = deployments::state(&mut portal, id).await?;
            ensure!(state.status == "SUCCESS", "deployment {id} ended as {}: {:?}", state.status, state.error_message);
            let at = state.whole.pointer("/jobs/0/attempt/claimed_at").and_then(serde_json::Value::as_str);
            let at = OffsetDateTime::parse(at.context("the claim's time is missing")?, &Rfc3339)?;
            latencies.claimed.push(Moment::from_timestamp(at).ms_since(before));
        }
        Ok(latencies)
    }

    async fn bare(&mut self) -> anyhow::Result<Latencies> {
        let mut latencies = Latencies::default();
        for _ in 0..self.submits {
            self.rest().await?;
            let before = Moment::now();
            let mark = |number: usize| {
                let points = if number == 0 { &mut latencies.claimed } else { &mut latencies.started };
                points.push(Moment::now().ms_since(before));
            };
            self.bare.turn(ANSWERS, mark).await?;
            let process = self.starts.bare()?;
            latencies.running.push(self.starts.next().await?.ms_since(before));
            process.wait_with_output().await?;
        }
        Ok(latencies)
    }
}

/// Where processes say that they run: a named pipe, since whoever looked for a file would disturb what is measured.
pub struct Starts {
    path: PathBuf,
    program: PathBuf,
    lines: Lines<BufReader<Receiver>>,
}

impl Starts {
    /// Makes the pipe.
    ///
    /// # Errors
    /// It cannot be made, or the program that says so is missing.
    pub fn open(path: &Path) -> anyhow::Result<Self> {
        nix::unistd::mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR)?;
        // Open for writing, too: the pipe is not to end when a process that wrote to it does.
        let pipe = OpenOptions::new().read_write(true).open_receiver(path)?;
        let lines = BufReader::new(pipe).lines();
        Ok(Self { path: path.to_owned(), program: beside(STAMP)?, lines })
    }

    /// A deployment of one process, which says when it began.
    pub fn snapshot(&self) -> serde_json::Value {
        json!({"jobs": [{"name": "stamp", "kind": "exec", "argv": [self.program, self.path]}]})
    }

    /// The same process without Tendril.
    fn bare(&self) -> std::io::Result<Child> {
        Command::new(&self.program).arg(&self.path).stdin(Stdio::null()).spawn()
    }

    /// A job that says when it began, and then does something else; by a shell, since a job may run no program of ours but
    /// the one that it names.
    pub fn job(&self, then: &str, reading: bool) -> serde_json::Value {
        let script = format!("date +%s%N > \"$0\" && exec {then}");
        let argv = json!(["sh", "-c", script, self.path]);
        json!({"jobs": [{"name": "stamp", "kind": "exec", "argv": argv, "reading": reading}]})
    }

    /// When the next process began.
    ///
    /// # Errors
    /// What came through the pipe is no moment.
    pub async fn next(&mut self) -> anyhow::Result<Moment> {
        let line = self.lines.next_line().await?.context("the pipe has ended")?;
        Ok(Moment::from_nanos(line.parse()?))
    }
}

fn table(options: &StartLatency, runners: u32, rounds: &Rounds<Latencies>) -> anyhow::Result<Table> {
    let mut lines = Vec::new();
    for (point, pick) in [
        ("claimed", (|l| &l.claimed) as fn(&Latencies) -> &Vec<f64>),
        ("started", |l| &l.started),
        ("started, beside it with a process", |l| &l.running),
    ] {
        for percent in [50.0, 90.0, 99.0] {
            let (ours, bare) = rounds.figures(|l| percentile(pick(l), percent).unwrap_or(f64::NAN));
            let what = format!("submit -> {point}, p{percent}");
            let line = Comparison::of(what, Unit::Milliseconds, &ours, &bare).context("no rounds")?;
            lines.push(goals(point, percent).into_iter().fold(line, Comparison::with_goal));
        }
    }
    let commas =
        if runners == 1 { "one idle runner".to_owned() } else { format!("{runners} idle runners of as many clusters") };
    Ok(Table {
        row: "start-latency",
        setting: format!("{commas}, {} submits a round, {} ms of rest before each", options.submits, options.rest_ms),
        baseline: format!(
            "LISTEN/NOTIFY between two sessions, {ANSWERS} answering commits; with a process: and the same program started"
        ),
        rounds: rounds.ours.len(),
        lines,
        curves: Vec::new(),
    })
}

fn goals(point: &str, percent: f64) -> Vec<Goal> {
    match (point, percent as u8) {
        ("started", 50) => vec![Goal::MostTimesBare(1.5), Goal::Most(5.0)],
        ("started", 99) => vec![Goal::Most(25.0)],
        _ => Vec::new(),
    }
}
