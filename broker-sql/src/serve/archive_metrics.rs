//! What Prometheus sees of the archive.

use std::sync::atomic::{AtomicI64, AtomicU64};

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabels {
    result: &'static str,
}

/// Counters of this replica; gauges of the installation.
#[derive(Debug)]
pub struct ArchiveMetrics {
    logs: Family<ResultLabels, Counter>,
    text_bytes: Counter,
    object_bytes: Counter,
    seconds: Histogram,
    pub waiting: Gauge<i64, AtomicI64>,
    pub troubled: Gauge<i64, AtomicI64>,
    pub lag: Gauge<f64, AtomicU64>,
    pub days_removed: Counter,
    pub removal_errors: Counter,
}

impl ArchiveMetrics {
    /// All at zero.
    pub fn new() -> Self {
        Self {
            logs: Family::default(),
            text_bytes: Counter::default(),
            object_bytes: Counter::default(),
            // 10 ms to 160 s.
            seconds: Histogram::new(exponential_buckets(0.01, 2.0, 15)),
            waiting: Gauge::default(),
            troubled: Gauge::default(),
            lag: Gauge::default(),
            days_removed: Counter::default(),
            removal_errors: Counter::default(),
        }
    }

    /// Names them all.
    pub fn register(&self, r: &mut Registry) {
        r.register("archive_logs", "Logs that this replica handled, by result", self.logs.clone());
        r.register("archive_text_bytes", "Bytes of log text that this replica archived", self.text_bytes.clone());
        r.register("archive_object_bytes", "Bytes of the objects that it made of them", self.object_bytes.clone());
        r.register("archive_log_seconds", "How long archiving one log took", self.seconds.clone());
        r.register("archive_waiting_logs", "Closed logs that are not archived yet", self.waiting.clone());
        r.register("archive_troubled_logs", "Those of them whose newest try failed", self.troubled.clone());
        r.register("archive_lag_seconds", "How long the oldest of them has been closed", self.lag.clone());
        r.register("log_days_removed", "Days of logs that this replica removed", self.days_removed.clone());
        r.register("log_removal_errors", "Removals that did not succeed at once", self.removal_errors.clone());
    }

    /// Makes every series, as of work that came to nothing.
    #[cfg(test)]
    pub fn touch(&self) {
        drop(self.logs.get_or_create(&ResultLabels { result: "stored" }));
    }

    /// A log was archived here.
    #[cfg(feature = "archive")]
    pub fn stored(&self, text_bytes: i64, object_bytes: u64, took: std::time::Duration) {
        self.ended("stored");
        self.text_bytes.inc_by(u64::try_from(text_bytes).unwrap_or(0));
        self.object_bytes.inc_by(object_bytes);
        self.seconds.observe(took.as_secs_f64());
    }

    /// A log was handled here.
    #[cfg(feature = "archive")]
    pub fn ended(&self, result: &'static str) {
        self.logs.get_or_create(&ResultLabels { result }).inc();
    }
}
