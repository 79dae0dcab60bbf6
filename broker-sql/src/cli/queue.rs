//! Who waits, and for how long: `snooze`.

use clap::Args;
use serde_json::json;
use uuid::Uuid;

use crate::cli::Context;
use crate::cli::exit::{Failure, Outcome};
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
