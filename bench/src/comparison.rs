//! A figure of ours, the bare thing beside it, and what was promised.

use crate::statistics::Spread;
use serde::Serialize;

/// What figures are counted in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Unit {
    /// Milliseconds: less is better.
    #[serde(rename = "ms")]
    Milliseconds,
    /// Runs per second: more is better.
    #[serde(rename = "runs/s")]
    RunsPerSecond,
    /// Jobs per second: more is better.
    #[serde(rename = "jobs/s")]
    JobsPerSecond,
    /// Lines of 200 bytes per second: more is better. A table says their volume beside it, in MB (10^6 bytes).
    #[serde(rename = "lines/s")]
    LinesPerSecond,
    /// Microseconds: less is better.
    #[serde(rename = "us")]
    Microseconds,
    /// Bytes: less is better.
    #[serde(rename = "bytes")]
    Bytes,
    /// How many times.
    #[serde(rename = "x")]
    Ratio,
    /// Mebibytes: less is better.
    #[serde(rename = "MiB")]
    Mebibytes,
    /// How many.
    #[serde(rename = "")]
    Count,
}

impl Unit {
    /// As people write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::RunsPerSecond => "runs/s",
            Self::JobsPerSecond => "jobs/s",
            Self::LinesPerSecond => "lines/s",
            Self::Microseconds => "us",
            Self::Bytes => "bytes",
            Self::Ratio => "x",
            Self::Mebibytes => "MiB",
            Self::Count => "",
        }
    }
}

/// What was promised of a figure's median.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Goal {
    /// At most this much.
    Most(f64),
    /// At most this many times the baseline.
    MostTimesBare(f64),
    /// At least this many times the baseline.
    LeastTimesBare(f64),
}

impl Goal {
    /// In signs.
    pub fn text(self) -> String {
        match self {
            Self::Most(most) => format!("<= {most}"),
            Self::MostTimesBare(most) => format!("<= {most}x"),
            Self::LeastTimesBare(least) => format!(">= {least}x"),
        }
    }

    fn is_met(self, ours: Spread, ratio: Option<Spread>) -> bool {
        match self {
            Self::Most(most) => ours.median <= most,
            Self::MostTimesBare(most) => ratio.is_some_and(|ratio| ratio.median <= most),
            Self::LeastTimesBare(least) => ratio.is_some_and(|ratio| ratio.median >= least),
        }
    }
}

/// A goal and whether it was met.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Judged {
    /// What was promised.
    pub goal: Goal,
    /// Whether it held, by the median of the rounds.
    pub met: bool,
}

/// One line of a report.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// What was measured.
    pub what: String,
    /// In what it is counted.
    pub unit: Unit,
    /// Our figure over the rounds.
    pub ours: Spread,
    /// The baseline's.
    pub bare: Option<Spread>,
    /// Ours divided by the baseline's, round by round.
    pub ratio: Option<Spread>,
    /// What was promised.
    pub goals: Vec<Judged>,
}

impl Comparison {
    /// From one figure per round, in the rounds' order; `None` without rounds. `bare` is empty where there is nothing
    /// to compare with.
    pub fn of(what: impl Into<String>, unit: Unit, ours: &[f64], bare: &[f64]) -> Option<Self> {
        Some(Self {
            what: what.into(),
            unit,
            ours: Spread::of(ours)?,
            bare: Spread::of(bare),
            ratio: Spread::of_ratios(ours, bare),
            goals: Vec::new(),
        })
    }

    /// The same with a goal, judged.
    pub fn with_goal(mut self, goal: Goal) -> Self {
        let met = goal.is_met(self.ours, self.ratio);
        self.goals.push(Judged { goal, met });
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn met(goal: Goal, ours: &[f64], bare: &[f64]) -> bool {
        Comparison::of("a", Unit::Milliseconds, ours, bare).unwrap().with_goal(goal).goals[0].met
    }

    #[test]
    fn a_goal_is_judged_by_the_median_and_not_by_the_best_round() {
        assert!(met(Goal::Most(5.0), &[9.0, 5.0, 4.0], &[]));
        assert!(!met(Goal::Most(5.0), &[9.0, 5.1, 4.0], &[]));
        assert!(met(Goal::MostTimesBare(1.5), &[3.0, 30.0, 2.0], &[2.0, 2.0, 2.0]));
        assert!(!met(Goal::MostTimesBare(1.5), &[3.2, 3.2, 1.0], &[2.0, 2.0, 2.0]));
        assert!(met(Goal::LeastTimesBare(0.9), &[0.9], &[1.0]));
        assert!(!met(Goal::LeastTimesBare(0.9), &[0.8], &[1.0]));
    }

    #[test]
    fn a_goal_beside_a_baseline_that_is_missing_is_not_met() {
        assert!(!met(Goal::MostTimesBare(1.5), &[1.0], &[]));
        assert!(Comparison::of("a", Unit::RunsPerSecond, &[], &[1.0]).is_none());
    }
}
