//! Who waits, and for how long: `snooze`, `cluster pause | drain | resume | limit`,
//! `runner list | pause | drain | resume`, `dead-letters list | redrive`.

use clap::{Args, Subcommand};
use serde_json::json;
use uuid::Uuid;

use crate::cli::Context;
use crate::cli::exit::{Failure, Outcome};
use crate::cli::output::{moment_or_dash, table};
use crate::clock::new_id;
use crate::operator::queue::{self as brakes, Brake, Braked};
use crate::portal::clusters;
use crate::portal::queue::{self, Until};

#[derive(Debug, Args)]
pub struct Snooze {
    /// The deployment's id.
    pub id: Uuid,
    #[command(flatten)]
    pub until: UntilFlags,
    /// Only this job.
    #[arg(long)]
    pub job: Option<String>,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct UntilFlags {
    /// Not before this moment, as in 2026-01-31T06:00:00Z.
    #[arg(long, value_name = "MOMENT")]
    pub until: Option<String>,
    /// Not for so long, as in '30 min'.
    #[arg(long = "for", value_name = "INTERVAL")]
    pub length: Option<String>,
    /// Wake it now.
    #[arg(long)]
    pub wake: bool,
}

impl UntilFlags {
    fn until(&self) -> Until<'_> {
        match (&self.until, &self.length) {
            (Some(moment), _) => Until::Moment(moment),
            (None, Some(length)) => Until::Length(length),
            (None, None) => Until::Now,
        }
    }
}

pub async fn snooze(context: &Context, options: &Snooze) -> Result<Outcome, Failure> {
    let mut connection = context.connect().await?;
    let jobs = queue::snooze(&mut connection, options.id, options.until.until(), options.job.as_deref()).await?;
    let object = json!({"id": options.id, "jobs": jobs});
    context.output.print(&object, || match options.until.wake {
        true => format!("{jobs} jobs may run now"),
        false => format!("{jobs} jobs wait for their time; --wake wakes them earlier"),
    })?;
    Ok(Outcome::Done)
}

#[derive(Debug, Args)]
pub struct Pause {
    /// Name or id of the cluster.
    pub cluster: String,
    /// Why; shown with everything that waits for it.
    #[arg(long)]
    pub reason: Option<String>,
}

#[derive(Debug, Args)]
pub struct Limit {
    /// Name or id of the cluster.
    pub cluster: String,
    /// At most so many at once.
    #[arg(long, value_name = "N", conflicts_with = "none")]
    pub max: Option<i32>,
    /// Take the limit away.
    #[arg(long)]
    pub none: bool,
    /// Only jobs of this kind, as in terraform.apply.
    #[arg(long)]
    pub kind: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Runner {
    /// List runner processes: what they hold, whether they are online or paused.
    List {
        /// Only those of one cluster: name or id.
        #[arg(long)]
        cluster: Option<String>,
    },
    /// Have a runner claim nothing more for a while; what it holds goes on.
    Pause {
        /// The runner's id, as `runner list` shows it.
        id: Uuid,
        /// Why.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Have a runner finish what it holds and claim nothing more, as before its host goes away.
    Drain {
        /// The runner's id, as `runner list` shows it.
        id: Uuid,
        /// Why.
        #[arg(long)]
        reason: Option<String>,
    },
    /// Take a pause or a drain back.
    Resume {
        /// The runner's id.
        id: Uuid,
    },
}

pub async fn pause_cluster(context: &Context, options: &Pause, drain: bool) -> Result<Outcome, Failure> {
    let mut connection = context.connect().await?;
    let id = clusters::find(&mut connection, &options.cluster).await?;
    let brake = brakes::pause(&mut connection, Braked::Cluster(id), options.reason.as_deref(), drain).await?;
    tell(context, &brake)
}

pub async fn resume_cluster(context: &Context, cluster: &str) -> Result<Outcome, Failure> {
    let mut connection = context.connect().await?;
    let id = clusters::find(&mut connection, cluster).await?;
    let brake = brakes::resume(&mut connection, Braked::Cluster(id)).await?;
    tell(context, &brake)
}

fn tell(context: &Context, brake: &Brake) -> Result<Outcome, Failure> {
    let what = match brake.runner_id {
        Some(runner) => format!("runner {runner}"),
        None => format!("cluster {}", brake.cluster_id),
    };
    let held = brake.holding;
    context.output.print(brake, || match (&brake.paused_at, brake.draining) {
        (None, _) => format!("{what} claims again"),
        (Some(_), false) => format!("{what} is paused: nothing more is claimed, {held} jobs are still held"),
        (Some(_), true) => format!("{what} is being drained: nothing more is taken, {held} jobs are still held"),
    })?;
    Ok(Outcome::Done)
}

pub async fn limit(context: &Context, options: &Limit) -> Result<Outcome, Failure> {
    let mut connection = context.connect().await?;
    let id = clusters::find(&mut connection, &options.cluster).await?;
    if options.max.is_some() || options.none {
        brakes::set_limit(&mut connection, id, options.max, options.kind.as_deref()).await?;
    }
    let limits = brakes::limits(&mut connection, id).await?;
    context.output.print(&limits, || {
        let row = |l: &brakes::Limit| {
            let kind = l.kind.clone().unwrap_or_else(|| "all".into());
            vec![l.cluster.clone(), kind, l.max_running.to_string(), l.running.to_string()]
        };
        match limits.is_empty() {
            true => "no limits".into(),
            false => table(&["CLUSTER", "KIND", "MAX", "RUNNING"], &limits.iter().map(row).collect::<Vec<_>>()),
        }
    })?;
    Ok(Outcome::Done)
}

pub async fn runner(context: &Context, command: Runner) -> Result<Outcome, Failure> {
    let mut connection = context.connect().await?;
    let brake = match command {
        Runner::List { cluster } => {
            let cluster = match &cluster {
                Some(name) => Some(clusters::find(&mut connection, name).await?),
                None => None,
            };
            let runners = brakes::runners(&mut connection, cluster).await?;
            context.output.print(&runners, || tell_runners(&runners))?;
            return Ok(Outcome::Done);
        }
        Runner::Pause { id, reason } => {
            brakes::pause(&mut connection, Braked::Runner(id), reason.as_deref(), false).await?
        }
        Runner::Drain { id, reason } => {
            brakes::pause(&mut connection, Braked::Runner(id), reason.as_deref(), true).await?
        }
        Runner::Resume { id } => brakes::resume(&mut connection, Braked::Runner(id)).await?,
    };
    tell(context, &brake)
}

fn tell_runners(runners: &[brakes::Runner]) -> String {
    if runners.is_empty() {
        return "no runners".into();
    }
    let row = |r: &brakes::Runner| {
        let state = match (r.online, r.paused_at.is_some(), r.draining) {
            (false, _, _) => "offline",
            (true, false, _) => "online",
            (true, true, false) => "paused",
            (true, true, true) => "draining",
        };
        vec![
            r.id.to_string(),
            r.name.clone(),
            r.version.clone(),
            state.into(),
            r.holding.to_string(),
            r.labels.join(" "),
        ]
    };
    table(&["ID", "NAME", "VERSION", "STATE", "HOLDING", "LABELS"], &runners.iter().map(row).collect::<Vec<_>>())
}

#[derive(Debug, Subcommand)]
pub enum DeadLetters {
    /// List them, the newest first.
    List {
        /// Only those of one cluster: name or id.
        #[arg(long)]
        cluster: Option<String>,
        /// Also those that were redriven.
        #[arg(long)]
        all: bool,
        /// At most so many.
        #[arg(long, default_value = "50", value_parser = clap::value_parser!(i64).range(1..=10_000))]
        limit: i64,
    },
    /// Do the dead jobs of a deployment again, and what was skipped behind them, as a new deployment.
    Redrive {
        /// The deployment's id.
        id: Uuid,
        /// The new deployment's id (UUIDv7), made here when it is left out. The same id twice queues once.
        #[arg(long, value_name = "ID")]
        new_id: Option<Uuid>,
    },
}

pub async fn dead_letters(context: &Context, command: DeadLetters) -> Result<Outcome, Failure> {
    let mut connection = context.connect().await?;
    match command {
        DeadLetters::List { cluster, all, limit } => {
            let cluster = match &cluster {
                Some(name) => Some(clusters::find(&mut connection, name).await?),
                None => None,
            };
            let dead = queue::dead_letters(&mut connection, cluster, all, limit).await?;
            context.output.print(&dead, || tell_dead(&dead))?;
        }
        DeadLetters::Redrive { id, new_id: new } => {
            let new = queue::redrive(&mut connection, id, new.unwrap_or_else(new_id)).await?;
            let object = json!({"id": new, "retry_of": id});
            context
                .output
                .print(&object, || format!("deployment {new} does it again\nfollow it: tendril-broker watch {new}"))?;
        }
    }
    Ok(Outcome::Done)
}

fn tell_dead(dead: &[queue::DeadLetter]) -> String {
    if dead.is_empty() {
        return "no dead letters".into();
    }
    let row = |d: &queue::DeadLetter| {
        let reason = d.reason.clone().unwrap_or_default();
        let (attempts, ended) = (d.attempts.to_string(), moment_or_dash(d.ended_at));
        vec![d.deployment_id.to_string(), d.cluster.clone(), d.job.clone(), attempts, ended, reason]
    };
    table(&["DEPLOYMENT", "CLUSTER", "JOB", "ATTEMPTS", "ENDED", "WHY"], &dead.iter().map(row).collect::<Vec<_>>())
}
