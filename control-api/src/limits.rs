//! How often one may ask: each token for itself, and all whose token was not seen to be good together, so that guessing
//! costs the database little.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};

use governor::clock::{Clock, MonotonicClock};
use governor::middleware::NoOpMiddleware;
use governor::state::keyed::DefaultKeyedStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use tendril_broker::portal::api_token::TokenHash;

use crate::config;
use crate::problem::{Kind, Problem};

/// Tokens that are remembered as good; beyond that all are asked for anew.
const KNOWN: usize = 100_000;

type Instant = <MonotonicClock as Clock>::Instant;
type EachToken = RateLimiter<TokenHash, DefaultKeyedStateStore<TokenHash>, MonotonicClock, NoOpMiddleware<Instant>>;
type Strangers = RateLimiter<NotKeyed, InMemoryState, MonotonicClock, NoOpMiddleware<Instant>>;

/// Who may ask now.
pub struct Limiter {
    known: Mutex<HashSet<TokenHash>>,
    each: EachToken,
    strangers: Strangers,
}

impl Limiter {
    /// Nobody has asked yet.
    pub fn new(limits: &config::Limits) -> Self {
        let some = |n: u32| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        let each = Quota::per_second(some(limits.requests_per_s)).allow_burst(some(limits.burst));
        let strangers = Quota::per_second(some(limits.strangers_per_s));
        Self {
            known: Mutex::default(),
            each: RateLimiter::new(each, DefaultKeyedStateStore::default(), MonotonicClock),
            strangers: RateLimiter::direct_with_clock(strangers, MonotonicClock),
        }
    }

    /// Whether it was seen to be good.
    pub fn knows(&self, token: TokenHash) -> bool {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).contains(&token)
    }

    /// Whether a request with this token may go on.
    pub fn check(&self, token: TokenHash) -> Result<(), Problem> {
        let known = self.knows(token);
        let wait = match known {
            true => self.each.check_key(&token).map_err(|until| until.wait_time_from(MonotonicClock.now())),
            false => self.strangers.check().map_err(|until| until.wait_time_from(MonotonicClock.now())),
        };
        wait.map_err(|wait| {
            let problem = Problem::new(
                Kind::RateLimited,
                match known {
                    true => "this token asks too often",
                    false => "too many requests with tokens that are not known",
                },
            );
            problem.retry_after(wait.as_secs() + 1)
        })
    }

    /// The token is good.
    pub fn welcome(&self, token: TokenHash) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN {
            known.clear();
        }
        known.insert(token);
    }

    /// It is not, or not any more.
    pub fn forget(&self, token: TokenHash) {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).remove(&token);
    }

    /// Lets go of those that have not asked for a while.
    pub fn tidy(&self) {
        self.each.retain_recent();
        self.each.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tendril_broker::portal::api_token::ApiToken;

    #[test]
    fn one_token_that_asks_too_often_leaves_the_others_alone() {
        let limits = config::Limits { requests_per_s: 1, burst: 2, strangers_per_s: 1, ..config::Limits::default() };
        let limiter = Limiter::new(&limits);
        let [loud, quiet, stranger] = [(); 3].map(|()| ApiToken::generate().unwrap().hash());
        limiter.welcome(loud);
        limiter.welcome(quiet);
        assert!(limiter.check(loud).is_ok() && limiter.check(loud).is_ok());
        assert_eq!(limiter.check(loud).unwrap_err().kind(), Kind::RateLimited);
        assert!(limiter.check(quiet).is_ok());
        // Guesses share one allowance.
        assert!(limiter.check(stranger).is_ok());
        assert!(limiter.check(ApiToken::generate().unwrap().hash()).is_err());
        assert!(limiter.check(quiet).is_ok());
    }
}
