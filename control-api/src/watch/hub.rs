//! Who watches which deployment, and how far all of them have been told.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tendril_broker::portal::api_token::TokenHash;
use tendril_broker::portal::logs::LogChunk;
use tendril_broker::portal::tail::{News, Notice};
use tokio::sync::{Notify, broadcast};
use uuid::Uuid;

use crate::config::Config;
use crate::metrics::Metrics;
use crate::problem::{Kind, Problem};
use crate::watch::Position;

/// What the watchers of a deployment are told, all of them the same.
#[derive(Clone, Debug)]
pub enum Told {
    /// New chunks, in order within each attempt.
    Chunks(Arc<[Written]>),
    /// Some of it is no longer in the database: read by yourself.
    Elsewhere,
    /// Who watches with this token may not any more.
    Refused(TokenHash),
    /// Nothing more comes.
    Over {
        /// How the deployment ended.
        status: Arc<str>,
        /// Whether all that was printed was told.
        complete: bool,
    },
}

/// A chunk, written down once for all its readers.
#[derive(Debug)]
pub struct Written {
    /// Its attempt.
    pub attempt: Uuid,
    /// First record.
    pub seq: i64,
    /// Last record.
    pub seq_to: i64,
    /// The chunk as JSON.
    pub json: String,
}

impl Written {
    /// Writes a chunk down.
    pub fn new(chunk: &LogChunk) -> Self {
        // A chunk has no keys that are no text: this cannot fail.
        let json = serde_json::to_string(chunk).unwrap_or_default();
        Self { attempt: chunk.attempt_id, seq: chunk.seq, seq_to: chunk.seq_to, json }
    }
}

/// What the tail asks for: up to so many deployments, each with a token of somebody who watches it.
#[derive(Debug, Default)]
pub struct Due {
    /// Deployments and tokens.
    pub pairs: Vec<(Uuid, TokenHash)>,
    /// How far all of them have been told.
    pub position: Position,
}

struct Watched {
    /// Tells this from an earlier one of the same deployment.
    generation: u64,
    sender: broadcast::Sender<Told>,
    /// How far all watchers were told; `None` until the first of them has read what is there.
    head: Option<Position>,
    /// Who watches, and by which streams.
    tokens: BTreeMap<TokenHash, BTreeSet<u64>>,
}

#[derive(Default)]
struct State {
    watched: HashMap<Uuid, Watched>,
    by_token: HashMap<TokenHash, usize>,
    watchers: usize,
    /// Numbers of streams; that of the first of a deployment tells it from an earlier one.
    numbers: u64,
}

/// All of it.
pub struct Hub {
    state: Mutex<State>,
    metrics: Arc<Metrics>,
    /// Rung when there is something to look for.
    pub wake: Notify,
    batches: usize,
    watchers_max: usize,
    per_token_max: usize,
}

/// A stream's place at the hub, given back when dropped.
pub struct Subscription {
    hub: Arc<Hub>,
    deployment: Uuid,
    token: TokenHash,
    generation: u64,
    number: u64,
    receiver: broadcast::Receiver<Told>,
}

impl Subscription {
    /// What is told next; an error when this stream has too much to take.
    pub async fn next(&mut self) -> Result<Told, broadcast::error::RecvError> {
        self.receiver.recv().await
    }

    /// This stream has read up to here: what comes behind is for the tail. A position may be made up by who asks with it, so that
    /// of two the one that is further back counts: the others drop what they have.
    pub fn reached(&self, position: &Position) {
        let mut state = self.hub.lock();
        if let Some(watched) = state.watched.get_mut(&self.deployment)
            && watched.generation == self.generation
        {
            let head = watched.head.get_or_insert_with(|| position.clone());
            head.retain(|attempt, told| {
                let read = position.get(attempt);
                read.inspect(|read| *told = (*told).min(**read)).is_some()
            });
            self.hub.wake.notify_one();
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.leave(self);
    }
}

impl Hub {
    /// Nobody watches yet.
    pub fn new(config: &Config, metrics: Arc<Metrics>) -> Self {
        Self {
            state: Mutex::default(),
            metrics,
            wake: Notify::new(),
            batches: config.logs.slow_reader_batches,
            watchers_max: config.limits.watchers,
            per_token_max: config.limits.watchers_per_token,
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A place for a stream. Taken before the stream reads what is there: what is stored meanwhile is then told.
    ///
    /// # Errors
    /// When too many watch.
    pub fn subscribe(self: &Arc<Self>, deployment: Uuid, token: TokenHash) -> Result<Subscription, Problem> {
        let mut state = self.lock();
        if state.watchers >= self.watchers_max {
            return Err(Problem::new(Kind::Unavailable, "too many streams are open here").retry_after(10));
        }
        let mine = state.by_token.entry(token).or_default();
        if *mine >= self.per_token_max {
            let problem = Problem::new(Kind::RateLimited, "too many streams are open with this token");
            return Err(problem.retry_after(10));
        }
        *mine += 1;
        state.watchers += 1;
        state.numbers += 1;
        let number = state.numbers;
        let watched = state.watched.entry(deployment).or_insert_with(|| Watched {
            generation: number,
            sender: broadcast::Sender::new(self.batches),
            head: None,
            tokens: BTreeMap::new(),
        });
        watched.tokens.entry(token).or_default().insert(number);
        let (generation, receiver) = (watched.generation, watched.sender.subscribe());
        self.count(&state);
        Ok(Subscription { hub: self.clone(), deployment, token, generation, number, receiver })
    }

    fn leave(&self, place: &Subscription) {
        let mut state = self.lock();
        state.watchers = state.watchers.saturating_sub(1);
        if let Some(mine) = state.by_token.get_mut(&place.token) {
            *mine -= 1;
            if *mine == 0 {
                state.by_token.remove(&place.token);
            }
        }
        let watched = state.watched.get_mut(&place.deployment);
        if let Some(watched) = watched.filter(|watched| watched.generation == place.generation) {
            // Those of who was refused are not there any more.
            if let Some(streams) = watched.tokens.get_mut(&place.token)
                && streams.remove(&place.number)
                && streams.is_empty()
            {
                watched.tokens.remove(&place.token);
            }
            if watched.tokens.is_empty() {
                state.watched.remove(&place.deployment);
            }
        }
        self.count(&state);
    }

    fn count(&self, state: &State) {
        let of = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.metrics.watchers.set(of(state.watchers));
        self.metrics.watched.set(of(state.watched.len()));
    }

    /// All that the tail has to ask for, in parts of at most `most` deployments.
    pub fn due(&self, most: usize) -> Vec<Due> {
        let state = self.lock();
        let mut parts: Vec<Due> = Vec::new();
        for (deployment, watched) in &state.watched {
            let (Some(head), Some(token)) = (&watched.head, watched.tokens.keys().next()) else { continue };
            if parts.last().is_none_or(|part| part.pairs.len() >= most) {
                parts.push(Due::default());
            }
            let Some(part) = parts.last_mut() else { continue };
            part.pairs.push((*deployment, *token));
            part.position.extend(head);
        }
        parts
    }

    /// Everybody who watches anything.
    pub fn pairs(&self) -> Vec<(Uuid, TokenHash)> {
        let state = self.lock();
        let of = |(deployment, watched): (&Uuid, &Watched)| {
            watched.tokens.keys().map(|token| (*deployment, *token)).collect::<Vec<_>>()
        };
        state.watched.iter().flat_map(of).collect()
    }

    /// Tells the watchers of a deployment what is new; `asked_with` is the token that it was asked for with.
    pub fn tell(&self, deployment: Uuid, news: News, asked_with: TokenHash) {
        // Written down before anybody has to wait for the lock.
        let chunks: Arc<[Written]> = news.chunks.iter().map(Written::new).collect();
        self.metrics.chunks.inc_by(chunks.len() as u64);
        let mut state = self.lock();
        let Some(watched) = state.watched.get_mut(&deployment) else { return };
        let told_some = !chunks.is_empty();
        if told_some {
            if let Some(head) = &mut watched.head {
                for chunk in chunks.iter() {
                    head.insert(chunk.attempt, chunk.seq_to);
                }
            }
            // Nobody listens when all have just left: then it is for nobody.
            drop(watched.sender.send(Told::Chunks(chunks)));
        }
        match news.notice {
            Some(Notice::Refused) => self.refuse(&mut state, deployment, asked_with),
            Some(Notice::Elsewhere) => {
                // Until somebody has read what is not here, there is nothing to look for.
                watched.head = None;
                drop(watched.sender.send(Told::Elsewhere));
            }
            Some(Notice::Over { status, complete }) => self.over(&mut state, deployment, &status, complete),
            // What was just told may not have been all.
            Some(Notice::Silent { status }) if !told_some => self.over(&mut state, deployment, &status, false),
            Some(Notice::Silent { .. }) | None => {}
        }
    }

    fn over(&self, state: &mut State, deployment: Uuid, status: &str, complete: bool) {
        if let Some(watched) = state.watched.remove(&deployment) {
            drop(watched.sender.send(Told::Over { status: status.into(), complete }));
        }
        self.count(state);
    }

    /// Ends the streams of a deployment that were opened with a token.
    pub fn refused(&self, deployment: Uuid, token: TokenHash) {
        self.refuse(&mut self.lock(), deployment, token);
    }

    fn refuse(&self, state: &mut State, deployment: Uuid, token: TokenHash) {
        if let Some(watched) = state.watched.get_mut(&deployment) {
            watched.tokens.remove(&token);
            drop(watched.sender.send(Told::Refused(token)));
            if watched.tokens.is_empty() {
                state.watched.remove(&deployment);
            }
        }
        self.count(state);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tendril_broker::portal::api_token::ApiToken;
    use time::OffsetDateTime;

    fn hub(limits: &str) -> Arc<Hub> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.toml");
        std::fs::write(&path, format!("database_url = \"postgres://127.0.0.1/t\"\n{limits}")).unwrap();
        Arc::new(Hub::new(&Config::load(Some(&path), &|_| None).unwrap(), Arc::default()))
    }

    fn token() -> TokenHash {
        ApiToken::generate().unwrap().hash()
    }

    fn chunk(attempt: Uuid, seq: i64) -> LogChunk {
        let (ts, text) = (OffsetDateTime::UNIX_EPOCH, String::from("a\n"));
        let (job, stream) = (String::from("a"), String::from("stdout"));
        LogChunk {
            attempt_id: attempt,
            job,
            attempt: 1,
            seq,
            seq_to: seq,
            stream,
            log_chunk: text,
            ts,
            gap_kind: None,
            gap_bytes: None,
        }
    }

    #[tokio::test]
    async fn all_watchers_of_a_deployment_are_told_from_where_the_first_has_read_to() {
        let (hub, of, attempt, one, other) = (hub(""), Uuid::from_u128(1), Uuid::from_u128(2), token(), token());
        let mut first = hub.subscribe(of, one).ok().unwrap();
        assert!(hub.due(10).is_empty(), "nobody has read what is there");
        first.reached(&Position::from([(attempt, 4)]));
        let mut second = hub.subscribe(of, other).ok().unwrap();
        second.reached(&Position::from([(attempt, 9)]));
        let due = hub.due(10);
        assert_eq!((due.len(), &due[0].position), (1, &Position::from([(attempt, 4)])));
        hub.tell(of, News { chunks: vec![chunk(attempt, 5)], notice: None }, one);
        for watcher in [&mut first, &mut second] {
            let Ok(Told::Chunks(chunks)) = watcher.next().await else { panic!("nothing was told") };
            assert_eq!(chunks[0].seq, 5);
        }
        assert_eq!(hub.due(10)[0].position, Position::from([(attempt, 5)]));
        drop((first, second));
        assert!(hub.due(10).is_empty() && hub.pairs().is_empty());
    }

    #[tokio::test]
    async fn a_position_that_is_made_up_takes_nothing_from_the_others() {
        let (hub, of, token) = (hub(""), Uuid::from_u128(1), token());
        let [attempt, other, third] = [2, 3, 4].map(Uuid::from_u128);
        // Tried: first and last one far beyond what was ever printed, in the middle who has read what there is.
        let liar = hub.subscribe(of, token).ok().unwrap();
        let made_up = Position::from([(attempt, 1_000_000), (other, 1_000_000)]);
        liar.reached(&made_up);
        let honest = hub.subscribe(of, token).ok().unwrap();
        honest.reached(&Position::from([(attempt, 4), (third, 1)]));
        liar.reached(&made_up);
        assert_eq!(hub.due(10)[0].position, Position::from([(attempt, 4)]), "of the others all is asked for");
    }

    #[test]
    fn places_are_bounded_for_all_and_for_each_token_and_given_back() {
        let hub = hub("[limits]\nwatchers = 3\nwatchers_per_token = 2\n");
        let (of, one, other) = (Uuid::from_u128(1), token(), token());
        let mine = [hub.subscribe(of, one).ok().unwrap(), hub.subscribe(of, one).ok().unwrap()];
        assert_eq!(hub.subscribe(of, one).err().unwrap().kind(), Kind::RateLimited);
        let theirs = hub.subscribe(of, other).ok().unwrap();
        assert_eq!(hub.subscribe(of, token()).err().unwrap().kind(), Kind::Unavailable);
        drop(mine);
        assert!(hub.subscribe(of, one).is_ok());
        assert_eq!(hub.pairs(), [(of, other)]);
        drop(theirs);
    }

    #[test]
    fn a_place_that_is_given_back_late_takes_nobody_elses_with_it() {
        let (hub, of, token) = (hub(""), Uuid::from_u128(1), token());
        let late = hub.subscribe(of, token).ok().unwrap();
        let other = hub.subscribe(of, self::token()).ok().unwrap();
        hub.refused(of, token);
        // The holder comes back before the first stream has gone, and after the deployment's place was given up.
        let back = hub.subscribe(of, token).ok().unwrap();
        drop((late, other));
        assert_eq!(hub.pairs(), [(of, token)]);
        hub.refused(of, token);
        let again = hub.subscribe(of, token).ok().unwrap();
        drop(back);
        again.reached(&Position::new());
        assert_eq!(hub.due(10).len(), 1);
    }

    #[tokio::test]
    async fn who_is_refused_is_told_so_and_the_others_go_on() {
        let (hub, of, bad, good) = (hub(""), Uuid::from_u128(1), token(), token());
        let (mut refused, kept) = (hub.subscribe(of, bad).ok().unwrap(), hub.subscribe(of, good).ok().unwrap());
        hub.refused(of, bad);
        assert!(matches!(refused.next().await, Ok(Told::Refused(token)) if token == bad));
        drop(refused);
        assert_eq!(hub.pairs(), [(of, good)]);
        drop(kept);
        assert!(hub.pairs().is_empty());
    }
}
