//! Percentiles and spreads: plain functions of figures.

use serde::Serialize;

/// The value below or at which `percent` of the figures lie (nearest rank); `None` without figures.
pub fn percentile(figures: &[f64], percent: f64) -> Option<f64> {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    let rank = (percent / 100.0 * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// What several rounds came to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Spread {
    /// The middle round's figure; the mean of the two in the middle when their number is even.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
}

impl Spread {
    /// Of the rounds' figures; `None` without any.
    pub fn of(rounds: &[f64]) -> Option<Self> {
        let mut sorted = rounds.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Some(Self { median: (low + high) / 2.0, min, max })
    }

    /// Of each round's figure divided by that of the round beside it: what the machine did to both drops out.
    pub fn of_ratios(rounds: &[f64], beside: &[f64]) -> Option<Self> {
        let ratios: Vec<f64> = rounds.iter().zip(beside).map(|(ours, bare)| ours / bare).collect();
        Self::of(&ratios)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_figure_that_was_measured() {
        let figures: Vec<f64> = (1..=200).rev().map(f64::from).collect();
        assert_eq!(percentile(&figures, 50.0), Some(100.0));
        assert_eq!(percentile(&figures, 99.0), Some(198.0));
        assert_eq!(percentile(&figures, 100.0), Some(200.0));
        assert_eq!(percentile(&figures, 0.0), Some(1.0));
        assert_eq!(percentile(&[7.0], 99.0), Some(7.0));
        assert_eq!(percentile(&[], 50.0), None);
    }

    #[test]
    fn a_spread_has_the_middle_and_the_ends() {
        assert_eq!(Spread::of(&[3.0, 1.0, 2.0]), Some(Spread { median: 2.0, min: 1.0, max: 3.0 }));
        assert_eq!(Spread::of(&[4.0, 1.0, 2.0, 3.0]), Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(Spread::of(&[]), None);
    }

    #[test]
    fn ratios_are_taken_round_by_round() {
        // The machine was twice as slow in the second round: both sides show it, their ratio does not.
        let spread = Spread::of_ratios(&[3.0, 6.0], &[2.0, 4.0]).unwrap();
        assert_eq!((spread.min, spread.median, spread.max), (1.5, 1.5, 1.5));
    }
}
