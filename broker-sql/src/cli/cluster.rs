//! `cluster create | list | rotate | revoke`; what brakes a cluster stands in `queue`.

use crate::cli::Context;
use crate::cli::arguments::Cluster;
use crate::cli::exit::{Failure, Outcome};
use crate::cli::output::{moment_or_dash, table};
use crate::cli::queue;
use crate::operator::clusters::{self, IssuedCredential};
use crate::portal;

pub async fn cluster(context: &Context, command: Cluster) -> Result<Outcome, Failure> {
    let connection = &mut context.connect().await?;
    match command {
        Cluster::Create { name, user_id } => {
            let issued = clusters::create(connection, &name, user_id.as_deref()).await?;
            context.output.print(&issued, || tell(&issued))?;
        }
        Cluster::List => {
            let clusters = clusters::list(connection).await?;
            context.output.print(&clusters, || tell_all(&clusters))?;
        }
        Cluster::Rotate { cluster, drain } => {
            let id = portal::clusters::find(connection, &cluster).await?;
            let issued = clusters::rotate(connection, id, drain.as_deref()).await?;
            context.output.print(&issued, || tell(&issued))?;
        }
        Cluster::Pause(options) => return queue::pause_cluster(context, &options, false).await,
        Cluster::Drain(options) => return queue::pause_cluster(context, &options, true).await,
        Cluster::Resume { cluster } => return queue::resume_cluster(context, &cluster).await,
        Cluster::Limit(options) => return queue::limit(context, &options).await,
        Cluster::Revoke { cluster, now } => {
            let id = portal::clusters::find(connection, &cluster).await?;
            let revoked = clusters::revoke(connection, id, now).await?;
            context.output.print(&revoked, || match revoked.ended {
                true => format!(
                    "cluster {} ({}) is revoked, its sessions are ended; results of what ran stay on its runners' disks",
                    revoked.name, revoked.id
                ),
                false => format!(
                    "cluster {} ({}) is revoked: nothing more is claimed, what runs may finish until {}",
                    revoked.name, revoked.id, revoked.drain_until
                ),
            })?;
        }
    }
    Ok(Outcome::Done)
}

fn tell(issued: &IssuedCredential) -> String {
    let until = issued
        .drain_until
        .as_ref()
        .map_or_else(String::new, |until| format!("\nThe older credential finishes what it holds until {until}."));
    format!(
        "cluster {name} ({id}), credential {generation}, role {role}\n\n{token}\n\n\
         Give this token to the cluster's runners as TENDRIL_AGENT_TOKEN (in Kubernetes: a Secret). It is shown only now \
         and stored nowhere.{until}",
        name = issued.name,
        id = issued.id,
        generation = issued.generation,
        role = issued.role,
        token = issued.token.reveal(),
    )
}

fn tell_all(clusters: &[clusters::Cluster]) -> String {
    if clusters.is_empty() {
        return "no clusters; `tendril-broker cluster create NAME` registers one".into();
    }
    let rows: Vec<Vec<String>> = clusters
        .iter()
        .map(|c| {
            vec![
                c.id.to_string(),
                c.name.clone(),
                c.user_id.clone().unwrap_or_else(|| "-".into()),
                c.status.clone(),
                c.runners_online.to_string(),
                moment_or_dash(c.last_seen_at),
                c.credentials.join(", "),
            ]
        })
        .collect();
    table(&["ID", "NAME", "USER", "STATUS", "RUNNERS", "LAST SEEN", "CREDENTIALS"], &rows)
}
