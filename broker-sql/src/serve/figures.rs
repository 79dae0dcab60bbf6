//! Figures of the whole installation, as the database tells them: every replica of `serve` shows the same. What has no
//! end, ids of jobs or runners, is no label.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// One metric of the installation.
#[derive(Debug)]
pub struct Figure {
    /// Without prefix, and without `_total`.
    pub name: &'static str,
    /// In one sentence.
    pub help: &'static str,
    /// How Prometheus reads it.
    pub sort: Sort,
    /// Its labels, in order; with [`CLUSTER`] also the cluster's name.
    pub labels: &'static [&'static str],
}

/// How Prometheus reads a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    /// What is.
    Gauge,
    /// What has been counted since the installation was made.
    Counter,
    /// Counts by length, likewise.
    Histogram,
}

const CLUSTER: &[&str] = &["cluster_id", "cluster"];
const BY_KIND: &[&str] = &["cluster_id", "cluster", "kind"];
const BY_OUTCOME: &[&str] = &["cluster_id", "cluster", "kind", "outcome"];
const BY_STATE: &[&str] = &["cluster_id", "cluster", "kind", "state", "waiting_for", "priority"];
const BY_TABLE: &[&str] = &["table"];
const BY_INDEX: &[&str] = &["table", "index"];

const fn gauge(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Figure {
    Figure { name, help, sort: Sort::Gauge, labels }
}

const fn counter(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Figure {
    Figure { name, help, sort: Sort::Counter, labels }
}

const fn histogram(name: &'static str, help: &'static str, labels: &'static [&'static str]) -> Figure {
    Figure { name, help, sort: Sort::Histogram, labels }
}

/// All of them.
pub const FIGURES: [Figure; 27] = [
    gauge("queue_jobs", "Unfinished jobs; those in state QUEUED that wait for nothing can run now", BY_STATE),
    gauge("queue_oldest_seconds", "How long the oldest of them has waited or run, to within 10 s", BY_STATE),
    gauge("dead_letters", "Jobs that only read and have used up their attempts", BY_KIND),
    gauge("jobs_overdue", "Started jobs whose deadline has passed", CLUSTER),
    gauge("keys_held", "State keys that are held", CLUSTER),
    gauge("keys_orphaned", "State keys whose attempt has ended: only an operator frees them", CLUSTER),
    gauge("runners_online", "Runners whose lease is live", CLUSTER),
    gauge("slots_online", "Jobs that the runners online can run at once", CLUSTER),
    gauge("log_bytes_today", "Log text stored in this UTC day; log_day_bytes bounds it", CLUSTER),
    gauge("log_partitions_ahead", "Days after today that have a log partition", &[]),
    gauge("database_connections", "Connections of the server, to all its databases", &[]),
    gauge("database_connections_max", "How many it takes", &[]),
    gauge("table_bytes", "What a table takes, without indexes and long values", BY_TABLE),
    gauge("table_bloat_bytes", "How much of that is empty, by an estimate", BY_TABLE),
    gauge("table_dead_rows", "Old versions of rows that wait for vacuum", BY_TABLE),
    gauge("index_bytes", "What an index takes", BY_INDEX),
    gauge("index_bloat_bytes", "How much of that is empty, by an estimate", BY_INDEX),
    counter("attempts", "Attempts that ended", BY_OUTCOME),
    counter("leases_lost", "Runners that were presumed dead", CLUSTER),
    counter("log_rows", "Log rows stored", CLUSTER),
    counter("log_bytes", "Log text stored", CLUSTER),
    histogram("job_claim_seconds", "From queued, or its time, to claimed", BY_KIND),
    histogram("job_start_seconds", "From claimed to started, of jobs that change the world", BY_KIND),
    histogram("job_run_seconds", "From started to the end of the attempt", BY_KIND),
    histogram("log_lag_seconds", "Age of a batch's oldest line when it is stored, by the runner's clock", CLUSTER),
    gauge("figures_backlog", "Changes that are not added up in these figures yet, at most 100000 are told", &["of"]),
    gauge("broker_observed_timestamp_seconds", "When these figures were read, Unix time", &[]),
];

/// The value of one series.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// Of a gauge.
    Float(f64),
    /// Of a counter.
    Count(u64),
    /// Counts of each bucket with its upper bound, the last one's being infinite; and the sum of all values.
    Buckets(Vec<(f64, u64)>, f64),
}

/// Values by metric and labels' values.
#[derive(Debug, Default)]
pub struct Values(BTreeMap<&'static str, BTreeMap<Vec<String>, Value>>);

impl Values {
    /// Adds a series, or changes it.
    pub fn put(&mut self, name: &'static str, labels: &[&str], value: Value) {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        self.0.entry(name).or_default().insert(labels, value);
    }

    /// The same of a gauge.
    pub fn gauge(&mut self, name: &'static str, labels: &[&str], value: f64) {
        self.put(name, labels, Value::Float(value));
    }

    /// Adds to a gauge.
    pub fn add(&mut self, name: &'static str, labels: &[&str], more: f64) {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        let series = self.0.entry(name).or_default().entry(labels).or_insert(Value::Float(0.0));
        if let Value::Float(value) = series {
            *value += more;
        }
    }

    /// Makes a counter that has nothing to count yet.
    pub fn count_from_zero(&mut self, name: &'static str, labels: &[&str]) {
        let labels = labels.iter().map(|label| (*label).to_owned()).collect();
        self.0.entry(name).or_default().entry(labels).or_insert(Value::Count(0));
    }

    /// Adds to a bucket of a histogram.
    pub fn bucket(&mut self, name: &'static str, labels: &[&str], bounds: &[f64], (at, count, sum): (usize, u64, f64)) {
        let labels: Vec<String> = labels.iter().map(|label| (*label).to_owned()).collect();
        let series = self.0.entry(name).or_default().entry(labels);
        let empty = || bounds.iter().copied().chain([f64::INFINITY]).map(|bound| (bound, 0)).collect();
        if let Value::Buckets(buckets, total) = series.or_insert_with(|| Value::Buckets(empty(), 0.0)) {
            if let Some((_, n)) = buckets.get_mut(at) {
                *n += count;
            }
            *total += sum;
        }
    }
}

/// What was read last; nothing is shown before the first time. Parts are read at times of their own.
#[derive(Debug, Default)]
pub struct Shown {
    parts: Mutex<[Values; 2]>,
}

/// Which part was read.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    /// Queue, runners, what has happened: every few seconds.
    Work = 0,
    /// Room of tables: every minute.
    Room = 1,
}

impl Shown {
    /// Puts new values in the old ones' place, so that series that are gone go.
    pub fn replace(&self, part: Part, values: Values) {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)[part as usize] = values;
    }
}

impl Collector for Shown {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        for figure in &FIGURES {
            let series: Vec<_> = parts.iter().filter_map(|values| values.0.get(figure.name)).flatten().collect();
            if series.is_empty() {
                continue;
            }
            let sort = match figure.sort {
                Sort::Gauge => MetricType::Gauge,
                Sort::Counter => MetricType::Counter,
                Sort::Histogram => MetricType::Histogram,
            };
            let mut metric = encoder.encode_descriptor(figure.name, figure.help, None, sort)?;
            for (values, value) in series {
                let labels: Vec<(&str, &str)> =
                    figure.labels.iter().copied().zip(values.iter().map(String::as_str)).collect();
                if labels.is_empty() {
                    show(&mut metric, value)?;
                } else {
                    show(&mut metric.encode_family(&labels)?, value)?;
                }
            }
        }
        Ok(())
    }
}

fn show(metric: &mut MetricEncoder, value: &Value) -> Result<(), fmt::Error> {
    match value {
        Value::Float(value) => metric.encode_gauge(value),
        Value::Count(count) => metric.encode_counter::<NoLabelSet, _, u64>(count, None),
        Value::Buckets(buckets, sum) => {
            let count = buckets.iter().map(|(_, n)| n).sum();
            metric.encode_histogram::<NoLabelSet>(*sum, count, buckets, None)
        }
    }
}
