//! What Prometheus sees of this process.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

/// Of a request; the route is the pattern, never the path, so that there are only so many.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct RequestLabels {
    /// As in `/api/deployments/{id}`; `none` for what is no route.
    pub route: String,
    /// GET, POST and the like; `other` for what is none of HTTP's.
    pub method: &'static str,
    /// The HTTP status.
    pub status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    route: String,
}

/// Why a stream was ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct EndLabels {
    /// over, slow, refused or shutdown.
    pub reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SessionLabels {
    state: &'static str,
}

/// All of them.
pub struct Metrics {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Family<RouteLabels, Histogram, fn() -> Histogram>,
    /// Streams that are open.
    pub watchers: Gauge,
    /// Deployments that somebody watches.
    pub watched: Gauge,
    /// Streams that ended, by why.
    pub ended: Family<EndLabels, Counter>,
    /// Chunks that the tail found, each counted once however many watch.
    pub chunks: Counter,
    /// Looks of the tail, and how long they took.
    pub tail_seconds: Histogram,
    /// Looks that came to nothing.
    pub tail_errors: Counter,
    /// Times that a stream read from the database what the tail had not told it.
    pub catch_ups: Counter,
    sessions: Family<SessionLabels, Gauge>,
}

fn seconds() -> Histogram {
    // 0.5 ms to 16 s.
    Histogram::new(exponential_buckets(0.0005, 2.0, 16))
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("tendril_api"),
            requests: Family::default(),
            request_seconds: Family::new_with_constructor(seconds),
            watchers: Gauge::default(),
            watched: Gauge::default(),
            ended: Family::default(),
            chunks: Counter::default(),
            tail_seconds: seconds(),
            tail_errors: Counter::default(),
            catch_ups: Counter::default(),
            sessions: Family::default(),
        };
        let registry = &mut metrics.registry;
        registry.register("requests", "Requests by route, method and status", metrics.requests.clone());
        let help = "Seconds until an answer began, by route";
        registry.register("request_seconds", help, metrics.request_seconds.clone());
        registry.register("log_watchers", "Streams of logs that are open", metrics.watchers.clone());
        registry.register("log_watched_deployments", "Deployments that somebody watches", metrics.watched.clone());
        registry.register("log_streams_ended", "Streams of logs that have ended, by why", metrics.ended.clone());
        registry.register("log_chunks", "Chunks that the tail found, once each", metrics.chunks.clone());
        registry.register("log_tail_seconds", "Seconds of one look of the tail", metrics.tail_seconds.clone());
        registry.register("log_tail_errors", "Looks of the tail that came to nothing", metrics.tail_errors.clone());
        let help = "Times that a stream read from the database by itself";
        registry.register("log_catch_ups", help, metrics.catch_ups.clone());
        registry.register("database_sessions", "Sessions with the database, by state", metrics.sessions.clone());
        metrics
    }
}

impl Metrics {
    /// A request was answered.
    pub fn answered(&self, labels: RequestLabels, after: Duration) {
        let route = RouteLabels { route: labels.route.clone() };
        self.request_seconds.get_or_create(&route).observe(after.as_secs_f64());
        self.requests.get_or_create(&labels).inc();
    }

    /// A stream has ended.
    pub fn ended(&self, reason: &'static str) {
        self.ended.get_or_create(&EndLabels { reason }).inc();
    }

    /// All of it as text.
    pub fn text(&self, (open, idle): (u32, usize)) -> String {
        let of = |state| self.sessions.get_or_create_owned(&SessionLabels { state });
        of("open").set(open.into());
        of("idle").set(i64::try_from(idle).unwrap_or(i64::MAX));
        let mut out = String::new();
        // Writing to a String cannot fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }
}
