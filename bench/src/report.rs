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
    /// Requests answered.
    pub requests: u64,
    /// Records in them.
    pub records: u64,
    /// Bytes of their values (produce) or of their batches (consume).
    pub payload_bytes: u64,
    /// Time from when a request was due to its answer, nanoseconds.
    pub latency: Option<Histogram<u64>>,
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{:.1} MB/s, {:.0} records/s, {:.0} requests/s over {:.1} s",
            self.payload_bytes as f64 / 1e6 / self.seconds,
            self.records as f64 / self.seconds,
            self.requests as f64 / self.seconds,
            self.seconds
        )?;
        if let Some(latency) = &self.latency {
            let ms = |quantile: f64| latency.value_at_quantile(quantile) as f64 / 1e6;
            write!(
                f,
                "\nlatency ms: p50 {:.3}, p90 {:.3}, p99 {:.3}, p99.9 {:.3}, max {:.3}",
                ms(0.5),
                ms(0.9),
                ms(0.99),
                ms(0.999),
                latency.max() as f64 / 1e6
            )?;
        }
        Ok(())
    }
}
