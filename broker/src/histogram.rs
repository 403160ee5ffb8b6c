//! A histogram of durations that costs a few nanoseconds a sample: plain counters, two buckets to an octave.

use std::time::Duration;

/// The first bucket's upper bound is 2 to this power, in nanoseconds: about a microsecond.
const FIRST_OCTAVE: u32 = 10;
/// The last bounded bucket ends at 2 to this power: about 69 seconds.
const LAST_OCTAVE: u32 = 36;
/// Buckets with an upper bound.
pub const BOUNDS: usize = 2 * (LAST_OCTAVE - FIRST_OCTAVE) as usize + 1;

/// Counts of durations from about a microsecond to about a minute. The bounds are powers of two in nanoseconds and the
/// middles between them, so a quantile read from it is at most a half too large and a third too small.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// The last one has no upper bound.
    buckets: [u64; BOUNDS + 1],
    sum_nanoseconds: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Histogram { buckets: [0; BOUNDS + 1], sum_nanoseconds: 0 }
    }
}

impl Histogram {
    /// Counts a duration, given in nanoseconds.
    pub fn record(&mut self, nanoseconds: u64) {
        self.buckets[bucket(nanoseconds)] += 1;
        self.sum_nanoseconds = self.sum_nanoseconds.saturating_add(nanoseconds);
    }

    /// Adds what another histogram has counted.
    pub fn add(&mut self, other: &Histogram) {
        for (ours, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *ours += theirs;
        }
        self.sum_nanoseconds = self.sum_nanoseconds.saturating_add(other.sum_nanoseconds);
    }

    /// All durations added up.
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_nanoseconds)
    }

    /// How many durations were counted.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The upper bounds, inclusive, each with the number of durations up to it; without the last, which is
    /// [`Histogram::count`].
    pub fn cumulative(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let mut below = 0;
        self.buckets[..BOUNDS].iter().enumerate().map(move |(index, count)| {
            below += count;
            (bound(index), below)
        })
    }
}

/// The bucket of a duration in nanoseconds.
fn bucket(nanoseconds: u64) -> usize {
    // Bounds are inclusive, as Prometheus wants them.
    let below = nanoseconds.saturating_sub(1) | 1;
    let octave = below.ilog2();
    if octave < FIRST_OCTAVE {
        return 0;
    }
    let half = (below >> (octave - 1)) & 1;
    (2 * (octave - FIRST_OCTAVE) as usize + half as usize + 1).min(BOUNDS)
}

/// The upper bound of a bucket.
fn bound(index: usize) -> Duration {
    let octave = FIRST_OCTAVE + index as u32 / 2;
    let base = 1u64 << octave;
    Duration::from_nanos(if index.is_multiple_of(2) { base } else { base + base / 2 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_duration_lies_within_its_bucket() {
        for index in 0..BOUNDS {
            let upper = bound(index).as_nanos() as u64;
            assert_eq!(bucket(upper), index, "bounds are inclusive");
            assert_eq!(bucket(upper + 1), index + 1);
        }
        assert_eq!((bucket(0), bucket(1), bucket(u64::MAX)), (0, 0, BOUNDS));
        assert_eq!(bound(0), Duration::from_nanos(1024));
        assert_eq!(bound(BOUNDS - 1), Duration::from_nanos(1 << 36));
    }

    #[test]
    fn counts_add_up() {
        let mut histogram = Histogram::default();
        for nanoseconds in [0, 1_000, 1_500, 2_000_000, u64::MAX / 2] {
            histogram.record(nanoseconds);
        }
        let mut twice = histogram.clone();
        twice.add(&histogram);
        assert_eq!((histogram.count(), twice.count()), (5, 10));
        let cumulative: Vec<(Duration, u64)> = histogram.cumulative().collect();
        assert_eq!(cumulative[..2], [(Duration::from_nanos(1024), 2), (Duration::from_nanos(1536), 3)]);
        assert_eq!(cumulative[BOUNDS - 1].1, 4, "one lies above all bounds");
        assert!(cumulative.is_sorted());
    }
}
