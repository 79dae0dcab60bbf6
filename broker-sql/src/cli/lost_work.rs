//! `declare-lost`, `key list | release` and `state lock | unlock`.

use clap::{Args, Subcommand};
use serde_json::json;
use uuid::Uuid;

use crate::cli::Context;
use crate::cli::exit::{Failure, Outcome};
use crate::cli::output::{moment, table};
use crate::clock::new_id;
use crate::operator::lost_work::{self, HeldKey};
use crate::portal::clusters;

#[derive(Debug, Args)]
pub struct DeclareLost {
    /// The deployment's id.
    pub id: Uuid,
    /// The job.
    #[arg(long)]
    pub job: String,
    /// Why; shown with the deployment.
    #[arg(long)]
    pub reason: String,
}

#[derive(Debug, Subcommand)]
pub enum Key {
    /// List held keys: who holds them, whether that runner is heard, how many jobs wait.
    List {
        /// Only those of one cluster: name or id.
        #[arg(long)]
        cluster: Option<String>,
    },
    /// Free a held key. Refused while its holder is heard. Be sure that nothing writes this state any more.
    Release {
        /// Name or id of the cluster.
        #[arg(long)]
        cluster: String,
        /// The key, as `key list` shows it.
        key: String,
        /// Why; kept with the attempt that held it.
        #[arg(long)]
        reason: String,
    },
}

#[derive(Debug, Subcommand)]
pub enum State {
    /// Have a runner look who holds the lock, since when, and by which id.
    Lock {
        /// A deployment with that state.
        id: Uuid,
    },
    /// Have a runner release the lock. Refused while a run of the cluster has the state, or may have.
    Unlock {
        /// A deployment with that state.
        id: Uuid,
        /// The lock's id, as `state lock` and the engine's errors show it; no other lock is released.
        #[arg(long, value_name = "ID")]
        lock_id: String,
        /// Why; kept with the job.
        #[arg(long)]
        reason: String,
    },
}

pub async fn declare_lost(context: &Context, options: &DeclareLost) -> Result<Outcome, Failure> {
    let mut connection = context.connect().await?;
    let (id, job) = (options.id, &options.job);
    lost_work::declare_lost(&mut connection, id, job, &options.reason).await?;
    let object = json!({"id": id, "job": job, "state": "FAILED"});
    context.output.print(&object, || {
        format!(
            "job {job} of deployment {id} is FAILED; if it holds a state key, `tendril-broker key list` shows it, \
             and it stays held until you release it"
        )
    })?;
    Ok(Outcome::Done)
}

pub async fn key(context: &Context, command: Key) -> Result<Outcome, Failure> {
    let mut connection = context.connect().await?;
    match command {
        Key::List { cluster } => {
            let cluster = match &cluster {
                Some(name) => Some(clusters::find(&mut connection, name).await?),
                None => None,
            };
            let keys = lost_work::held_keys(&mut connection, cluster).await?;
            context.output.print(&keys, || match keys.is_empty() {
                true => "no key is held".into(),
                false => tell(&keys),
            })?;
        }
        Key::Release { cluster, key, reason } => {
            let id = clusters::find(&mut connection, &cluster).await?;
            lost_work::release_key(&mut connection, id, &key, &reason).await?;
            let object = json!({"cluster_id": id, "key": key, "held": false});
            context.output.print(&object, || {
                format!("key {key} is free; the engine's own lock is another matter: `tendril-broker state lock`")
            })?;
        }
    }
    Ok(Outcome::Done)
}

pub async fn state(context: &Context, command: State) -> Result<Outcome, Failure> {
    let mut connection = context.connect().await?;
    let (of, id) = match &command {
        State::Lock { id } => (*id, lost_work::state_lock(&mut connection, *id, new_id()).await?),
        State::Unlock { id, lock_id, reason } => {
            (*id, lost_work::state_unlock(&mut connection, *id, (lock_id, reason), new_id()).await?)
        }
    };
    let object = json!({"id": id, "state_of": of});
    context.output.print(&object, || {
        let what = if matches!(command, State::Lock { .. }) { "looks who holds the lock" } else { "releases the lock" };
        format!("deployment {id} {what}\nfollow it: tendril-broker watch {id}")
    })?;
    Ok(Outcome::Done)
}

fn tell(keys: &[HeldKey]) -> String {
    let row = |k: &HeldKey| {
        vec![
            k.cluster.clone(),
            k.key.clone(),
            format!("{} of {}", k.job, k.deployment_id),
            k.job_state.clone(),
            if k.holder_alive { "yes" } else { "no" }.into(),
            k.waiting.to_string(),
            moment(k.taken_at),
        ]
    };
    let rows: Vec<Vec<String>> = keys.iter().map(row).collect();
    table(&["CLUSTER", "KEY", "HELD BY", "STATE", "ALIVE", "WAITING", "SINCE"], &rows)
}
