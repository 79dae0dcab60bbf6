//! `status`, `list`, `cancel`, `approve`, `reject`, `retry`.

use serde_json::json;
use uuid::Uuid;

use crate::cli::Context;
use crate::cli::arguments::{Approve, Cancel, List, Retry};
use crate::cli::exit::{Failure, Outcome};
use crate::cli::output::{moment, table};
use crate::cli::watch::tell_outputs;
use crate::clock::new_id;
use crate::portal::clusters;
use crate::portal::deployments::{self, Filter, JobState, Listed, State};

pub async fn status(context: &Context, id: Uuid) -> Result<Outcome, Failure> {
    let mut connection = context.connect().await?;
    let state = deployments::state(&mut connection, id).await?;
    context.output.print(&state.whole, || tell(&state))?;
    Ok(Outcome::Done)
}

fn tell(state: &State) -> String {
    let mut lines = vec![
        format!("deployment {}", state.id),
        format!("status     {}", state.status),
        format!("cluster    {}", state.cluster_id),
        format!("submitted  {}", state.created_at),
    ];
    let optional =
        [("waits for", &state.waiting_for), ("error", &state.error_message), ("state", &state.state_location)];
    for (name, value) in optional {
        lines.extend(value.as_ref().map(|value| format!("{name:<10} {value}")));
    }
    let row = |job: &JobState| {
        let why = job.waiting_for.as_ref().map(|what| format!("waits for {what}"));
        let why = job.reason.clone().or(why).unwrap_or_default();
        let attempts = job.attempts.to_string();
        vec![job.name.clone(), job.kind.clone(), job.state.clone(), attempts, why]
    };
    let rows: Vec<Vec<String>> = state.jobs.iter().map(row).collect();
    lines.push(String::new());
    lines.push(table(&["JOB", "KIND", "STATE", "ATTEMPTS", "WHY"], &rows));
    for job in &state.jobs {
        lines.extend(job.approval.as_ref().map(|a| {
            let why = a.reason.as_ref().map_or_else(String::new, |reason| format!(": {reason}"));
            format!("\n{} was {} by {} at {}{why}", job.name, a.decision, a.actor, a.decided_at)
        }));
    }
    let outputs = tell_outputs(state.outputs.as_ref());
    if !outputs.is_empty() {
        lines.push(format!("\noutputs\n{outputs}"));
    }
    lines.join("\n")
}

pub async fn list(context: &Context, options: List) -> Result<Outcome, Failure> {
    let mut connection = context.connect().await?;
    let cluster = match &options.cluster {
        Some(name) => Some(clusters::find(&mut connection, name).await?),
        None => None,
    };
    let filter = Filter {
        cluster,
        status: options.status.map(|status| status.to_uppercase()),
        limit: options.limit,
        after: None,
    };
    let listed = deployments::list(&mut connection, &filter).await?;
    context.output.print(&listed, || tell_all(&listed))?;
    Ok(Outcome::Done)
}

fn tell_all(listed: &[Listed]) -> String {
    if listed.is_empty() {
        return "no deployments".into();
    }
    let row = |d: &Listed| {
        let waits = d.waiting_for.as_ref().map(|what| format!("waits for {what}"));
        let why = d.error_message.clone().or(waits).unwrap_or_default();
        vec![d.id.to_string(), d.cluster.clone(), d.status.clone(), moment(d.created_at), why]
    };
    let rows: Vec<Vec<String>> = listed.iter().map(row).collect();
    table(&["ID", "CLUSTER", "STATUS", "SUBMITTED", "WHY"], &rows)
}

pub async fn cancel(context: &Context, options: &Cancel) -> Result<Outcome, Failure> {
    let mut connection = context.connect().await?;
    let status = deployments::cancel(&mut connection, options.id, options.reason.as_deref()).await?;
    let object = json!({"id": options.id, "status": status});
    context.output.print(&object, || match status.as_str() {
        "CANCELLED" => format!("deployment {} is cancelled", options.id),
        status => format!(
            "deployment {} is {status}: what runs was asked to stop, and ends as its runner reports",
            options.id
        ),
    })?;
    Ok(Outcome::Done)
}

pub async fn approve(context: &Context, options: &Approve) -> Result<Outcome, Failure> {
    let mut connection = context.connect().await?;
    let (job, reason) = (options.job.as_deref(), options.reason.as_deref());
    let jobs = deployments::approve(&mut connection, options.id, job, reason).await?;
    let object = json!({"id": options.id, "approved": jobs});
    context.output.print(&object, || match jobs {
        1 => "1 job goes on".to_owned(),
        jobs => format!("{jobs} jobs go on"),
    })?;
    Ok(Outcome::Done)
}

pub async fn reject(context: &Context, options: &Approve) -> Result<Outcome, Failure> {
    let mut connection = context.connect().await?;
    let (job, reason) = (options.job.as_deref(), options.reason.as_deref());
    let jobs = deployments::reject(&mut connection, options.id, job, reason).await?;
    let object = json!({"id": options.id, "rejected": jobs});
    context.output.print(&object, || format!("{jobs} jobs are cancelled, and what waited behind them is skipped"))?;
    Ok(Outcome::Done)
}

pub async fn retry(context: &Context, options: &Retry) -> Result<Outcome, Failure> {
    let mut connection = context.connect().await?;
    let new_id = options.new_id.unwrap_or_else(new_id);
    let id = deployments::retry(&mut connection, options.id, new_id).await?;
    let object = json!({"id": id, "retry_of": options.id});
    context.output.print(&object, || format!("deployment {id} does it again\nfollow it: tendril-broker watch {id}"))?;
    Ok(Outcome::Done)
}
