//! `schedule set | list | delete | times`.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use crate::cli::Context;
use crate::cli::exit::{Failure, Outcome};
use crate::cli::input::read_json;
use crate::cli::output::{moment, moment_or_dash, table};
use crate::portal::clusters;
use crate::portal::schedules::{self, Wanted};

#[derive(Debug, Subcommand)]
pub enum Schedule {
    /// Make a schedule, or change the one of that name.
    Set(Set),
    /// List schedules: next and last moment, and what drift was seen.
    List {
        /// Only those of one cluster: name or id.
        #[arg(long)]
        cluster: Option<String>,
    },
    /// Remove a schedule; its deployments stay.
    Delete {
        /// The schedule's id.
        id: Uuid,
    },
    /// Show the next moments of a cron expression.
    Times {
        /// Minute, hour, day, month, weekday, as in '0 6 * * mon-fri'; or @hourly, @daily, @weekly, @monthly, @yearly.
        cron: String,
        /// Whose calendar and clock.
        #[arg(long, value_name = "ZONE", default_value = "UTC")]
        time_zone: String,
        /// How many.
        #[arg(long, value_name = "N", default_value = "5")]
        count: i32,
    },
}

#[derive(Debug, Args)]
pub struct Set {
    /// Unique within the cluster.
    pub name: String,
    /// Where it runs: name or id.
    #[arg(long)]
    pub cluster: String,
    /// Minute, hour, day, month, weekday, as in '0 6 * * mon-fri'; or @hourly, @daily, @weekly, @monthly, @yearly.
    #[arg(long)]
    pub cron: String,
    /// A file with the whole config_snapshot as JSON; - is standard input.
    #[arg(long, value_name = "FILE")]
    pub file: PathBuf,
    /// Whose calendar and clock, as Europe/Berlin; UTC when it is left out.
    #[arg(long, value_name = "ZONE")]
    pub time_zone: Option<String>,
    /// What becomes of moments at which nobody served: skip, once (the newest), or all (the newest ten).
    #[arg(long, value_parser = ["skip", "once", "all"])]
    pub missed: Option<String>,
    /// How many are made up for by --missed all.
    #[arg(long, value_name = "N")]
    pub catch_up_max: Option<u64>,
    /// Only plan, and show whether there is anything to change.
    #[arg(long)]
    pub drift: bool,
    /// Keep it, and do not run it.
    #[arg(long)]
    pub disabled: bool,
}

impl Set {
    fn options(&self) -> Value {
        let mut options = Map::new();
        options.extend(self.time_zone.as_ref().map(|zone| ("time_zone".to_owned(), json!(zone))));
        options.extend(self.missed.as_ref().map(|missed| ("missed".to_owned(), json!(missed))));
        options.extend(self.catch_up_max.map(|max| ("catch_up_max".to_owned(), json!(max))));
        options.extend([("drift".to_owned(), json!(self.drift)), ("enabled".to_owned(), json!(!self.disabled))]);
        options.into()
    }
}

pub async fn schedule(context: &Context, command: Schedule) -> Result<Outcome, Failure> {
    let mut connection = context.connect().await?;
    match command {
        Schedule::Set(set) => {
            let wanted = Wanted {
                cluster: clusters::find(&mut connection, &set.cluster).await?,
                name: set.name.clone(),
                cron: set.cron.clone(),
                snapshot: read_json(&set.file)?,
                options: set.options(),
            };
            let id = schedules::set(&mut connection, &wanted).await?;
            let object = json!({"id": id, "name": set.name});
            context.output.print(&object, || format!("schedule {} ({id})", set.name))?;
        }
        Schedule::List { cluster } => {
            let cluster = match &cluster {
                Some(name) => Some(clusters::find(&mut connection, name).await?),
                None => None,
            };
            let listed = schedules::list(&mut connection, cluster).await?;
            context.output.print(&listed, || tell(&listed))?;
        }
        Schedule::Delete { id } => {
            schedules::delete(&mut connection, id).await?;
            context.output.print(&json!({"id": id, "deleted": true}), || format!("schedule {id} is gone"))?;
        }
        Schedule::Times { cron, time_zone, count } => {
            let times = schedules::times(&mut connection, &cron, &time_zone, count).await?;
            let texts: Vec<String> = times.into_iter().map(moment).collect();
            context.output.print(&texts, || texts.join("\n"))?;
        }
    }
    Ok(Outcome::Done)
}

fn tell(listed: &[schedules::Schedule]) -> String {
    if listed.is_empty() {
        return "no schedules".into();
    }
    let row = |s: &schedules::Schedule| {
        let seen = match (&s.last_error, s.drifted) {
            (Some(error), _) => error.clone(),
            (None, Some(true)) => format!("drift: {}", s.changes.as_ref().map_or_else(String::new, Value::to_string)),
            (None, Some(false)) => "no drift".into(),
            (None, None) => s.last_status.clone().unwrap_or_else(|| "-".into()),
        };
        let (next, last) = (moment_or_dash(s.next_at), moment_or_dash(s.last_at));
        vec![s.id.to_string(), s.cluster.clone(), s.name.clone(), s.cron.clone(), s.time_zone.clone(), next, last, seen]
    };
    let rows: Vec<Vec<String>> = listed.iter().map(row).collect();
    table(&["ID", "CLUSTER", "NAME", "CRON", "ZONE", "NEXT", "LAST", "SEEN"], &rows)
}
