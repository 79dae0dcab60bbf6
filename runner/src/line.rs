//! What a log connection knows of its line: how large a batch it bears, and for which logs the broker has no place yet.

use std::collections::BTreeSet;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use time::Date;

use crate::clock::BootTime;
use crate::logs::MAX_CHUNK_BYTES;
use crate::spool::ROW_BYTES;

/// Batches are sized so that one takes less than this.
pub const TARGET: Duration = Duration::from_secs(3);
/// Smallest batch, with which every session begins: a line may be slow. The longest row fits.
pub const SMALLEST_BATCH_BYTES: usize = MAX_CHUNK_BYTES + ROW_BYTES;
/// Before a broker that is away is asked again.
pub const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// What is known of it.
#[derive(Debug)]
pub struct Line {
    /// The next batch's bound.
    pub batch_bytes: usize,
    /// A batch was stored in it.
    pub has_stored: bool,
    /// Days of claims that nobody has prepared in the database: their logs are not sent for now.
    aside: BTreeSet<Date>,
    until: BootTime,
    waits: ExponentialBackoff,
}

impl Default for Line {
    fn default() -> Self {
        Self {
            batch_bytes: SMALLEST_BATCH_BYTES,
            has_stored: false,
            aside: BTreeSet::new(),
            until: BootTime::now(),
            waits: backoff(),
        }
    }
}

impl Line {
    /// Whether a batch that was made ready for the line as it was before is still good: half a batch is better taken anew,
    /// with what has come meanwhile, and too large a one for a line that has become slow would be late again.
    pub fn fits(&self, ready: usize) -> bool {
        (self.batch_bytes / 2..=self.batch_bytes).contains(&ready)
    }

    /// The next batch's size after one of so many bytes that took so long: the smallest on a slow line, since nobody knows how
    /// much of the time its round trips took; doubled on a fast one, up to `most`. That little was stored quickly says nothing
    /// of a batch that it does not promise to be in time.
    pub fn resize(&mut self, sent: usize, took: Duration, most: usize) {
        let doubled_takes = took.as_secs_f64() * (2 * self.batch_bytes) as f64 / sent.max(1) as f64;
        if took > TARGET {
            self.batch_bytes = SMALLEST_BATCH_BYTES;
        } else if took < TARGET / 4 && doubled_takes < TARGET.as_secs_f64() {
            self.batch_bytes = (self.batch_bytes * 2).min(most);
        }
    }

    /// Sends nothing of this day's logs until it is tried again, with those that were put aside already.
    pub fn put_aside(&mut self, day: Date) {
        if self.aside.is_empty() {
            self.until = BootTime::now().after(self.waits.next().unwrap_or(LONGEST_WAIT));
        }
        self.aside.insert(day);
    }

    /// The days that are put aside.
    pub fn aside(&self) -> &BTreeSet<Date> {
        &self.aside
    }

    /// The days that are to be tried again now.
    pub fn due(&self) -> Vec<Date> {
        if self.until.left().is_zero() { self.aside.iter().copied().collect() } else { Vec::new() }
    }

    /// They have been tried, and these are not put aside any more.
    pub fn tried(&mut self, prepared: &[Date]) {
        self.aside.retain(|day| !prepared.contains(day));
        if self.aside.is_empty() {
            self.waits = backoff();
        }
        self.until = BootTime::now().after(self.waits.next().unwrap_or(LONGEST_WAIT));
    }

    /// Until those that are put aside are tried again; none when there are none.
    pub fn tried_again_in(&self) -> Option<Duration> {
        (!self.aside.is_empty()).then(|| self.until.left())
    }
}

/// Waits before the next try.
pub fn backoff() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(LONGEST_WAIT)
        .with_jitter()
        .without_max_times()
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_shrink_on_a_slow_line_and_grow_back() {
        let most = 1024 * 1024;
        let mut line = Line { batch_bytes: most, ..Line::default() };
        // 400 KB at 50 KB/s, with two round trips of 2 s: a quarter of it, in a quarter of the time, would be late again.
        line.resize(400_000, Duration::from_secs(12), most);
        assert_eq!(line.batch_bytes, SMALLEST_BATCH_BYTES);
        // What was made ready meanwhile is too large.
        assert!(line.fits(SMALLEST_BATCH_BYTES) && line.fits(SMALLEST_BATCH_BYTES / 2));
        assert!(!line.fits(most / 8) && !line.fits(SMALLEST_BATCH_BYTES / 4));
        line.resize(SMALLEST_BATCH_BYTES, Duration::from_secs(2), most);
        assert_eq!(line.batch_bytes, SMALLEST_BATCH_BYTES);
        // A kilobyte in 90 ms may be all that the line bears, or its round trip.
        line.resize(1024, Duration::from_millis(90), most);
        assert_eq!(line.batch_bytes, SMALLEST_BATCH_BYTES);
        for _ in 0..20 {
            line.resize(line.batch_bytes, Duration::from_millis(10), most);
        }
        assert_eq!(line.batch_bytes, most);
    }

    #[test]
    fn days_that_nobody_has_prepared_are_put_aside_together_and_tried_again_together() {
        let mut line = Line::default();
        assert!(line.due().is_empty() && line.tried_again_in().is_none());
        let days = [Date::MIN, Date::MAX];
        line.put_aside(days[0]);
        line.until = BootTime::now().after(Duration::from_secs(3600));
        line.put_aside(days[1]);
        assert!(line.due().is_empty() && line.aside().len() == 2);
        assert!(line.tried_again_in().is_some_and(|left| left > Duration::from_secs(3000)));
        line.until = BootTime::now();
        assert_eq!(line.due(), days);
        // One of them has been prepared; the other one waits on.
        line.tried(&days[..1]);
        assert!(line.due().is_empty() && line.tried_again_in().is_some_and(|left| !left.is_zero()));
        line.tried(&days[1..]);
        assert!(line.aside().is_empty() && line.tried_again_in().is_none());
    }
}
