//! What the runner says of its logs, at `/metrics`.

use std::fs;
use std::path::Path;

use anyhow::Context;

/// A batch is to take less than so many seconds; a bucket of the runner's histogram.
const BUCKET: &str = "5.0";

/// Since the runner's process began.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Figures {
    /// Batches that were stored.
    pub batches: u64,
    /// Those that took longer than 5 s.
    pub late_batches: u64,
    /// Log connections made: one more after a batch of which nobody knows what became of it.
    pub sessions: u64,
    /// Bytes of text for which there was no room.
    pub dropped_bytes: u64,
    /// Seconds for which a pipe was not read, for want of room.
    pub paused_s: f64,
}

impl Figures {
    /// Those of the runner that has written this log last: it says there where it listens.
    ///
    /// # Errors
    /// It does not listen, or says no such figures.
    pub async fn of(log: &Path) -> anyhow::Result<Self> {
        let said = fs::read_to_string(log)?;
        let address = said.lines().rev().find_map(|line| {
            let (_, address) = line.split_once("answers /metrics")?.1.split_once("address=")?;
            address.split_whitespace().next()
        });
        let address = address.context("the runner does not say where it listens")?;
        let text = reqwest::get(format!("http://{address}/metrics")).await?.error_for_status()?.text().await?;
        Self::read(&text).context("the runner does not say how its logs do")
    }

    fn read(text: &str) -> Option<Self> {
        let figure = |name: &str| {
            let values = text.lines().filter_map(|line| line.strip_prefix("tendril_runner_log_")?.strip_prefix(name));
            values.filter_map(|value| value.trim().parse::<f64>().ok()).next()
        };
        let batches = figure("flush_seconds_count ")?;
        let in_time = figure(&format!("flush_seconds_bucket{{le=\"{BUCKET}\"}} "))?;
        Some(Self {
            batches: batches as u64,
            late_batches: (batches - in_time) as u64,
            sessions: figure("sessions_total ")? as u64,
            dropped_bytes: figure("dropped_bytes_total ")? as u64,
            paused_s: figure("paused_seconds_total ")?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Figures;

    #[test]
    fn batches_beyond_the_bucket_are_late() {
        let text = "tendril_runner_log_flush_seconds_count 9\n\
                    tendril_runner_log_flush_seconds_bucket{le=\"2.5\"} 3\n\
                    tendril_runner_log_flush_seconds_bucket{le=\"5.0\"} 7\n\
                    tendril_runner_log_sessions_total 3\n\
                    tendril_runner_log_dropped_bytes_total 12\n\
                    tendril_runner_log_paused_seconds_total 1.5\n";
        let wanted = Figures { batches: 9, late_batches: 2, sessions: 3, dropped_bytes: 12, paused_s: 1.5 };
        assert_eq!(Figures::read(text), Some(wanted));
        assert_eq!(Figures::read("tendril_runner_log_flush_seconds_count 9\n"), None);
    }
}
