//! `after-restore`.

use clap::Args;

use crate::cli::Context;
use crate::cli::exit::{Failure, Outcome};
use crate::cli::output::table;
use crate::operator::set_back::{self, Quarantined};
use crate::portal::clusters;

#[derive(Debug, Args)]
pub struct AfterRestore {
    /// Only one cluster, by name or id; without it all.
    #[arg(long)]
    pub cluster: Option<String>,
    /// What was restored; shown with each job that waits for it.
    #[arg(long)]
    pub reason: Option<String>,
}

pub async fn after_restore(context: &Context, options: &AfterRestore) -> Result<Outcome, Failure> {
    let mut connection = context.connect().await?;
    let cluster = match &options.cluster {
        Some(name) => Some(clusters::find(&mut connection, name).await?),
        None => None,
    };
    let told = set_back::after_restore(&mut connection, cluster, options.reason.as_deref()).await?;
    context.output.print(&told, || {
        let row = |row: &Quarantined| vec![row.name.clone(), row.incarnation.to_string(), row.jobs.to_string()];
        let rows: Vec<_> = told.iter().map(row).collect();
        let rows = table(&["CLUSTER", "INCARNATION", "JOBS THAT WAIT FOR APPROVAL"], &rows);
        format!("{rows}\nlook at the real thing for each of them, then `tendril-broker approve` or `reject`")
    })?;
    Ok(Outcome::Done)
}
