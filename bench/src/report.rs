//! What a run has measured.

use hdrhistogram::Histogram;

/// Latencies from 1 µs to 60 s, in nanoseconds, to three digits.
pub fn latencies() -> Histogram<u64> {
    Histogram::new_with_bounds(1_000, 60_000_000_000, 3).expect("the bounds are valid")
}

/// The result of a run. Megabytes are 10^6 bytes.
pub struct Report {
    /// How long was measured.
    pub seconds: f64,
    /// Requests answered in that time.
    pub requests: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of their values (produce) or of their batches (consume).
    pub payload_bytes: u64,
    /// Nanoseconds from when a request was due (at a fixed rate) or sent to its answer, of the requests that were due or
    /// sent in that time, whenever the answer came.
    pub latency: Histogram<u64>,
    /// Requests that were due in that time and never answered, though they were waited for; `latency` has them with the
    /// time they had waited.
    pub unanswered: u64,
}

impl Report {
    pub fn new(seconds: f64) -> Report {
        Report { seconds, requests: 0, records: 0, payload_bytes: 0, latency: latencies(), unanswered: 0 }
    }

    /// Takes in what another thread measured in the same time.
    pub fn add(&mut self, other: &Report) {
        self.requests += other.requests;
        self.records += other.records;
        self.payload_bytes += other.payload_bytes;
        self.latency.add(&other.latency).expect("the histograms are alike");
        self.unanswered += other.unanswered;
    }

    pub fn megabytes_per_second(&self) -> f64 {
        self.payload_bytes as f64 / 1e6 / self.seconds
    }

    pub fn records_per_second(&self) -> f64 {
        self.records as f64 / self.seconds
    }

    /// Milliseconds within which this share of the requests was answered.
    pub fn latency_ms(&self, quantile: f64) -> f64 {
        self.latency.value_at_quantile(quantile) as f64 / 1e6
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.1} MB/s, {:.0} records/s, {:.0} requests/s over {:.1} s",
            self.megabytes_per_second(),
            self.records_per_second(),
            self.requests as f64 / self.seconds,
            self.seconds
        )?;
        write!(
            f,
            "\nlatency ms: p50 {:.3}, p90 {:.3}, p99 {:.3}, p99.9 {:.3}, max {:.3}",
            self.latency_ms(0.5),
            self.latency_ms(0.9),
            self.latency_ms(0.99),
            self.latency_ms(0.999),
            self.latency.max() as f64 / 1e6
        )?;
        if self.unanswered > 0 {
            write!(f, "\n{} requests that were due were never answered", self.unanswered)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_of_threads_add_up() {
        let mut total = Report::new(2.0);
        for thread in 1..=2 {
            let mut part = Report::new(2.0);
            (part.requests, part.records, part.payload_bytes, part.unanswered) = (thread, 10 * thread, 1_000_000, 1);
            part.latency.record(thread * 1_000_000).unwrap();
            total.add(&part);
        }
        assert_eq!((total.requests, total.records, total.unanswered, total.latency.len()), (3, 30, 2, 2));
        assert_eq!((total.megabytes_per_second(), total.records_per_second()), (1.0, 15.0));
        assert!((total.latency_ms(1.0) - 2.0).abs() < 0.01);
    }
}
