//! What the loads have in common: options, threads, and the two ends of the measured time.

use std::time::{Duration, Instant};

use clap::Args;

use crate::client::Session;
use crate::connection::Target;
use crate::error::BenchError;
use crate::report::Report;
use crate::schedule::Window;

/// A time that no run reaches: the window of one that ends when it has done all.
pub const DAY: Duration = Duration::from_secs(86_400);
/// How long answers are waited for after the measured time.
const GRACE: Duration = Duration::from_secs(10);
/// Replicas of a partition, and brokers that `compare` starts of a kind, at most.
const REPLICAS_MAX: usize = 9;
/// How often a run looks whether a thread of it has failed.
const LOOK: Duration = Duration::from_millis(20);

/// Options of every load.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// Any broker of the cluster: it says who leads which partition, and those are talked to.
    #[arg(long, default_value = "127.0.0.1:9092")]
    pub bootstrap: String,
    /// Topic.
    #[arg(long, default_value = "bench")]
    pub topic: String,
    /// Producers or consumers: each has a connection to every broker that leads one of its partitions.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub connections: u32,
    /// Threads that share the connections; one for each processor that the load may use is enough.
    #[arg(long, default_value_t = 1, value_parser = load_threads)]
    pub threads: usize,
    /// Poll instead of sleeping, so that the load's own wake-ups are not part of the latency. Takes a whole processor a
    /// thread.
    #[arg(long)]
    pub spin: bool,
    /// TCP congestion control of the load's sockets, for example cubic; without it, the system's.
    #[arg(long)]
    pub congestion: Option<String>,
}

impl Common {
    pub fn target(&self) -> Target {
        Target { address: self.bootstrap.clone(), congestion: self.congestion.clone() }
    }
}

/// An end of the measured time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    From,
    Until,
}

/// Spreads the sessions over the threads, in turn, and runs `body` in each, with the time by which it must have ended.
/// Calls `mark` at both ends of the window, in the calling thread.
pub fn run<S: Session + Send>(
    common: &Common,
    window: Window,
    sessions: Vec<S>,
    mut mark: impl FnMut(Mark),
    body: impl Fn(&mut [S], Instant) -> Result<Report, BenchError> + Sync,
) -> Result<Report, BenchError> {
    let mut shares: Vec<Vec<S>> = (0..common.threads).map(|_| Vec::new()).collect();
    for (index, session) in sessions.into_iter().enumerate() {
        shares[index % common.threads].push(session);
    }
    let body = &body;
    std::thread::scope(|scope| {
        let threads: Vec<_> = shares
            .into_iter()
            .filter(|share| !share.is_empty())
            .map(|mut share| scope.spawn(move || body(&mut share, window.until + GRACE)))
            .collect();
        // A thread that ends before its time has failed, or has nothing left to do.
        for (end, at) in [(Mark::From, window.from), (Mark::Until, window.until)] {
            while Instant::now() < at && threads.iter().any(|thread| !thread.is_finished()) {
                std::thread::sleep(at.saturating_duration_since(Instant::now()).min(LOOK));
            }
            mark(end);
        }
        let mut total = Report::new(window.seconds());
        for thread in threads {
            total.add(&thread.join().expect("a load thread does not panic")?);
        }
        Ok(total)
    })
}

/// Parses `key=value`.
pub fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("it is written KEY=VALUE")?;
    Ok((key.to_string(), value.to_string()))
}

/// Parses a number of seconds, up to a day.
pub fn seconds(text: &str) -> Result<f64, String> {
    text.parse().ok().filter(|seconds| (0.0..=86_400.0).contains(seconds)).ok_or("seconds from 0 to 86400".to_string())
}

/// Parses a count that cannot be 0.
pub fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|count| *count > 0).ok_or("a number from 1 on".to_string())
}

/// Parses a number of replicas, or of the brokers that hold them.
pub fn replicas(text: &str) -> Result<usize, String> {
    at_least_one(text).ok().filter(|count| *count <= REPLICAS_MAX).ok_or(format!("from 1 to {REPLICAS_MAX}"))
}

fn load_threads(text: &str) -> Result<usize, String> {
    at_least_one(text).ok().filter(|threads| *threads <= 256).ok_or("from 1 to 256".to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_checked() {
        assert_eq!(key_value("flush.messages=1"), Ok(("flush.messages".to_string(), "1".to_string())));
        assert!(key_value("flush.messages").is_err());
        assert!(seconds("0.5") == Ok(0.5) && seconds("-1").is_err() && seconds("NaN").is_err());
        assert!(at_least_one("0").is_err() && load_threads("257").is_err() && load_threads("2") == Ok(2));
        assert!(replicas("0").is_err() && replicas("10").is_err() && replicas("3") == Ok(3));
    }
}
