//! The runner's own figures, in Prometheus' terms.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::clock::BootTime;
use crate::egress::Traffic;
use crate::logs::{ChunkKind, Counters};
use crate::sandbox::{Layer, Level as Confined};
use crate::spool::{Level, Outgoing};

/// A job's kind.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct KindLabel {
    kind: String,
}

/// How an attempt of a kind ended.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct OutcomeLabels {
    kind: String,
    outcome: String,
}

/// A call to the broker.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct CallLabel {
    call: &'static str,
}

/// A layer of the sandbox.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct LayerLabel {
    layer: &'static str,
}

/// Why a request of a job's was refused.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ReasonLabel {
    reason: &'static str,
}

/// Which way bytes went: `sent` by jobs, or `received`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct DirectionLabel {
    direction: &'static str,
}

type Seconds = Gauge<f64, AtomicU64>;

/// All figures of a runner process.
pub struct Metrics {
    registry: Registry,
    claimed: Family<KindLabel, Counter>,
    adopted: Family<KindLabel, Counter>,
    ended: Family<OutcomeLabels, Counter>,
    leases_lost: Counter,
    running: Gauge,
    broker_errors: Family<CallLabel, Counter>,
    call_seconds: Family<CallLabel, Histogram>,
    start_seconds: Family<KindLabel, Histogram>,
    prepare_to_end_seconds: Family<KindLabel, Histogram>,
    lease_left: Seconds,
    heartbeat_age: Seconds,
    /// When a heartbeat was answered last; at first, when the process began.
    heard: Mutex<BootTime>,
    log_rows: Counter,
    log_lines: Counter,
    log_bytes: Counter,
    log_refused_bytes: Counter,
    log_sessions: Counter,
    log_flush_seconds: Histogram,
    log_lag: Seconds,
    log_waiting: Gauge,
    log_spool: Gauge,
    log_unreadable: Gauge,
    log_dropped_bytes: Counter,
    log_paused: Counter<f64, AtomicU64>,
    log_expired_bytes: Counter,
    log_capped_bytes: Counter,
    log_redactions: Counter,
    oom_kills: Counter,
    sandbox_layers: Family<LayerLabel, Gauge>,
    egress_connections: Counter,
    egress_refused: Family<ReasonLabel, Counter>,
    egress_bytes: Family<DirectionLabel, Counter>,
    state_lock_conflicts: Counter,
    doorbell_rings: Counter,
}

fn fast() -> Histogram {
    Histogram::new([0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
}

fn slow() -> Histogram {
    Histogram::new([0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 3600.0, 10_800.0])
}

impl Default for Metrics {
    fn default() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("tendril_runner"),
            claimed: Family::default(),
            adopted: Family::default(),
            ended: Family::default(),
            leases_lost: Counter::default(),
            running: Gauge::default(),
            broker_errors: Family::default(),
            call_seconds: Family::new_with_constructor(fast),
            start_seconds: Family::new_with_constructor(fast),
            prepare_to_end_seconds: Family::new_with_constructor(slow),
            lease_left: Seconds::default(),
            heartbeat_age: Seconds::default(),
            heard: Mutex::new(BootTime::now()),
            log_rows: Counter::default(),
            log_lines: Counter::default(),
            log_bytes: Counter::default(),
            log_refused_bytes: Counter::default(),
            log_sessions: Counter::default(),
            log_flush_seconds: fast(),
            log_lag: Seconds::default(),
            log_waiting: Gauge::default(),
            log_spool: Gauge::default(),
            log_unreadable: Gauge::default(),
            log_dropped_bytes: Counter::default(),
            log_paused: Counter::default(),
            log_expired_bytes: Counter::default(),
            log_capped_bytes: Counter::default(),
            log_redactions: Counter::default(),
            oom_kills: Counter::default(),
            sandbox_layers: Family::default(),
            egress_connections: Counter::default(),
            egress_refused: Family::default(),
            egress_bytes: Family::default(),
            state_lock_conflicts: Counter::default(),
            doorbell_rings: Counter::default(),
        };
        metrics.register();
        metrics
    }
}

impl Metrics {
    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("attempts_claimed", "Attempts claimed", self.claimed.clone());
        r.register("attempts_adopted", "Attempts of a lost runner of the same place", self.adopted.clone());
        r.register("attempts_ended", "Attempts ended, by outcome", self.ended.clone());
        r.register("leases_lost", "Attempts that the job went on without", self.leases_lost.clone());
        r.register("attempts_running", "Attempts held now", self.running.clone());
        r.register("broker_errors", "Calls to the broker that failed", self.broker_errors.clone());
        r.register_with_unit("call", "Round trip of a call to the broker", Unit::Seconds, self.call_seconds.clone());
        r.register_with_unit(
            "attempt_start",
            "From the claim to the attempt's first command",
            Unit::Seconds,
            self.start_seconds.clone(),
        );
        r.register_with_unit("attempt", "Length of an attempt", Unit::Seconds, self.prepare_to_end_seconds.clone());
        r.register_with_unit("lease_left", "How long the lease still holds", Unit::Seconds, self.lease_left.clone());
        r.register_with_unit(
            "heartbeat_age",
            "Since a heartbeat was answered",
            Unit::Seconds,
            self.heartbeat_age.clone(),
        );
        r.register("sandbox_layer", "Whether a layer of the sandbox holds here", self.sandbox_layers.clone());
        r.register(
            "egress_connections",
            "Requests of jobs that their proxies let through",
            self.egress_connections.clone(),
        );
        r.register("egress_refused", "Requests of jobs that their proxies refused", self.egress_refused.clone());
        r.register_with_unit(
            "egress",
            "What jobs sent and received by proxies",
            Unit::Bytes,
            self.egress_bytes.clone(),
        );
        r.register("oom_kills", "Commands that ran out of memory", self.oom_kills.clone());
        r.register(
            "state_lock_conflicts",
            "Attempts that failed because somebody else held Terraform's state lock",
            self.state_lock_conflicts.clone(),
        );
        r.register("doorbell_rings", "Rings heard", self.doorbell_rings.clone());
        self.register_logs();
    }

    fn register_logs(&mut self) {
        let r = &mut self.registry;
        r.register("log_rows", "Log rows stored", self.log_rows.clone());
        r.register("log_lines", "Log lines stored, or pieces of very long ones", self.log_lines.clone());
        r.register_with_unit("log", "Log text stored", Unit::Bytes, self.log_bytes.clone());
        r.register_with_unit(
            "log_refused",
            "Log text that the broker refused",
            Unit::Bytes,
            self.log_refused_bytes.clone(),
        );
        r.register_with_unit(
            "log_flush",
            "Time to store a batch of log rows",
            Unit::Seconds,
            self.log_flush_seconds.clone(),
        );
        r.register("log_sessions", "Log connections made", self.log_sessions.clone());
        r.register_with_unit("log_lag", "Age of the oldest log text that waits", Unit::Seconds, self.log_lag.clone());
        r.register_with_unit("log_waiting", "Log text that waits to be stored", Unit::Bytes, self.log_waiting.clone());
        r.register_with_unit("log_spool", "What the log spool takes on disk", Unit::Bytes, self.log_spool.clone());
        r.register("log_unreadable", "Parts of the log spool that could not be read", self.log_unreadable.clone());
        r.register_with_unit(
            "log_dropped",
            "Log text that found no room, with a gap in its place",
            Unit::Bytes,
            self.log_dropped_bytes.clone(),
        );
        r.register_with_unit(
            "log_paused",
            "Time for which a command's output was not read, for want of room",
            Unit::Seconds,
            self.log_paused.clone(),
        );
        r.register_with_unit(
            "log_expired",
            "Log text that waited for too long, with a gap in its place",
            Unit::Bytes,
            self.log_expired_bytes.clone(),
        );
        r.register_with_unit(
            "log_capped",
            "Log text left out of attempts that had reached their bound",
            Unit::Bytes,
            self.log_capped_bytes.clone(),
        );
        r.register("log_redactions", "Secrets taken out of log text", self.log_redactions.clone());
    }

    /// The exposition text.
    ///
    /// # Errors
    /// Formatting failed.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let heard = *self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        self.heartbeat_age.set(heard.elapsed().as_secs_f64());
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry)?;
        Ok(text)
    }

    /// The log writer was taken over by a session of ours.
    pub fn log_session(&self) {
        self.log_sessions.inc();
    }

    /// A claim brought an attempt of this kind.
    pub fn claimed(&self, kind: &str) {
        self.claimed.get_or_create(&KindLabel { kind: kind.to_owned() }).inc();
        self.running.inc();
    }

    /// An attempt of this kind, whose runner was lost, goes on here.
    pub fn adopted(&self, kind: &str) {
        self.adopted.get_or_create(&KindLabel { kind: kind.to_owned() }).inc();
        self.running.inc();
    }

    /// An attempt ended.
    pub fn ended(&self, kind: &str, outcome: &str, took: Duration) {
        let labels = OutcomeLabels { kind: kind.to_owned(), outcome: outcome.to_owned() };
        self.ended.get_or_create(&labels).inc();
        self.prepare_to_end_seconds.get_or_create(&KindLabel { kind: kind.to_owned() }).observe(took.as_secs_f64());
        self.running.dec();
    }

    /// The job went on without an attempt of ours.
    pub fn lease_lost(&self) {
        self.leases_lost.inc();
    }

    /// A command ran out of memory.
    pub fn out_of_memory(&self) {
        self.oom_kills.inc();
    }

    /// How far jobs are confined here.
    pub fn confined(&self, level: &Confined) {
        for layer in Layer::ALL {
            let held = i64::from(level.held.contains(&layer));
            self.sandbox_layers.get_or_create(&LayerLabel { layer: layer.name() }).set(held);
        }
    }

    /// What went through a command's proxy, and what did not.
    pub fn egress(&self, traffic: &Traffic) {
        self.egress_connections.inc_by(traffic.connections);
        for (reason, count) in &traffic.refused {
            self.egress_refused.get_or_create(&ReasonLabel { reason: reason.name() }).inc_by(*count);
        }
        for (direction, bytes) in [("sent", traffic.sent_bytes), ("received", traffic.received_bytes)] {
            self.egress_bytes.get_or_create(&DirectionLabel { direction }).inc_by(bytes);
        }
    }

    /// Somebody else held the state lock.
    pub fn state_was_locked(&self) {
        self.state_lock_conflicts.inc();
    }

    /// An attempt's first command runs.
    pub fn started(&self, kind: &str, took: Duration) {
        self.start_seconds.get_or_create(&KindLabel { kind: kind.to_owned() }).observe(took.as_secs_f64());
    }

    /// A heartbeat was answered.
    pub fn heartbeat(&self, took: Duration) {
        *self.heard.lock().unwrap_or_else(PoisonError::into_inner) = BootTime::now();
        self.answered("heartbeat", took);
    }

    /// A call was answered.
    pub fn answered(&self, call: &'static str, took: Duration) {
        self.call_seconds.get_or_create(&CallLabel { call }).observe(took.as_secs_f64());
    }

    /// A call failed.
    pub fn broker_error(&self, call: &'static str) {
        self.broker_errors.get_or_create(&CallLabel { call }).inc();
    }

    /// The doorbell rang.
    pub fn rang(&self) {
        self.doorbell_rings.inc();
    }

    /// A batch of log rows was stored.
    pub fn flushed(&self, rows: &[Outgoing], took: Duration) {
        let text = rows.iter().map(|row| row.chunk.as_ref()).filter(|chunk| chunk.kind == ChunkKind::Text);
        self.log_lines.inc_by(text.map(|chunk| chunk.seq_to.abs_diff(chunk.seq) + 1).sum());
        self.log_rows.inc_by(rows.len() as u64);
        self.log_bytes.inc_by(rows.iter().map(|row| row.chunk.text.len() as u64).sum());
        self.log_flush_seconds.observe(took.as_secs_f64());
    }

    /// What is true at the moment when somebody asks, an outage included: how long the lease holds, the age of the oldest
    /// log text that waits, and bytes of all that does.
    pub fn now(&self, lease_left: Duration, (lag, level): (Duration, Level)) {
        self.lease_left.set(lease_left.as_secs_f64());
        self.log_lag.set(lag.as_secs_f64());
        let gauges = [
            (&self.log_waiting, level.waiting_bytes),
            (&self.log_spool, level.disk_bytes),
            (&self.log_unreadable, level.unreadable),
        ];
        for (gauge, value) in gauges {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        self.log_expired_bytes.inner().store(level.expired_bytes, Ordering::Relaxed);
    }

    /// The broker refused log text for good.
    pub fn log_refused(&self, bytes: u64) {
        self.log_refused_bytes.inc_by(bytes);
    }

    /// An attempt's log has ended, and this went through it.
    pub fn log_screened(&self, counters: Counters) {
        self.log_capped_bytes.inc_by(counters.capped_bytes);
        self.log_redactions.inc_by(counters.redactions);
    }

    /// Commands' output was not read for so long, for want of room; several at once count several times.
    pub fn log_paused(&self, took: Duration) {
        self.log_paused.inc_by(took.as_secs_f64());
    }

    /// Log text found no room, and a gap stands in its place.
    pub fn log_dropped(&self, bytes: u64) {
        self.log_dropped_bytes.inc_by(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::Reason;
    use crate::logs::{Chunk, Gap, GapKind, Stream};
    use crate::sandbox::{Confinement, Kernel, plan};
    use crate::whose::Whose;
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use tendril_broker::runner::Lease;
    use time::{Date, OffsetDateTime};
    use uuid::Uuid;

    fn row(seq: i64, seq_to: i64, text: &str, kind: ChunkKind) -> Outgoing {
        let lease = Lease { attempt_id: Uuid::nil(), fence: 1 };
        let whose = Whose { deployment_id: Uuid::nil(), lease, claim_day: Date::MIN, job: "a".into(), ordinal: 1 };
        let (stream, ts) = (Stream::Stdout, OffsetDateTime::UNIX_EPOCH);
        let chunk = Chunk { seq, seq_to, stream, text: text.into(), ts, kind };
        Outgoing { whose: Arc::new(whose), chunk: Arc::new(chunk) }
    }

    #[test]
    fn a_gap_is_a_row_and_no_line() {
        let metrics = Metrics::default();
        let gap = ChunkKind::Gap(Gap { kind: GapKind::Lost, bytes: None });
        metrics.flushed(&[row(0, 2, "a\nb\nc\n", ChunkKind::Text), row(3, 9, "[lost]\n", gap)], Duration::ZERO);
        let text = metrics.text().unwrap();
        for figure in ["log_rows_total 2", "log_lines_total 3", "log_bytes_total 13"] {
            assert!(text.contains(&format!("tendril_runner_{figure}\n")), "{figure} in {text}");
        }
    }

    const PAGE: &str = include_str!("../../docs/RUNNER.md");

    #[test]
    fn the_page_lists_every_figure_and_no_other() {
        let metrics = Metrics::default();
        metrics.claimed("exec");
        metrics.adopted("exec");
        metrics.started("exec", Duration::ZERO);
        metrics.ended("exec", "success", Duration::ZERO);
        metrics.answered("claim", Duration::ZERO);
        metrics.broker_error("claim");
        metrics.egress(&Traffic { refused: [(Reason::Busy, 1)].into(), ..Traffic::default() });
        metrics.confined(&plan(&Confinement::off(), &Kernel::detect()).level);
        let text = metrics.text().unwrap();
        let named =
            |line: &str| line.strip_prefix("# HELP ").and_then(|rest| rest.split(' ').next()).map(str::to_owned);
        let there: BTreeSet<String> = text.lines().filter_map(named).collect();
        let listed = PAGE.lines().filter_map(|line| line.strip_prefix("| `tendril_runner_")?.split('`').next());
        let listed: BTreeSet<String> =
            listed.map(|name| format!("tendril_runner_{}", name.trim_end_matches("_total"))).collect();
        assert_eq!(listed, there);
    }
}
