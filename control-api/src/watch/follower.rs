//! One stream of events: subscribe, read what is there, cut the overlap, go on with what the hub tells.
//!
//! A chunk is sent when it follows the last one of its attempt. One that was sent already is dropped; before one that does
//! not follow, the stream reads from the database by itself. So nothing is lost and nothing comes twice, whoever was quicker.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::response::sse::Event;
use futures_util::Stream;
use tendril_broker::Error;
use tendril_broker::portal::api_token::ApiToken;
use tendril_broker::portal::deployments;
use tendril_broker::portal::logs::{LogChunk, LogReader};
use tendril_broker::portal::token_pool::{Presented, Session, TokenScope};
use tokio::sync::broadcast::error::RecvError;
use uuid::Uuid;

use crate::app::Shared;
use crate::problem::Problem;
use crate::replies::LogOver;
use crate::watch::Position;
use crate::watch::hub::{Subscription, Told, Written};

/// What the database holds waits no longer for what is archived.
const ARCHIVE_PATIENCE: Duration = Duration::from_millis(500);

/// Pause before the database or the archive is asked again.
const PAUSE: Duration = Duration::from_secs(1);

/// A stream that has so often had too much to take while it read by itself takes too little.
const LAGS: u8 = 3;

/// A client that was cut off comes back after so long.
const COME_BACK: Duration = Duration::from_secs(2);

/// A stream under way.
pub struct Follower {
    app: Shared,
    deployment: Uuid,
    token: ApiToken,
    subscription: Subscription,
    /// Set while this stream reads by itself.
    reader: Option<LogReader>,
    /// As far as it has read or was told.
    position: Position,
    /// As far as the client was told.
    sent: Position,
    waiting: VecDeque<Waiting>,
    lags: u8,
    over: bool,
}

/// What the client has not taken yet; written out when it does. What all are told stands in memory once.
enum Waiting {
    /// One of these chunks, by its place.
    Chunk(Arc<[Written]>, usize),
    /// What is no chunk.
    Other(Event),
}

/// What one look of a stream's own has brought.
struct Page {
    chunks: Vec<LogChunk>,
    more: bool,
    /// How the deployment has ended, if all of its logs was read.
    ended: Option<String>,
}

impl Page {
    async fn read(mut session: Session, reader: &mut LogReader, deployment: Uuid) -> Result<Self, Error> {
        let (chunks, more) = reader.next_within(&mut session, ARCHIVE_PATIENCE).await?;
        let ended = match reader.is_over() {
            true => Some(deployments::state(&mut session, deployment).await?.status),
            false => None,
        };
        session.commit().await?;
        Ok(Self { chunks, more, ended })
    }
}

impl Follower {
    /// Begins behind `position` with the first page, so that what is refused is refused before the answer begins.
    ///
    /// # Errors
    /// What the token may not see, a position that is none, too many streams.
    pub async fn begin(app: Shared, token: ApiToken, deployment: Uuid, position: Position) -> Result<Self, Problem> {
        let session = app.enter(&token, TokenScope::Logs).await?;
        // Before reading: what is stored after this is told, and what was stored before is read.
        let subscription = app.hub.subscribe(deployment, token.hash())?;
        let mut reader = LogReader::new(deployment).with_archive(app.archive.clone()).at(position.clone());
        let page = Page::read(session, &mut reader, deployment).await?;
        let (waiting, lags, sent) = (VecDeque::new(), 0, position.clone());
        let mut this =
            Self { app, deployment, token, subscription, reader: None, position, sent, waiting, lags, over: false };
        this.read(reader, page);
        Ok(this)
    }

    /// The stream itself.
    pub fn events(self) -> impl Stream<Item = Result<Event, Infallible>> {
        futures_util::stream::unfold(self, |mut this| async move {
            let event = this.next().await?;
            Some((Ok(event), this))
        })
    }

    async fn next(&mut self) -> Option<Event> {
        loop {
            match self.waiting.pop_front() {
                Some(Waiting::Chunk(chunks, place)) => match chunks.get(place) {
                    Some(chunk) => return Some(self.event(chunk)),
                    None => continue,
                },
                Some(Waiting::Other(event)) => return Some(event),
                None => {}
            }
            if self.over {
                return None;
            }
            let stop = self.app.stop.clone();
            tokio::select! {
                () = stop.cancelled() => self.end("shutdown", Event::default().comment("shutting down").retry(COME_BACK)),
                () = self.go_on() => {}
            }
        }
    }

    async fn go_on(&mut self) {
        match self.reader.take() {
            Some(reader) => self.catch_up(reader).await,
            None => self.listen().await,
        }
    }

    /// One page from the database, or from the archive.
    async fn catch_up(&mut self, mut reader: LogReader) {
        // Dropped in the middle, it begins here again.
        self.reader = Some(self.reader_here());
        let Ok(_turn) = self.app.readers.clone().acquire_owned().await else { return };
        let read = self.page(&mut reader).await;
        match read {
            Ok(Some(page)) => self.read(reader, page),
            Ok(None) => self.end("refused", refused()),
            Err(error) if error.is_outage() || matches!(error, Error::Archive(_)) => {
                tracing::warn!(%error, "a stream waits");
                tokio::time::sleep(PAUSE).await;
                self.reader = Some(reader);
            }
            Err(error) => {
                tracing::warn!(%error, "a stream was ended");
                self.end("refused", refused());
            }
        }
    }

    /// `None` when the token does not hold any more.
    async fn page(&self, reader: &mut LogReader) -> Result<Option<Page>, Error> {
        let presented = self.app.tokens.present(self.token.hash(), TokenScope::Logs).await?;
        let Presented::Welcome(session) = presented else { return Ok(None) };
        Page::read(session, reader, self.deployment).await.map(Some)
    }

    fn read(&mut self, reader: LogReader, Page { chunks, more, ended }: Page) {
        let chunks: Arc<[Written]> = chunks.iter().map(Written::new).collect();
        (0..chunks.len()).for_each(|place| self.waiting.push_back(Waiting::Chunk(chunks.clone(), place)));
        // Where a stream began is a part of where it is.
        self.position = reader.position().clone();
        match ended {
            Some(status) => self.end("over", over(&status, reader.is_complete())),
            None if more || reader.waits_for_archive() => self.reader = Some(reader),
            None => {
                self.subscription.reached(&self.position);
                self.reader = None;
            }
        }
    }

    /// What the hub tells.
    async fn listen(&mut self) {
        match self.subscription.next().await {
            Ok(Told::Chunks(chunks)) => {
                self.lags = 0;
                self.take(&chunks);
            }
            Ok(Told::Elsewhere) => self.read_by_itself(),
            Ok(Told::Refused(token)) if token == self.token.hash() => self.end("refused", refused()),
            Ok(Told::Refused(_)) => {}
            Ok(Told::Over { status, complete }) => self.end("over", over(&status, complete)),
            // The first one behind a long read is no fault of who reads.
            Err(RecvError::Lagged(_)) if self.lags < LAGS => {
                self.lags += 1;
                self.read_by_itself();
            }
            Err(RecvError::Lagged(missed)) => {
                let text = format!("{missed} batches were not taken in time; go on from Last-Event-ID");
                self.end("slow", Event::default().event("cut_off").data(text).retry(COME_BACK));
            }
            Err(RecvError::Closed) => self.subscribe_anew(),
        }
    }

    fn take(&mut self, chunks: &Arc<[Written]>) {
        for (place, chunk) in chunks.iter().enumerate() {
            let read = self.position.get(&chunk.attempt).copied().unwrap_or(-1);
            if chunk.seq_to <= read {
                continue;
            }
            if chunk.seq > read + 1 {
                return self.read_by_itself();
            }
            self.position.insert(chunk.attempt, chunk.seq_to);
            self.waiting.push_back(Waiting::Chunk(chunks.clone(), place));
        }
    }

    fn event(&mut self, chunk: &Written) -> Event {
        self.sent.insert(chunk.attempt, chunk.seq_to);
        // Keys are UUIDs and values numbers: this cannot fail.
        let id = serde_json::to_string(&self.sent).unwrap_or_default();
        Event::default().id(id).event("log").data(&chunk.json)
    }

    fn read_by_itself(&mut self) {
        self.app.metrics.catch_ups.inc();
        self.reader = Some(self.reader_here());
    }

    /// The hub let this one's place go with somebody else's of the same token.
    fn subscribe_anew(&mut self) {
        match self.app.hub.subscribe(self.deployment, self.token.hash()) {
            Ok(subscription) => {
                self.subscription = subscription;
                self.read_by_itself();
            }
            Err(_) => {
                let text = "too many streams are open; go on from Last-Event-ID";
                self.end("slow", Event::default().event("cut_off").data(text).retry(COME_BACK));
            }
        }
    }

    fn reader_here(&self) -> LogReader {
        LogReader::new(self.deployment).with_archive(self.app.archive.clone()).at(self.position.clone())
    }

    fn end(&mut self, reason: &'static str, last: Event) {
        self.app.metrics.ended(reason);
        self.waiting.push_back(Waiting::Other(last));
        self.over = true;
    }
}

fn over(status: &str, logs_complete: bool) -> Event {
    let over = LogOver { status: status.to_owned(), logs_complete };
    Event::default().event("end").data(serde_json::to_string(&over).unwrap_or_default())
}

fn refused() -> Event {
    Event::default().event("refused").data("the token does not hold any more, or may not read this any more")
}
