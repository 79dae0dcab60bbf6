//! What the runner says of its batches, at `/metrics`.

use std::fs;
use std::path::Path;

use anyhow::Context;

/// A batch is to take less than so many seconds; a bucket of the runner's histogram.
const BUCKET: &str = "5.0";

/// How many batches this runner has stored that took longer than 5 s; its log says where it listens.
///
/// # Errors
/// It does not listen, or its figures cannot be read.
pub async fn late_batches(log: &Path) -> anyhow::Result<u64> {
    let said = fs::read_to_string(log)?;
    let address = said.lines().rev().find_map(|line| {
        let (_, address) = line.split_once("answers /metrics")?.1.split_once("address=")?;
        address.split_whitespace().next()
    });
    let address = address.context("the runner does not say where it listens")?;
    let text = reqwest::get(format!("http://{address}/metrics")).await?.error_for_status()?.text().await?;
    Ok(late(&text).context("no figures of batches")?)
}

fn late(figures: &str) -> Option<u64> {
    let figure = |name: &str| figures.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    let all = figure("tendril_runner_log_flush_seconds_count ")?;
    let in_time = figure(&format!("tendril_runner_log_flush_seconds_bucket{{le=\"{BUCKET}\"}} "))?;
    Some(all - in_time)
}

#[cfg(test)]
mod tests {
    use super::late;

    #[test]
    fn batches_beyond_the_bucket_are_late() {
        let figures = "tendril_runner_log_flush_seconds_count 9\n\
                       tendril_runner_log_flush_seconds_bucket{le=\"2.5\"} 3\n\
                       tendril_runner_log_flush_seconds_bucket{le=\"5.0\"} 7\n";
        assert_eq!(late(figures), Some(2));
        assert_eq!(late("tendril_runner_log_flush_seconds_count 9\n"), None);
    }
}
