//! What a shard shows of itself: samples, rendered in Prometheus' text format by the HTTP port.

/// How a sample's values relate over time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// One measured value. Names follow Prometheus' rules: unit last, `_total` for counters.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// For example `millstream_fetch_sendfile_bytes_total`.
    pub name: &'static str,
    /// One line for people.
    pub help: &'static str,
    /// Counter or gauge.
    pub kind: Kind,
    /// Label pairs besides `shard`, which the renderer adds.
    pub labels: Vec<(&'static str, String)>,
    /// The value.
    pub value: f64,
}
