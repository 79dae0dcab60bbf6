//! What every request has: settings, sessions for tokens, the hub of the streams, limits, figures.

use std::sync::Arc;

use tendril_broker::archive::Archive;
use tendril_broker::portal::api_token::ApiToken;
use tendril_broker::portal::token_pool::{Presented, Session, TokenPool, TokenScope};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use utoipa::openapi::OpenApi;

use crate::config::Config;
use crate::limits::Limiter;
use crate::metrics::Metrics;
use crate::problem::{Kind, Problem};
use crate::watch::Hub;

/// What every request has.
pub(crate) struct App {
    pub config: Config,
    pub tokens: TokenPool,
    pub archive: Option<Archive>,
    pub hub: Arc<Hub>,
    pub metrics: Arc<Metrics>,
    pub limiter: Limiter,
    /// Streams that read from the database by themselves, so that a thousand of them that come at once leave it to others.
    pub readers: Arc<Semaphore>,
    /// What the routes say of themselves.
    pub document: OpenApi,
    pub stop: CancellationToken,
}

/// The same, shared.
pub(crate) type Shared = Arc<App>;

impl App {
    /// Asks the database whether a token holds that was not presented to this process before.
    pub async fn recognise(&self, token: &ApiToken) -> Result<(), Problem> {
        if self.limiter.knows(token.hash()) {
            return Ok(());
        }
        // Any scope will do: what it may is asked again for what it does.
        match self.enter(token, TokenScope::Read).await {
            Err(problem) if problem.kind() != Kind::Forbidden => Err(problem),
            _ => Ok(()),
        }
    }

    /// A transaction in which the token was presented, if it holds and has the scope.
    pub async fn enter(&self, token: &ApiToken, scope: TokenScope) -> Result<Session, Problem> {
        let hash = token.hash();
        self.limiter.check(hash)?;
        match self.tokens.present(hash, scope).await? {
            Presented::Welcome(session) => {
                self.limiter.welcome(hash);
                Ok(session)
            }
            Presented::NotAllowed(holder) => {
                self.limiter.welcome(hash);
                Err(Problem::forbidden(&holder, scope.name()))
            }
            Presented::Unknown => {
                self.limiter.forget(hash);
                Err(Problem::unauthorized())
            }
        }
    }
}
