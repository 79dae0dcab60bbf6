//! What is printed: a table for people (Markdown, as in docs/BENCHMARKS.md) or JSON for programs.

use crate::comparison::{Comparison, Unit};
use crate::log_text::LINE_BYTES;
use crate::machine::Machine;
use crate::statistics::Spread;
use serde::Serialize;

/// All that one run of the program measured.
#[derive(Debug, Serialize)]
pub struct Report {
    /// How to measure the same again.
    pub command: String,
    /// When; RFC 3339.
    pub measured_at: String,
    /// On what.
    pub machine: Machine,
    /// What.
    pub tables: Vec<Table>,
}

/// One row of the bench in one setting.
#[derive(Debug, Serialize)]
pub struct Table {
    /// The subcommand.
    pub row: &'static str,
    /// The setting, in words.
    pub setting: String,
    /// What stands beside our figures.
    pub baseline: String,
    /// Rounds of either side.
    pub rounds: usize,
    /// The figures.
    pub lines: Vec<Comparison>,
    /// Those that are to be drawn.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub curves: Vec<Curve>,
}

/// Figures over something that grows. Curves of one chart, of whichever table, are drawn together.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Curve {
    /// The chart: what its figures are, with their unit.
    pub chart: &'static str,
    /// What grows.
    pub over: &'static str,
    /// Which curve of the chart.
    pub name: &'static str,
    /// Where each figure stands.
    pub points: Vec<(f64, Spread)>,
    /// What was promised.
    pub goal: Option<f64>,
}

impl Report {
    /// Whether every goal was met.
    pub fn meets_goals(&self) -> bool {
        let mut lines = self.tables.iter().flat_map(|table| &table.lines);
        lines.all(|line| line.goals.iter().all(|judged| judged.met))
    }

    /// As Markdown.
    pub fn markdown(&self) -> String {
        let mut text = format!("`{}`, {}\n\n", self.command, self.measured_at);
        for line in self.machine.lines() {
            text += &format!("- {line}\n");
        }
        for table in &self.tables {
            text += &table.markdown();
        }
        text
    }
}

impl Table {
    fn markdown(&self) -> String {
        let mut text = format!(
            "\n**{}**: {}. Beside it: {}. Medians of {} rounds of each, interleaved, with the smallest and the largest.\n\n",
            self.row, self.setting, self.baseline, self.rounds
        );
        text += "| measured | ours | bare | ours / bare | goal |\n| --- | --- | --- | --- | --- |\n";
        for line in &self.lines {
            let (what, unit) = (&line.what, line.unit.as_str());
            let ours = figure(line.ours, line.unit);
            let bare = line.bare.map_or_else(|| "-".to_owned(), |bare| figure(bare, line.unit));
            let ratio = line.ratio.map_or_else(|| "-".to_owned(), ratio);
            let what = if unit.is_empty() { what.clone() } else { format!("{what}, {unit}") };
            text += &format!("| {what} | {ours} | {bare} | {ratio} | {} |\n", goals(line));
        }
        text
    }
}

fn figure(spread: Spread, unit: Unit) -> String {
    let decimals = match unit {
        Unit::Milliseconds | Unit::RunsPerSecond | Unit::Microseconds | Unit::Ratio => 2,
        Unit::Bytes => 1,
        Unit::LinesPerSecond | Unit::JobsPerSecond | Unit::Mebibytes | Unit::Count => 0,
    };
    let Spread { median, min, max } = spread;
    // A number of lines alone says little; all of ours have one length.
    let volume = match unit {
        Unit::LinesPerSecond => format!(", {:.2} MB/s", median * LINE_BYTES as f64 / 1e6),
        _ => String::new(),
    };
    format!("{median:.decimals$} ({min:.decimals$} .. {max:.decimals$}){volume}")
}

fn ratio(spread: Spread) -> String {
    let Spread { median, min, max } = spread;
    format!("**{median:.2}** ({min:.2} .. {max:.2})")
}

fn goals(line: &Comparison) -> String {
    let one = |judged: &crate::comparison::Judged| {
        format!("{} {}", judged.goal.text(), if judged.met { "met" } else { "**missed**" })
    };
    match line.goals.as_slice() {
        [] => "-".to_owned(),
        goals => goals.iter().map(one).collect::<Vec<_>>().join(", "),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::comparison::Goal;
    use tendril_broker::baseline::ServerFacts;

    fn report(ours: f64) -> Report {
        let line = Comparison::of("started, p50", Unit::Milliseconds, &[ours], &[2.0]).unwrap();
        let table = Table {
            row: "start-latency",
            setting: "one runner".into(),
            baseline: "a round trip".into(),
            rounds: 1,
            lines: vec![line.with_goal(Goal::MostTimesBare(1.5)).with_goal(Goal::Most(5.0))],
            curves: Vec::new(),
        };
        let on = || "on".to_owned();
        let postgres = ServerFacts {
            version: "15.18".into(),
            fsync: on(),
            synchronous_commit: on(),
            wal_sync_method: "fdatasync".into(),
        };
        let machine = Machine { cores: 2, processor: "P".into(), memory_gib: 24, kernel: "Linux 6".into(), postgres };
        Report { command: "bench".into(), measured_at: "now".into(), machine, tables: vec![table] }
    }

    #[test]
    fn the_table_has_both_figures_their_ratio_and_whether_each_goal_was_met() {
        let text = report(4.0).markdown();
        let line = "| started, p50, ms | 4.00 (4.00 .. 4.00) | 2.00 (2.00 .. 2.00) | **2.00** (2.00 .. 2.00) \
                    | <= 1.5x **missed**, <= 5 met |";
        assert!(text.contains(line), "{text}");
        assert!(!report(4.0).meets_goals() && report(3.0).meets_goals());
    }

    #[test]
    fn lines_are_told_with_their_volume() {
        let mut report = report(3.0);
        report.tables[0].lines = vec![Comparison::of("stored", Unit::LinesPerSecond, &[472_000.0], &[]).unwrap()];
        let text = report.markdown();
        assert!(text.contains("| stored, lines/s | 472000 (472000 .. 472000), 94.40 MB/s | - |"), "{text}");
    }

    #[test]
    fn the_json_has_what_the_table_has() {
        let json = serde_json::to_value(report(3.0)).unwrap();
        assert_eq!(json["machine"]["postgres"]["fsync"], "on");
        assert_eq!(json["tables"][0]["lines"][0]["ratio"]["median"], 1.5);
        assert_eq!(json["tables"][0]["lines"][0]["unit"], "ms");
        assert_eq!(json["tables"][0]["lines"][0]["goals"][0]["goal"]["most_times_bare"], 1.5);
    }

    #[test]
    fn a_server_that_may_forget_is_pointed_out() {
        let mut report = report(3.0);
        report.machine.postgres.fsync = "off".into();
        assert!(report.markdown().contains("fsync is off"));
    }
}
