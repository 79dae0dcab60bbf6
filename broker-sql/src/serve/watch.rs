//! The watch over runners' sessions: ends those that hold a transaction, or a hoard of locks, for too long.
//!
//! What a tenant has exhausted, such as the table of locks, is exhausted for new sessions, for transactions with an id and for whoever looks
//! a role up, too. So the watch keeps its connection, writes nothing, and stands in a transaction that has all the locks it needs; no
//! snapshot, and so no xmin, is held between two looks. Where its server is not to be trusted any more it takes a new post beside the old
//! one, which it leaves when it has the new one. Every replica watches.

use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use sqlx::Executor;
use sqlx::postgres::PgConnection;
use tokio::sync::Notify;
use tokio::time::{Instant, Interval, MissedTickBehavior};
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
/// A look takes a millisecond; ending somebody a second at most, and a sweep so long and a second more.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long hoarders are barred before the next look.
const SWEEP: Duration = Duration::from_secs(3);
/// How old the transaction becomes that it stands in: who rewrites the catalogue of roles waits for its end.
const STANDS_FOR: Duration = Duration::from_secs(60);
/// How long a new post waits for a look that the old one has begun.
const LAST_LOOK: Duration = Duration::from_secs(3);

/// Watches until `stop`. Notified by `anew`, it takes it that its sessions may be at a server that is silent, or no longer the one.
pub async fn keep(address: Address, anew: Arc<Notify>, metrics: Arc<Metrics>, stop: CancellationToken) {
    let mut watch = Watch {
        address: &address,
        anew: &anew,
        metrics: &metrics,
        trouble: Trouble::beside_the_pulse(DUTY),
        hoarders: BTreeSet::new(),
        swept_to: String::new(),
    };
    loop {
        let lost = tokio::select! {
            lost = watch.watch_while_connected() => lost,
            () = stop.cancelled() => return,
        };
        metrics.duty_failed(DUTY);
        let wait = watch.trouble.grows(&lost);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// What outlives every post.
struct Watch<'a> {
    address: &'a Address,
    anew: &'a Notify,
    metrics: &'a Metrics,
    trouble: Trouble,
    /// Credentials that are to be barred: at most those that there are.
    hoarders: BTreeSet<String>,
    /// The last of them that was tried.
    swept_to: String,
}

impl Watch<'_> {
    /// Returns what ended the connection. A statement that fails does not: there may be no room for another session.
    async fn watch_while_connected(&mut self) -> Error {
        let mut post = match Post::take(self.address).await {
            Ok(post) => post,
            Err(error) => return error,
        };
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut relief = pin!(relief(self.address, self.anew));
        loop {
            let next = {
                let mut turn = pin!(self.turn(&mut post, &mut ticks));
                let next = tokio::select! {
                    turned = &mut turn => match turned {
                        Ok(()) => continue,
                        Err(lost) => return lost,
                    },
                    next = &mut relief => next,
                };
                drop(tokio::time::timeout(LAST_LOOK, turn).await);
                next
            };
            self.hoarders.append(&mut post.found);
            post = next;
            relief.set(self::relief(self.address, self.anew));
        }
    }

    /// The next look, and what comes of it.
    async fn turn(&mut self, post: &mut Post, ticks: &mut Interval) -> Result<(), Error> {
        ticks.tick().await;
        let started = Instant::now();
        let looked = in_time(post.look()).await;
        self.hoarders.append(&mut post.found);
        let barred = in_time(self.bar(&mut post.hand)).await;
        if let Ok(1..) = barred {
            // Who was on the way in meanwhile is in now, and cannot come back.
            ticks.reset_immediately();
        }
        match looked.and_then(|old| Ok(old + barred?)) {
            Ok(ended) => {
                self.metrics.duty_done(DUTY, started.elapsed(), ended);
                self.trouble.is_over();
                Ok(())
            }
            Err(error @ Error::Refused(_)) => {
                self.metrics.duty_failed(DUTY);
                self.trouble.grows(&error);
                Ok(())
            }
            Err(lost) => Err(lost),
        }
    }

    /// Bars each that it can, until the sweep is over; who is left is tried after the next look, which goes on where this one ended.
    async fn bar(&mut self, hand: &mut PgConnection) -> Result<i64, Error> {
        let (mut barred, mut refused) = (0, None);
        let over = Instant::now() + SWEEP;
        for role in in_turn(&self.hoarders, &self.swept_to) {
            if Instant::now() >= over {
                break;
            }
            self.swept_to.clone_from(&role);
            let barring = sqlx::query!(
                "-- bar role
                select tendril_core.bar_role($1)",
                role
            );
            match barring.execute(&mut *hand).await.map_err(Error::from) {
                Ok(_) => {
                    warn!(
                        role,
                        "its sessions took more of the server's locks than their share: ended, and nobody logs in with it for a minute"
                    );
                    self.hoarders.remove(&role);
                    barred += 1;
                }
                Err(error @ Error::Refused(_)) => refused = Some(error),
                Err(lost) => return Err(lost),
            }
        }
        refused.map_or(Ok(barred), Err)
    }
}

/// Those behind the last one that was tried, then those up to it.
fn in_turn(hoarders: &BTreeSet<String>, swept_to: &str) -> Vec<String> {
    let (before, behind): (Vec<_>, Vec<_>) = hoarders.iter().cloned().partition(|role| role.as_str() <= swept_to);
    [behind, before].concat()
}

/// A post where the writes are taken now: when the old one has stood for long enough, or is not to be trusted any more.
async fn relief(address: &Address, anew: &Notify) -> Post {
    tokio::select! {
        () = tokio::time::sleep(STANDS_FOR) => {}
        () = anew.notified() => {}
    }
    loop {
        if let Ok(post) = Post::take(address).await {
            return post;
        }
        tokio::time::sleep(EVERY).await;
    }
}

async fn in_time<T>(doing: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::time::timeout(PATIENCE, doing).await.unwrap_or(Err(Error::Broken(sqlx::Error::PoolTimedOut)))
}

/// Two sessions: one that stands in its transaction and looks, one that writes.
struct Post {
    eyes: PgConnection,
    hand: PgConnection,
    /// Whose hoards it has ended, and nobody has been told of.
    found: BTreeSet<String>,
}

impl Post {
    async fn take(address: &Address) -> Result<Self, Error> {
        in_time(async {
            let (mut eyes, mut hand) = (address.connect(APPLICATION).await?, address.connect(APPLICATION).await?);
            let stand =
                "-- stand watch\nset idle_in_transaction_session_timeout = 0; begin; select tendril_core.stand_watch()";
            eyes.execute(stand).await?;
            // One that somebody holds keeps no other waiting.
            hand.execute("-- settings of the watch\nset lock_timeout = '1s'").await?;
            let mut post = Self { eyes, hand, found: BTreeSet::new() };
            // Once while there is room: from then on its statements are known. What is refused now may be granted at the next look.
            match post.look().await {
                Ok(_) | Err(Error::Refused(_)) => Ok(post),
                Err(lost) => Err(lost),
            }
        })
        .await
    }

    /// Ends whom it finds; whatever comes of that, what it has locked of our own tables is given back and its transaction stands.
    /// Returns how many sessions it ended for their age.
    async fn look(&mut self) -> Result<i64, Error> {
        self.eyes.execute("-- look\nsavepoint look").await?;
        let ended = self.end().await;
        self.eyes.execute("-- looked\nrollback to savepoint look; release savepoint look").await?;
        if let Ok(old @ 1..) = ended {
            debug!(sessions = old, "held a transaction open for too long: ended");
        }
        ended
    }

    async fn end(&mut self) -> Result<i64, Error> {
        let hoarders = sqlx::query_scalar!(
            r#"-- end hoards
            select role as "role!" from tendril_core.end_hoards() role"#
        );
        self.found.extend(hoarders.fetch_all(&mut self.eyes).await?);
        let old = sqlx::query_scalar!(
            r#"-- end old transactions
            select tendril_core.duty_sessions() as "ended!""#
        );
        Ok(old.fetch_one(&mut self.eyes).await?)
    }
}
