//! What Prometheus sees: counters of this process's own, and the figures of the installation, which are read every few seconds
//! whoever asks, so that scrapes cost the database nothing.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::clock::unix_seconds;
use crate::serve::archive_metrics::ArchiveMetrics;
use crate::serve::figures::Shown;

type Seconds = Gauge<f64, AtomicU64>;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DutyLabels {
    duty: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BeatLabels {
    by: &'static str,
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
    /// Of the installation.
    pub installation: Arc<Shown>,
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
            installation: Arc::default(),
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
        r.register_collector(Box::new(self.installation.clone()));
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
        // At zero, so that the first error is seen to rise.
        drop(self.duty_errors.get_or_create(&labels));
    }

    /// A duty failed here.
    pub fn duty_failed(&self, duty: &str) {
        let labels = DutyLabels { duty: duty.to_owned() };
        self.duty_errors.get_or_create(&labels).inc();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;
    use crate::serve::figures::{FIGURES, Part, Sort, Value, Values};

    const PAGE: &str = include_str!("../../../docs/METRICS.md");
    const BEGIN: &str = "<!-- what serve tells: written by a test -->\n";

    /// Everything with at least one series.
    fn full() -> Metrics {
        let metrics = Metrics::new();
        metrics.duty_done("fold", Duration::from_millis(1), 1);
        metrics.pulse_beaten(true);
        metrics.archive.touch();
        let mut values = Values::default();
        for figure in &FIGURES {
            let labels = vec!["x"; figure.labels.len()];
            match figure.sort {
                Sort::Gauge => values.gauge(figure.name, &labels, 1.0),
                Sort::Counter => values.put(figure.name, &labels, Value::Count(1)),
                Sort::Histogram => values.bucket(figure.name, &labels, &[1.0], (0, 1, 0.5)),
            }
        }
        metrics.installation.replace(Part::Work, values);
        metrics
    }

    fn unit(name: &str) -> &'static str {
        let name = name.trim_end_matches("_total").trim_end_matches("_today");
        match name {
            _ if name.ends_with("_seconds") => "s",
            _ if name.ends_with("_bytes") => "bytes",
            _ => "",
        }
    }

    /// A row of the page for each metric.
    fn rows(text: &str) -> BTreeMap<String, String> {
        let mut rows = BTreeMap::new();
        let words = |line: &str, after: &str| {
            line.strip_prefix(after).and_then(|rest| rest.split_once(' ')).map(|(a, b)| (a.to_owned(), b.to_owned()))
        };
        let kinds: BTreeMap<_, _> = text.lines().filter_map(|line| words(line, "# TYPE ")).collect();
        for (name, help) in text.lines().filter_map(|line| words(line, "# HELP ")) {
            let samples =
                text.lines().filter(|line| line.starts_with(&name) && line[name.len()..].starts_with(['{', '_', ' ']));
            let labels = samples.filter_map(|line| line.split_once('{')).flat_map(|(_, rest)| {
                rest.split("\",")
                    .filter_map(|pair| pair.trim_start_matches('{').split_once('='))
                    .map(|(key, _)| key.to_owned())
            });
            let labels: BTreeSet<String> = labels.filter(|key| key != "le").collect();
            let whole = match kinds[&name].as_str() {
                "counter" => format!("{name}_total"),
                _ => name.clone(),
            };
            let labels = labels.into_iter().collect::<Vec<_>>().join(", ");
            let row = format!(
                "| `{whole}` | {} | {labels} | {} | {} |",
                kinds[&name],
                unit(&whole),
                help.trim_end_matches('.')
            );
            rows.insert(name, row);
        }
        rows
    }

    #[test]
    fn the_page_of_metrics_has_a_row_for_each_and_no_other() {
        let written: String = rows(&full().text()).into_values().map(|row| row + "\n").collect();
        let (before, rest) = PAGE.split_once(BEGIN).unwrap();
        let (head, there) = rest.split_at(rest.find("| `").unwrap_or(rest.len()));
        let end = there.find("\n\n").map_or(there.len(), |at| at + 1);
        if std::env::var_os("UPDATE_METRICS_PAGE").is_some() {
            let page = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/METRICS.md");
            std::fs::write(page, format!("{before}{BEGIN}{head}{written}{}", &there[end..])).unwrap();
            return;
        }
        assert_eq!(&there[..end], written, "write it anew by UPDATE_METRICS_PAGE=1 cargo test -p tendril-broker --lib");
        assert!(written.lines().count() > 40);
    }

    #[test]
    fn names_are_as_prometheus_wants_them() {
        for name in rows(&full().text()).into_keys() {
            assert!(
                name.starts_with("tendril_") && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'),
                "{name}"
            );
            assert!(
                !name.contains("_ms") && !name.contains("milli") && !name.ends_with("_count"),
                "{name}: base units"
            );
        }
    }

    #[test]
    fn what_is_gone_from_the_database_is_gone_from_the_figures() {
        let metrics = Metrics::new();
        let shown = |states: &[&str]| {
            let mut values = Values::default();
            for state in states {
                values.gauge("queue_jobs", &["1", "one", "exec", state, "", "20"], 3.0);
            }
            metrics.installation.replace(Part::Work, values);
            metrics.text()
        };
        assert!(shown(&["QUEUED", "STARTED"]).contains("state=\"STARTED\",waiting_for=\"\",priority=\"20\"} 3.0"));
        let text = shown(&["QUEUED"]);
        assert!(!text.contains("STARTED") && text.contains("QUEUED"), "{text}");
        assert!(!shown(&[]).contains("tendril_queue_jobs"));
    }

    #[test]
    fn a_histogram_is_told_with_all_its_buckets() {
        let mut values = Values::default();
        for bucket in [(0, 2, 0.5), (2, 1, 90.0), (9, 1, 1.0)] {
            values.bucket("job_claim_seconds", &["1", "one", "exec"], &[1.0, 60.0], bucket);
        }
        let metrics = Metrics::new();
        metrics.installation.replace(Part::Work, values);
        let text = metrics.text();
        let labels = "cluster_id=\"1\",cluster=\"one\",kind=\"exec\"";
        // Tried as well: a bucket beyond the last, of a newer schema.
        for (line, value) in [("1.0", "2"), ("60.0", "2"), ("+Inf", "3")] {
            let line = format!("tendril_job_claim_seconds_bucket{{le=\"{line}\",{labels}}} {value}");
            assert!(text.contains(&line), "{line} is missing:\n{text}");
        }
        assert!(text.contains(&format!("tendril_job_claim_seconds_count{{{labels}}} 3")), "{text}");
    }
}
