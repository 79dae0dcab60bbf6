//! The watch over runners' sessions: ends those that hold a transaction, or a hoard of locks, for too long.
//!
//! What a tenant has exhausted, such as the table of locks, is exhausted for new sessions, for transactions with an id and for whoever looks
//! a role up, too. So the watch keeps its connection, writes nothing, and stands in a transaction that has all the locks it needs; no
//! snapshot, and so no xmin, is held between two looks. Every replica watches.

use std::sync::Arc;
use std::time::Duration;

use sqlx::Executor;
use sqlx::postgres::PgConnection;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::refusal::Error;
use crate::serve::APPLICATION;
use crate::serve::metrics::Metrics;
use crate::serve::trouble::Trouble;
use crate::session::Address;

/// The duty that runs here and not among the others.
pub const DUTY: &str = "sessions";
const EVERY: Duration = Duration::from_secs(1);
/// A look takes a millisecond; ending somebody a second at most.
const PATIENCE: Duration = Duration::from_secs(20);
/// How old the transaction becomes that it stands in: who rewrites the catalogue of roles waits for its end.
const STANDS_FOR: Duration = Duration::from_secs(60);

/// Watches until `stop`.
pub async fn keep(address: Address, metrics: Arc<Metrics>, stop: CancellationToken) {
    let mut trouble = Trouble::beside_the_pulse(DUTY);
    loop {
        let lost = tokio::select! {
            lost = watch_while_connected(&address, &metrics, &mut trouble) => lost,
            () = stop.cancelled() => return,
        };
        metrics.duty_failed(DUTY);
        let wait = trouble.grows(&lost);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Returns what ended the connection. A statement that fails does not: there may be no room for another session.
async fn watch_while_connected(address: &Address, metrics: &Metrics, trouble: &mut Trouble) -> Error {
    let mut post = match Post::take(address).await {
        Ok(post) => post,
        Err(error) => return error,
    };
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let started = Instant::now();
        match tokio::time::timeout(PATIENCE, post.look()).await {
            Ok(Ok(ended)) => {
                metrics.duty_done(DUTY, started.elapsed(), ended);
                trouble.is_over();
            }
            Ok(Err(error @ Error::Refused(_))) => {
                metrics.duty_failed(DUTY);
                trouble.grows(&error);
            }
            Ok(Err(error)) => return error,
            Err(_) => return Error::Broken(sqlx::Error::PoolTimedOut),
        }
        // The old post is left when the new one is taken, and not before.
        if post.since.elapsed() > STANDS_FOR
            && let Ok(Ok(next)) = tokio::time::timeout(PATIENCE, Post::take(address)).await
        {
            post = next;
        }
    }
}

/// Two sessions: one that stands in its transaction and looks, one that writes.
struct Post {
    eyes: PgConnection,
    hand: PgConnection,
    since: Instant,
}

impl Post {
    async fn take(address: &Address) -> Result<Self, Error> {
        let (mut eyes, hand) = (address.connect(APPLICATION).await?, address.connect(APPLICATION).await?);
        let stand =
            "-- stand watch\nset idle_in_transaction_session_timeout = 0; begin; select tendril_core.stand_watch()";
        eyes.execute(stand).await?;
        let mut post = Self { eyes, hand, since: Instant::now() };
        // Once while there is room: from then on its statements are known.
        post.look().await?;
        Ok(post)
    }

    /// Returns how many sessions it ended for their age, and credentials for their hoards.
    async fn look(&mut self) -> Result<i64, Error> {
        let (hoarders, old) = self.find().await?;
        for role in &hoarders {
            warn!(
                role,
                "its sessions took more of the server's locks than their share: ended, and nobody logs in with it for a minute"
            );
            sqlx::query!(
                "-- bar role
                select tendril_core.bar_role($1)",
                role
            )
            .execute(&mut self.hand)
            .await?;
        }
        if old > 0 {
            debug!(sessions = old, "held a transaction open for too long: ended");
        }
        Ok(old + i64::try_from(hoarders.len()).unwrap_or(i64::MAX))
    }

    /// Ends whom it finds; whatever comes of that, what it has locked of our own tables is given back and its transaction stands.
    async fn find(&mut self) -> Result<(Vec<String>, i64), Error> {
        self.eyes.execute("-- look\nsavepoint look").await?;
        let found = self.end().await;
        self.eyes.execute("-- looked\nrollback to savepoint look; release savepoint look").await?;
        found
    }

    async fn end(&mut self) -> Result<(Vec<String>, i64), Error> {
        let hoarders = sqlx::query_scalar!(
            r#"-- end hoards
            select role as "role!" from tendril_core.end_hoards() role"#
        );
        let hoarders = hoarders.fetch_all(&mut self.eyes).await?;
        let old = sqlx::query_scalar!(
            r#"-- end old transactions
            select tendril_core.duty_sessions() as "ended!""#
        );
        Ok((hoarders, old.fetch_one(&mut self.eyes).await?))
    }
}
