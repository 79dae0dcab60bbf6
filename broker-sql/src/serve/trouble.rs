//! Trouble that lasts is said once when it begins and once when it is over; between the tries the waits grow.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use tracing::{debug, error, info};

use crate::refusal::Error;

/// A handful of replicas is no storm; leases wait for the pulse to come back.
const LONGEST: Duration = Duration::from_secs(3);

/// The trouble of one task.
#[derive(Debug)]
pub struct Trouble {
    what: String,
    waits: ExponentialBackoff,
    said: Option<String>,
    failures: u32,
    tells_outages: bool,
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
        Self { what: what.into(), waits: waits(), said: None, failures: 0, tells_outages: true }
    }

    /// The same for a task beside the pulse, which tells of outages for all.
    pub fn beside_the_pulse(what: impl Into<String>) -> Self {
        Self { tells_outages: false, ..Self::new(what) }
    }

    /// Another failure; returns how long to wait before the next try.
    pub fn grows(&mut self, error: &Error) -> Duration {
        self.failures += 1;
        let text = error.to_string();
        let told_elsewhere = error.is_outage() && !self.tells_outages;
        if told_elsewhere || self.said.as_ref() == Some(&text) {
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
        }
        if self.failures > 0 {
            self.waits = waits();
            self.failures = 0;
        }
    }
}
