//! Trouble that lasts is said once when it begins and once when it is over; between the tries the waits grow.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tracing::{debug, error, info};

use crate::refusal::Error;

const LONGEST: Duration = Duration::from_secs(15);

/// The trouble of one task.
#[derive(Debug)]
pub struct Trouble {
    what: String,
    waits: ExponentialBackoff,
    said: Option<String>,
    failures: u32,
}

fn waits() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(LONGEST)
        .with_jitter()
        .without_max_times()
        .build()
}

impl Trouble {
    /// No trouble yet with `what`.
    pub fn new(what: impl Into<String>) -> Self {
        Self { what: what.into(), waits: waits(), said: None, failures: 0 }
    }

    /// Another failure; returns how long to wait before the next try.
    pub fn grows(&mut self, error: &Error) -> Duration {
        self.failures += 1;
        let text = error.to_string();
        if self.said.as_ref() == Some(&text) {
            debug!(task = self.what, failures = self.failures, error = text, "still failing");
        } else {
            error!(task = self.what, error = text, hint = error.hint(), "failed; it is tried again");
            self.said = Some(text);
        }
        self.waits.next().unwrap_or(LONGEST)
    }

    /// A success.
    pub fn is_over(&mut self) {
        if self.said.take().is_some() {
            info!(task = self.what, failures = self.failures, "works again");
            self.waits = waits();
            self.failures = 0;
        }
    }
}
