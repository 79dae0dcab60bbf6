//! A thousand real processes that print a line each second: as jobs of one real runner, each under a supervisor of its own,
//! and beside it the same processes whose pipes somebody reads and nobody keeps.

use crate::clock::{Moment, new_id};
use crate::comparison::{Comparison, Goal, Unit};
use crate::gate::{Gate, Said};
use crate::processor::{self, Account, Memory};
use crate::program::beside;
use crate::report::Table;
use crate::rounds::{Rounds, Row, interleave};
use crate::stage::{RunnerPlan, Stage};
use crate::statistics::percentile;
use anyhow::{Context, ensure};
use clap::Args;
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tendril_broker::Address;
use tendril_broker::baseline::logs;
use tendril_broker::portal::submission::{Submission, submit};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use uuid::Uuid;

const PRINTER: &str = "tendril-bench-printer";
const LINE_BYTES: f64 = 200.0;
/// Jobs of one deployment.
const JOBS: u32 = 50;
/// After the last print: a flush is due within half of it.
const FLUSHED_WITHIN: Duration = Duration::from_secs(2);
/// How long all may take to start, or to end.
const PATIENCE: Duration = Duration::from_secs(240);

/// Settings of the row.
#[derive(Clone, Debug, Args)]
pub struct LogProcesses {
    /// Processes at once; the runner has as many slots
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1000))]
    processes: u32,
    /// Lines that each prints, one a second
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    lines: u32,
    /// Rounds of either side
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

impl Default for LogProcesses {
    fn default() -> Self {
        Self { processes: 1000, lines: 20, rounds: 3 }
    }
}

/// What a round of either side shows. What only ours has is 0 beside it.
#[derive(Default)]
struct Figures {
    /// From the first submit, or start, until all processes run.
    started_ms: f64,
    /// From the line's print to its commit, or until it was read: half of the lines, 99 of 100.
    arrives_ms: [f64; 2],
    /// Lines that arrived, by the second of printing.
    lines_per_s: f64,
    /// Processor of the runner, or of whoever reads.
    reader_ms: f64,
    supervisors_ms: f64,
    reader_mib: f64,
    supervisors_mib: f64,
    lost: f64,
}

/// Measures the row.
///
/// # Errors
/// A program or the database failed.
pub async fn measure(options: &LogProcesses) -> anyhow::Result<Vec<Table>> {
    let stage = Stage::set().await?;
    let mut site = Site { printer: beside(PRINTER)?, stage, options: options.clone(), round: 0 };
    let rounds = interleave(&mut site, "log-processes", options.rounds as usize).await?;
    site.stage.strike().await?;
    Ok(vec![table(options, &rounds)?])
}

struct Site {
    printer: PathBuf,
    stage: Stage,
    options: LogProcesses,
    round: u32,
}

/// What the kernel says of a runner and its supervisors.
struct Usage {
    runner_ms: f64,
    supervisors_ms: f64,
}

impl Usage {
    fn of(runner: i32) -> anyhow::Result<Self> {
        let runner_ms = Account::of(runner).context("the runner is gone")?.own_ms;
        let supervisors = processor::children(runner).into_iter().filter_map(processor::fine_ms);
        Ok(Self { runner_ms, supervisors_ms: supervisors.sum() })
    }
}

impl Site {
    fn argv(&self, folder: &Path, number: u32) -> [String; 5] {
        let path = |path: &Path| path.display().to_string();
        let [of, lines] = [self.options.processes, self.options.lines].map(|number| number.to_string());
        [path(&self.printer), path(folder), number.to_string(), of, lines]
    }

    /// Lines that a round prints.
    fn printed(&self) -> f64 {
        f64::from(self.options.processes) * f64::from(self.options.lines)
    }

    async fn submit_all(&self, cluster: Uuid, folder: &Path) -> anyhow::Result<()> {
        let address: Address = self.stage.portal_url().parse()?;
        let mut portal = address.connect("tendril-bench").await?;
        let numbers: Vec<u32> = (0..self.options.processes).collect();
        for some in numbers.chunks(JOBS as usize) {
            let jobs: Vec<_> = some
                .iter()
                .map(|number| json!({"name": format!("p{number}"), "kind": "exec", "argv": self.argv(folder, *number)}))
                .collect();
            submit(&mut portal, &Submission { id: new_id(), cluster, snapshot: json!({"jobs": jobs}) }).await?;
        }
        Ok(())
    }

    /// Lets all begin, waits until all are done; seconds that it took.
    async fn printing(&self, begin: Gate, said: &mut Said) -> anyhow::Result<f64> {
        let begun = Moment::now();
        begin.open();
        said.hear("done", self.options.processes, PATIENCE).await?;
        Ok(Moment::now().ms_since(begun) / 1e3)
    }

    fn folder(&self, side: &str) -> anyhow::Result<PathBuf> {
        let folder = self.stage.folder().join(format!("{side}-{}", self.round));
        std::fs::create_dir(&folder)?;
        Ok(folder)
    }
}

impl Row for Site {
    type Figures = Figures;

    async fn ours(&mut self) -> anyhow::Result<Figures> {
        self.round += 1;
        let (name, folder) = (format!("processes-{}", self.round), self.folder("ours")?);
        let (begin, end) = (Gate::close(&folder.join("go"))?, Gate::close(&folder.join("end"))?);
        let mut said = Said::listen(&folder.join("said"))?;
        let cluster = self
            .stage
            .add_runner(&RunnerPlan { name: name.clone(), slots: self.options.processes as usize, engine: None })
            .await?;
        self.stage.at_rest().await?;
        let runner = self.stage.runner_pid(&name)?;
        let submitted = Moment::now();
        self.submit_all(cluster, &folder).await?;
        said.hear("runs", self.options.processes, PATIENCE).await?;
        let started_ms = Moment::now().ms_since(submitted);

        let before = Usage::of(runner)?;
        let seconds = self.printing(begin, &mut said).await?;
        tokio::time::sleep(FLUSHED_WITHIN).await;
        let after = Usage::of(runner)?;
        let supervisors = processor::children(runner);
        ensure!(supervisors.len() >= self.options.processes as usize, "{} supervisors", supervisors.len());
        let memory = |pid: &i32| processor::memory_mib(*pid, Memory::Share);
        let supervisors_mib = supervisors.iter().filter_map(memory).sum();
        let reader_mib = processor::memory_mib(runner, Memory::Peak).context("the runner is gone")?;
        end.open();
        self.stage.require_alive()?;
        self.stage.stop_runner(&name, cluster).await?;
        let stored = logs::stored(&self.stage.operator_url(), cluster).await?;
        Ok(Figures {
            started_ms,
            arrives_ms: stored.commit_ms,
            lines_per_s: stored.lines as f64 / seconds,
            reader_ms: after.runner_ms - before.runner_ms,
            supervisors_ms: after.supervisors_ms - before.supervisors_ms,
            reader_mib,
            supervisors_mib,
            lost: (self.printed() - stored.distinct as f64).abs() + (stored.lines - stored.distinct) as f64,
        })
    }

    async fn bare(&mut self) -> anyhow::Result<Figures> {
        let folder = self.folder("bare")?;
        let (begin, end) = (Gate::close(&folder.join("go"))?, Gate::close(&folder.join("end"))?);
        let mut said = Said::listen(&folder.join("said"))?;
        let (mut readers, mut children) = (JoinSet::new(), Vec::new());
        let submitted = Moment::now();
        for number in 0..self.options.processes {
            let argv = self.argv(&folder, number);
            let mut command = Command::new(&argv[0]);
            command.args(&argv[1..]).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
            let mut child = command.spawn()?;
            readers.spawn(read(child.stdout.take().context("its standard output")?));
            children.push(child);
        }
        said.hear("runs", self.options.processes, PATIENCE).await?;
        let started_ms = Moment::now().ms_since(submitted);
        let me = i32::try_from(std::process::id())?;
        let used = || Account::of(me).map_or(0.0, |account| account.own_ms);
        let before = used();
        let seconds = self.printing(begin, &mut said).await?;
        let reader_ms = used() - before;
        end.open();
        for mut child in children.drain(..) {
            wait_for(&mut child).await?;
        }
        let mut arrives = Vec::new();
        while let Some(read) = readers.join_next().await {
            arrives.extend(read??);
        }
        let at = |percent| percentile(&arrives, percent).unwrap_or(f64::NAN);
        let lines = arrives.len() as f64;
        Ok(Figures {
            started_ms,
            arrives_ms: [at(50.0), at(99.0)],
            lines_per_s: lines / seconds,
            reader_ms,
            lost: (self.printed() - lines).abs(),
            ..Figures::default()
        })
    }
}

async fn wait_for(child: &mut Child) -> anyhow::Result<()> {
    let status = child.wait().await?;
    ensure!(status.success(), "{PRINTER} failed ({status})");
    Ok(())
}

/// Milliseconds from each line's print to its being read.
async fn read(pipe: impl tokio::io::AsyncRead + Unpin) -> anyhow::Result<Vec<f64>> {
    let (mut lines, mut arrives) = (BufReader::new(pipe).lines(), Vec::new());
    while let Some(line) = lines.next_line().await? {
        let micros: u64 = line.get(..16).context("a line without its time")?.parse()?;
        arrives.push(Moment::now().ms_since(Moment::from_nanos(micros * 1000)));
    }
    Ok(arrives)
}

fn table(options: &LogProcesses, rounds: &Rounds<Figures>) -> anyhow::Result<Table> {
    let mebibytes = f64::from(options.processes) * f64::from(options.lines) * LINE_BYTES / 1_048_576.0;
    let both = |what: &str, unit, pick: &dyn Fn(&Figures) -> f64| {
        let (ours, bare) = rounds.figures(pick);
        Comparison::of(what, unit, &ours, &bare).context("no rounds")
    };
    let alone = |what: &str, unit, pick: &dyn Fn(&Figures) -> f64| {
        Comparison::of(what, unit, &rounds.figures(pick).0, &[]).context("no rounds")
    };
    let bare = |what: &str, unit, pick: &dyn Fn(&Figures) -> f64| {
        Comparison::of(what, unit, &rounds.figures(pick).1, &[]).context("no rounds")
    };
    let lines = vec![
        both("first submit -> all processes run", Unit::Milliseconds, &|f| f.started_ms)?,
        both("lines arrived", Unit::LinesPerSecond, &|f| f.lines_per_s)?,
        alone("print -> commit, p50", Unit::Milliseconds, &|f| f.arrives_ms[0])?,
        alone("print -> commit, p99", Unit::Milliseconds, &|f| f.arrives_ms[1])?,
        bare("print -> read by the bare reader, p99", Unit::Milliseconds, &|f| f.arrives_ms[1])?,
        alone("peak memory of the runner", Unit::Mebibytes, &|f| f.reader_mib)?.with_goal(Goal::Most(256.0)),
        alone("memory of all supervisors (PSS)", Unit::Mebibytes, &|f| f.supervisors_mib)?,
        both("processor of the runner (bare: the reader) for a MiB of text", Unit::Milliseconds, &|f| {
            f.reader_ms / mebibytes
        })?,
        alone("processor of all supervisors for a second of a process", Unit::Milliseconds, &|f| {
            f.supervisors_ms / f64::from(options.processes) / f64::from(options.lines)
        })?,
        alone("processor of all supervisors for a MiB of text", Unit::Milliseconds, &|f| f.supervisors_ms / mebibytes)?,
        alone("lines lost or stored twice", Unit::Count, &|f| f.lost)?.with_goal(Goal::Most(0.0)),
    ];
    Ok(Table {
        row: "log-processes",
        setting: format!(
            "{} exec jobs of one runner at once, each a process of its own under a supervisor of its own; {} lines of 200 bytes each, one a second",
            options.processes, options.lines
        ),
        baseline: "the same processes, their pipes read by one process that keeps nothing".to_owned(),
        rounds: rounds.ours.len(),
        lines,
        curves: Vec::new(),
    })
}
