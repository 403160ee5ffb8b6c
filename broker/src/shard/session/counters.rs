//! What clients asked for and got, counted since the start.

use crate::metrics::{Kind, Sample};
use crate::protocol::versions::{ApiKey, SERVED};

/// API keys are below this.
const API_KEYS: usize = 128;

/// Counters since the start.
#[derive(Debug)]
pub struct Counters {
    requests: [u64; API_KEYS],
    /// Connections closed for a request that could not be read or answered.
    pub closed_for_error: u64,
    /// Partitions of Produce requests answered with an error.
    pub produce_errors: u64,
    /// Partitions of Fetch requests answered with an error.
    pub fetch_errors: u64,
    /// Bytes of batches sent from memory.
    pub fetched_memory_bytes: u64,
    /// Bytes of batches sent from files.
    pub fetched_file_bytes: u64,
}

impl Default for Counters {
    fn default() -> Self {
        Counters {
            requests: [0; API_KEYS],
            closed_for_error: 0,
            produce_errors: 0,
            fetch_errors: 0,
            fetched_memory_bytes: 0,
            fetched_file_bytes: 0,
        }
    }
}

impl Counters {
    /// A request of this API came.
    pub fn request(&mut self, api_key: ApiKey) {
        self.requests[api_key as usize] += 1;
    }

    /// The counters, for a scrape.
    pub fn samples(&self, samples: &mut Vec<Sample>) {
        samples.extend(SERVED.iter().map(|&api_key| Sample {
            name: "millstream_requests_total",
            help: "Requests that came, by API.",
            kind: Kind::Counter,
            labels: vec![("api", api_key.name())],
            value: self.requests[api_key as usize] as f64,
        }));
        samples.extend([
            Sample::counter(
                "millstream_connections_closed_for_error_total",
                "Connections closed for a request that could not be read or answered.",
                self.closed_for_error,
            ),
            Sample::counter(
                "millstream_produce_partition_errors_total",
                "Partitions of Produce requests answered with an error.",
                self.produce_errors,
            ),
            Sample::counter(
                "millstream_fetch_partition_errors_total",
                "Partitions of Fetch requests answered with an error.",
                self.fetch_errors,
            ),
            Sample::counter(
                "millstream_fetch_memory_bytes_total",
                "Bytes of batches sent to consumers from memory.",
                self.fetched_memory_bytes,
            ),
            Sample::counter(
                "millstream_fetch_sendfile_bytes_total",
                "Bytes of batches sent to consumers from files.",
                self.fetched_file_bytes,
            ),
        ]);
    }
}
