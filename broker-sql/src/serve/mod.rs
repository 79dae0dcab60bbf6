//! `tendril-broker serve`: does what nobody's session may be trusted with. Any number of replicas may run.
//!
//! - `pulse`: one beat each second, on a connection of its own. Without it nobody is presumed dead.
//! - `duties`: expiry, deadlines, counters, log windows, credentials, partitions; each by itself, each a short
//!   transaction that one replica takes at a time.
//! - `archive`: closed logs to the archive, and old days out of the database; leases in the database share the work.
//! - `watch`: ends runners' sessions that take more of the server than their share.
//! - `observe`, `figures`, `metrics` and `http`: what Prometheus and Kubernetes ask.
//!
//! A database that goes away stops nothing here: it is said once, and tried again. On SIGTERM everything stops within
//! two seconds; a duty that was under way is rolled back and done by the next who comes.

mod archive;
mod archive_metrics;
mod duties;
pub(crate) mod figures;
mod http;
mod metrics;
pub(crate) mod observe;
mod pulse;
mod trouble;
mod watch;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Executor;
use sqlx::postgres::{PgPool, PgPoolOptions};
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::archive::{Archive, ArchiveError, ArchiveOptions};
use crate::operator::migration;
use crate::refusal::Error;
use crate::serve::figures::Part;
use crate::serve::metrics::Metrics;
use crate::session::Address;

/// Sessions for duties, beside the pulse's own.
const SESSIONS: u32 = 4;
/// How long the end may take, with a margin for the process's own.
const GOODBYE: Duration = Duration::from_millis(1500);
/// Name of our sessions in `pg_stat_activity`.
const APPLICATION: &str = "tendril-broker serve";

/// What `serve` needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// The database, as the role that owns the schema.
    pub address: Address,
    /// Where to answer `/metrics`, `/healthz` and `/readyz`.
    pub listen: Option<SocketAddr>,
    /// Time between two beats; a gap of 2 s renews all leases.
    pub beat: Duration,
    /// Where closed logs go; without it old days are removed all the same.
    pub archive: Option<ArchiveOptions>,
}

/// Why `serve` did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The database refuses us, or the schema is not one that we can serve.
    #[error(transparent)]
    Database(#[from] Error),
    /// The address for HTTP is taken or not ours.
    #[error("cannot listen at {0}: {1}")]
    Listen(SocketAddr, std::io::Error),
    /// This program cannot open archives.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
}

/// Serves until `stop`.
///
/// # Errors
/// Only what waiting cannot mend, before anything was done: a wrong password, a schema without our migrations, an
/// address that cannot be listened at. An outage of the database is waited for.
pub async fn run(options: Options, stop: CancellationToken) -> Result<(), StartError> {
    let metrics = Arc::new(Metrics::new());
    let tasks = TaskTracker::new();
    if let Some(at) = options.listen {
        let listener = TcpListener::bind(at).await;
        let listener = listener.map_err(|error| StartError::Listen(at, error))?;
        info!(address = %at, "answering /metrics, /healthz and /readyz");
        tasks.spawn(http::answer(listener, metrics.clone(), stop.clone()));
    }
    let checked = tokio::select! {
        checked = check_schema(&options.address) => checked,
        () = stop.cancelled() => return Ok(()),
    };
    checked?;
    info!(database = %options.address, "serving");
    let archive = match &options.archive {
        Some(given) => Some((Archive::open(given).await?, given.location.to_string())),
        None => None,
    };
    if let Some((_, url)) = &archive {
        info!(archive = %url, "closed logs are archived");
    }
    let begin_anew = Arc::new(Notify::new());
    let beaten = pulse::Beaten { every: options.beat, begin_anew: begin_anew.clone() };
    tasks.spawn(archive::remove_days(options.address.clone(), metrics.clone(), stop.clone()));
    tasks.spawn(pulse::beat(options.address.clone(), beaten, metrics.clone(), stop.clone()));
    // Not among what begins anew below: where a tenant has left no room for new sessions, those that stand are all there is.
    let watch_anew = Arc::new(Notify::new());
    tasks.spawn(watch::keep(options.address.clone(), watch_anew.clone(), metrics.clone(), stop.clone()));
    let pool = loop {
        let turn = stop.child_token();
        let pool = begin(&options.address, archive.clone(), &metrics, &tasks, &turn);
        tokio::select! {
            () = stop.cancelled() => break pool,
            () = begin_anew.notified() => {}
        }
        // Sessions of a server that is silent, or has been replaced, may never hear of it: nothing waits for them.
        info!(database = %options.address, "the database was silent, or is another server: all sessions begin anew");
        turn.cancel();
        watch_anew.notify_one();
        tokio::spawn(async move { pool.close().await });
    };
    info!("stopping");
    tasks.close();
    let ended = async {
        tasks.wait().await;
        pool.close().await;
    };
    if tokio::time::timeout(GOODBYE, ended).await.is_err() {
        warn!("what was still under way is rolled back by the database");
    }
    Ok(())
}

/// Starts all that shares sessions, until `turn` is over.
fn begin(
    address: &Address,
    archive: Option<(Archive, String)>,
    metrics: &Arc<Metrics>,
    tasks: &TaskTracker,
    turn: &CancellationToken,
) -> PgPool {
    let pool = pool(address, SESSIONS);
    if let Some((opened, url)) = archive {
        let sessions = self::pool(address, archive::SESSIONS);
        tasks.spawn(archive::ship(sessions, opened, url, metrics.clone(), turn.clone()));
    }
    tasks.spawn(archive::observe(pool.clone(), metrics.clone(), turn.clone()));
    tasks.spawn(duties::tend(pool.clone(), metrics.clone(), tasks.clone(), turn.clone()));
    for part in [Part::Work, Part::Room] {
        tasks.spawn(observe::observe(pool.clone(), part, metrics.clone(), turn.clone()));
    }
    pool
}

/// Waits for a database that is down; refuses one that is not ours to serve.
async fn check_schema(address: &Address) -> Result<(), Error> {
    let mut trouble = trouble::Trouble::new("database");
    loop {
        let looked = match address.connect(APPLICATION).await {
            Ok(mut connection) => migration::state(&mut connection).await,
            Err(error) => Err(error),
        };
        match looked {
            Err(error) if error.is_outage() => tokio::time::sleep(trouble.grows(&error)).await,
            Err(error) => return Err(error),
            Ok(state) => {
                trouble.is_over();
                if state.version > Some(state.known) {
                    warn!(
                        schema = state.version,
                        known = state.known,
                        "the schema is newer than this program; it serves what it finds"
                    );
                }
                return state.require();
            }
        }
    }
}

fn pool(address: &Address, sessions: u32) -> PgPool {
    PgPoolOptions::new()
        .max_connections(sessions)
        .acquire_timeout(Duration::from_secs(5))
        .idle_timeout(Duration::from_secs(60))
        .after_connect(|connection, _| {
            Box::pin(async move {
                let settings = "-- settings of duties\nset lock_timeout = '2s'; set statement_timeout = '30s'; \
                    set idle_in_transaction_session_timeout = '30s'; set default_transaction_isolation = 'read committed'";
                connection.execute(settings).await.map(drop)
            })
        })
        .connect_lazy_with(address.options_for(APPLICATION))
}
