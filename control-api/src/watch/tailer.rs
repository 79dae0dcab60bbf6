//! The looks: one query for all that is watched, however many watch it.

use std::collections::HashMap;
use std::time::Duration;

use tendril_broker::Error;
use tendril_broker::portal::api_token::TokenHash;
use tendril_broker::portal::tail::{PageBounds, REFUSED_PAIRS, TAIL_DEPLOYMENTS};
use tokio::time::Instant;
use tracing::warn;
use uuid::Uuid;

use crate::app::{App, Shared};
use crate::watch::hub::Due;

/// What one look may bring: so much is in memory once, for as long as one stream is slow to take it.
const PAGE: PageBounds = PageBounds { chunks: 2000, bytes: 4 << 20 };

/// Shortest and longest pause while the database is away.
const PAUSE_MIN: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// A stream of somebody who has lost the right to it goes on for about so long at most.
const RIGHTS_EVERY: Duration = Duration::from_secs(2);

/// Looks for what is new until the end of this process.
pub async fn tail(app: Shared) {
    let interval = Duration::from_millis(app.config.logs.tail_interval_ms);
    let mut pause = interval;
    while !app.stop.is_cancelled() {
        let parts = app.hub.due(TAIL_DEPLOYMENTS);
        if parts.is_empty() {
            tokio::select! {
                () = app.stop.cancelled() => break,
                // Who has just read what is there has nothing to wait for yet.
                () = app.hub.wake.notified() => {}
            }
        }
        let began = Instant::now();
        let next = match look_at_all(&app, parts).await {
            Ok(true) => {
                tokio::task::yield_now().await;
                continue;
            }
            Ok(false) => {
                pause = interval;
                began + interval
            }
            Err(error) => {
                app.metrics.tail_errors.inc();
                warn!(%error, "cannot look for log chunks; the streams wait");
                pause = (pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
                Instant::now() + pause
            }
        };
        tokio::select! {
            () = app.stop.cancelled() => break,
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

/// Returns whether there may be more at once. One part that fails keeps no other from its look, unless nobody answers.
async fn look_at_all(app: &App, parts: Vec<Due>) -> Result<bool, Error> {
    let mut looked = Ok(false);
    for part in parts {
        match look(app, part).await {
            Ok(more) => looked = looked.map(|full| full | more),
            Err(error) if error.is_outage() => return Err(error),
            Err(error) => looked = Err(error),
        }
    }
    looked
}

/// One look; returns whether there may be more at once.
async fn look(app: &App, due: Due) -> Result<bool, Error> {
    let began = Instant::now();
    let page = app.tokens.tail(&due.pairs, &due.position, PAGE).await?;
    app.metrics.tail_seconds.observe(began.elapsed().as_secs_f64());
    let asked: HashMap<Uuid, TokenHash> = due.pairs.into_iter().collect();
    for (deployment, news) in page.news {
        if let Some(token) = asked.get(&deployment) {
            app.hub.tell(deployment, news, *token);
        }
    }
    Ok(page.full)
}

/// Ends streams whose token was revoked, has expired or lost its deployment.
pub async fn check_rights(app: Shared) {
    while !app.stop.is_cancelled() {
        tokio::select! {
            () = app.stop.cancelled() => break,
            () = tokio::time::sleep(RIGHTS_EVERY) => {}
        }
        for pairs in app.hub.pairs().chunks(REFUSED_PAIRS) {
            match app.tokens.refused(pairs).await {
                Ok(places) => {
                    let refused = places.into_iter().filter_map(|place| pairs.get(place));
                    refused.for_each(|(deployment, token)| app.hub.refused(*deployment, *token));
                }
                Err(error) => warn!(%error, "cannot look who may still watch"),
            }
        }
    }
}
