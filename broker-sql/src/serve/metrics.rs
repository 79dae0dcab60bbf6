//! What Prometheus sees. Counters are this process's own; gauges are read from the database every few seconds, so that
//! scrapes cost it nothing.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64};
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::clock::unix_seconds;
use crate::refusal::Error;
use crate::serve::archive_metrics::ArchiveMetrics;
use crate::serve::trouble::Trouble;

const OBSERVE: Duration = Duration::from_secs(5);

type Seconds = Gauge<f64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DutyLabels {
    duty: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BeatLabels {
    by: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ClusterLabels {
    cluster_id: String,
    cluster: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct QueueLabels {
    cluster_id: String,
    cluster: String,
    kind: String,
    state: String,
}

/// All metrics of `serve`.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    duty_runs: Family<DutyLabels, Counter>,
    duty_items: Family<DutyLabels, Counter>,
    duty_errors: Family<DutyLabels, Counter>,
    duty_seconds: Family<DutyLabels, Histogram, fn() -> Histogram>,
    duty_last: Family<DutyLabels, Seconds>,
    beats: Family<BeatLabels, Counter>,
    beat_failures: Counter,
    last_beat: Seconds,
    queue_jobs: Family<QueueLabels, Gauge<i64, AtomicI64>>,
    queue_head_age: Family<ClusterLabels, Seconds>,
    runners_online: Family<ClusterLabels, Gauge<i64, AtomicI64>>,
    log_bytes_today: Family<ClusterLabels, Gauge<i64, AtomicI64>>,
    observed: Seconds,
    /// Of the archive and of old days.
    pub archive: ArchiveMetrics,
}

fn duty_histogram() -> Histogram {
    // 0.5 ms to 16 s.
    Histogram::new(exponential_buckets(0.0005, 2.0, 16))
}

impl Metrics {
    /// All at zero.
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Registry::with_prefix("tendril"),
            duty_runs: Family::default(),
            duty_items: Family::default(),
            duty_errors: Family::default(),
            duty_seconds: Family::new_with_constructor(duty_histogram),
            duty_last: Family::default(),
            beats: Family::default(),
            beat_failures: Counter::default(),
            last_beat: Seconds::default(),
            queue_jobs: Family::default(),
            queue_head_age: Family::default(),
            runners_online: Family::default(),
            log_bytes_today: Family::default(),
            observed: Seconds::default(),
            archive: ArchiveMetrics::new(),
        };
        metrics.register();
        metrics
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        r.register("broker_duty_runs", "Duties that this replica ran", self.duty_runs.clone());
        r.register("broker_duty_items", "What those runs handled", self.duty_items.clone());
        r.register("broker_duty_errors", "Duties that failed", self.duty_errors.clone());
        r.register("broker_duty_seconds", "How long runs took", self.duty_seconds.clone());
        let help = "When this replica last ran the duty, Unix time";
        r.register("broker_duty_last_success_timestamp_seconds", help, self.duty_last.clone());
        let help = "Beats of the pulse that this replica saw: made by itself, or by another at that moment";
        r.register("broker_pulses", help, self.beats.clone());
        r.register("broker_pulse_failures", "Times the pulse's connection was lost", self.beat_failures.clone());
        r.register("broker_pulse_timestamp_seconds", "Newest beat, Unix time", self.last_beat.clone());
        r.register("queue_jobs", "Unfinished jobs", self.queue_jobs.clone());
        let help = "How long the job at the head of a cluster's queue has been claimable";
        r.register("queue_head_age_seconds", help, self.queue_head_age.clone());
        r.register("runners_online", "Runners whose lease is live", self.runners_online.clone());
        let help = "Log text that a cluster has stored in this UTC day; log_day_bytes bounds it";
        r.register("log_bytes_today", help, self.log_bytes_today.clone());
        let help = "When the gauges of queue and runners were read, Unix time";
        r.register("broker_observed_timestamp_seconds", help, self.observed.clone());
        self.archive.register(r);
    }

    /// Everything in the text format of OpenMetrics.
    pub fn text(&self) -> String {
        let mut out = String::new();
        // Writing to a string cannot fail.
        let _ = text::encode(&mut out, &self.registry);
        out
    }

    /// Seconds since the newest beat; `None` before the first.
    pub fn since_beat(&self) -> Option<f64> {
        let at = self.last_beat.get();
        (at > 0.0).then(|| unix_seconds() - at)
    }

    /// A beat was made, by us or by another replica.
    pub fn pulse_beaten(&self, ours: bool) {
        let by = if ours { "this" } else { "other" };
        self.beats.get_or_create(&BeatLabels { by }).inc();
        self.last_beat.set(unix_seconds());
    }

    /// The pulse's connection was lost.
    pub fn pulse_failed(&self) {
        self.beat_failures.inc();
    }

    /// A duty ran here.
    pub fn duty_done(&self, duty: &str, took: Duration, count: i64) {
        let labels = DutyLabels { duty: duty.to_owned() };
        self.duty_runs.get_or_create(&labels).inc();
        self.duty_items.get_or_create(&labels).inc_by(u64::try_from(count).unwrap_or(0));
        self.duty_seconds.get_or_create(&labels).observe(took.as_secs_f64());
        self.duty_last.get_or_create(&labels).set(unix_seconds());
    }

    /// A duty failed here.
    pub fn duty_failed(&self, duty: &str) {
        let labels = DutyLabels { duty: duty.to_owned() };
        self.duty_errors.get_or_create(&labels).inc();
    }
}

/// Reads the gauges until `stop`.
pub async fn observe(pool: PgPool, metrics: Arc<Metrics>, stop: CancellationToken) {
    let mut trouble = Trouble::beside_the_pulse("gauges");
    let mut shown = Shown::default();
    loop {
        let read = tokio::select! {
            read = read_gauges(&pool, &metrics, &mut shown) => read,
            () = stop.cancelled() => return,
        };
        let wait = match read {
            Ok(()) => {
                trouble.is_over();
                OBSERVE
            }
            Err(error) => trouble.grows(&error),
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Series that exist, so that what is gone can be taken away.
#[derive(Default)]
struct Shown {
    queue: HashSet<QueueLabels>,
    clusters: HashSet<ClusterLabels>,
}

fn forget<L: Clone + Hash + Eq + Debug>(shown: &mut HashSet<L>, now: HashSet<L>, remove: impl Fn(&L)) {
    shown.difference(&now).for_each(remove);
    *shown = now;
}

async fn read_gauges(pool: &PgPool, metrics: &Metrics, shown: &mut Shown) -> Result<(), Error> {
    let queue = sqlx::query!(
        r#"-- observe queue
        select cluster_id as "cluster_id!", cluster as "cluster!", kind as "kind!", state as "state!", jobs as "jobs!"
          from tendril.queue"#
    );
    let mut now = HashSet::new();
    for row in queue.fetch_all(pool).await? {
        let labels = QueueLabels {
            cluster_id: row.cluster_id.to_string(),
            cluster: row.cluster,
            kind: row.kind,
            state: row.state,
        };
        metrics.queue_jobs.get_or_create(&labels).set(row.jobs);
        now.insert(labels);
    }
    forget(&mut shown.queue, now, |labels| {
        metrics.queue_jobs.remove(labels);
    });
    let clusters = sqlx::query!(
        r#"-- observe clusters
        select c.id, c.name,
               (select count(*) from tendril_core.runner_leases l
                 where l.cluster_id = c.id and l.lease_expires_at > clock_timestamp()) as "online!",
               tendril_core.queue_head_age(c.id) as "head_age!",
               coalesce((select sum(v.bytes) from tendril_core.log_volume v
                 where v.cluster_id = c.id and v.day = (clock_timestamp() at time zone 'UTC')::date), 0)::bigint as "log_bytes!"
          from tendril.clusters c where c.status <> 'REVOKED'"#
    );
    let mut now = HashSet::new();
    for row in clusters.fetch_all(pool).await? {
        let labels = ClusterLabels { cluster_id: row.id.to_string(), cluster: row.name };
        metrics.runners_online.get_or_create(&labels).set(row.online);
        metrics.queue_head_age.get_or_create(&labels).set(row.head_age);
        metrics.log_bytes_today.get_or_create(&labels).set(row.log_bytes);
        now.insert(labels);
    }
    forget(&mut shown.clusters, now, |labels| {
        metrics.runners_online.remove(labels);
        metrics.queue_head_age.remove(labels);
        metrics.log_bytes_today.remove(labels);
    });
    metrics.observed.set(unix_seconds());
    Ok(())
}
