//! The consuming load. As in Kafka's own consumers, a connection has one fetch under way.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::Args;

use crate::client::{self, Session, Waits};
use crate::connection::{Socket, Target};
use crate::error::BenchError;
use crate::load::{self, Common, Mark};
use crate::report::Report;
use crate::schedule::Window;
use crate::{topics, wire};

/// Options of `consume`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    #[command(flatten)]
    pub common: Common,
    /// Most bytes of one partition in one response.
    #[arg(long, default_value_t = 1 << 20)]
    pub partition_bytes_max: i32,
    /// Instead of reading what is there once: go on reading it from its beginning for this many seconds.
    #[arg(long, value_parser = load::seconds, value_name = "SECONDS", conflicts_with = "tail")]
    pub repeat: Option<f64>,
    /// Instead of reading what is there: read what comes, for this many seconds.
    #[arg(long, value_parser = load::seconds, value_name = "SECONDS")]
    pub tail: Option<f64>,
    /// Seconds that are not measured, first; for --repeat and --tail.
    #[arg(long, default_value_t = 0.0, value_parser = load::seconds)]
    pub warm_up: f64,
}

/// Reads the topic and says what came of it. Calls `mark` at both ends of the measured time; ends early, without an
/// error, when `stop` is set.
pub fn run(options: &Options, stop: &AtomicBool, mark: impl FnMut(Mark)) -> Result<Report, BenchError> {
    let target = options.common.target();
    let topic = &options.common.topic;
    let leaders = topics::leaders(&target, topic)?;
    let starts = topics::offsets(&target, topic, &leaders, topics::EARLIEST)?;
    let ends = topics::offsets(&target, topic, &leaders, topics::LATEST)?;
    let tail = options.tail.is_some();
    let ranges: Vec<Range> = (0..leaders.len())
        .map(|partition| {
            let (start, end) = (starts[partition], ends[partition]);
            let (start, end) = if tail { (end, i64::MAX) } else { (start, end) };
            Range { partition: partition as i32, start, end }
        })
        .filter(|range| range.start < range.end)
        .collect();
    if ranges.is_empty() {
        return Err(BenchError::Empty(topic.clone()));
    }
    let seconds = options.repeat.or(options.tail);
    let mut consumers = Vec::new();
    for (leader, mine) in shares(&leaders, ranges, options.common.connections as usize) {
        consumers.push(Consumer::new(options, &target.at(&leader), mine, stop)?);
    }
    let window = Window::after(
        Duration::from_secs_f64(if seconds.is_some() { options.warm_up } else { 0.0 }),
        seconds.map_or(load::DAY, Duration::from_secs_f64),
    );
    for consumer in &mut consumers {
        consumer.window = window;
    }
    let mut report = load::run(&options.common, window, consumers, mark, |consumers, deadline| {
        client::drive(consumers, options.common.spin, deadline)?;
        let mut report = Report::new(window.seconds());
        consumers.iter().for_each(|consumer| report.add(&consumer.report));
        Ok(report)
    })?;
    if seconds.is_none() || stop.load(Ordering::Relaxed) {
        report.seconds = window.from.elapsed().as_secs_f64().min(window.seconds());
    }
    Ok(report)
}

/// Deals the partitions out to at most so many consumers, none of which gets nothing: the connections of all of them, each
/// to one leader, with what is read from it.
fn shares(leaders: &[String], ranges: Vec<Range>, consumers: usize) -> Vec<(String, Vec<Range>)> {
    let consumers = consumers.min(ranges.len());
    let mut shares = Vec::new();
    for consumer in 0..consumers {
        let mine: Vec<i32> = ranges.iter().skip(consumer).step_by(consumers).map(|range| range.partition).collect();
        for (leader, led) in topics::by_leader(leaders, mine) {
            shares.push((leader, ranges.iter().copied().filter(|range| led.contains(&range.partition)).collect()));
        }
    }
    shares
}

/// The offsets of a partition that are to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Range {
    partition: i32,
    start: i64,
    end: i64,
}

/// One connection that consumes.
struct Consumer<'a> {
    socket: Socket,
    topic: &'a str,
    partition_bytes_max: i32,
    stop: &'a AtomicBool,
    /// What to read and, after its end, to read again.
    ranges: HashMap<i32, Range>,
    repeat: bool,
    /// Partitions still to be read, each with its next offset.
    positions: Vec<(i32, i64)>,
    request: Bytes,
    /// Bytes of the request that have been written, while some have not.
    written: Option<usize>,
    /// When the fetch under way was sent.
    under_way: Option<Instant>,
    window: Window,
    report: Report,
}

impl<'a> Consumer<'a> {
    /// Connects; the window is to be set before it is used.
    fn new(
        options: &'a Options,
        target: &Target,
        ranges: Vec<Range>,
        stop: &'a AtomicBool,
    ) -> Result<Consumer<'a>, BenchError> {
        Ok(Consumer {
            socket: Socket::open(target)?,
            topic: &options.common.topic,
            partition_bytes_max: options.partition_bytes_max,
            stop,
            repeat: options.repeat.is_some(),
            positions: ranges.iter().map(|range| (range.partition, range.start)).collect(),
            ranges: ranges.into_iter().map(|range| (range.partition, range)).collect(),
            request: Bytes::new(),
            written: None,
            under_way: None,
            window: Window::after(Duration::ZERO, Duration::ZERO),
            report: Report::new(0.0),
        })
    }

    fn ended(&self) -> bool {
        self.positions.is_empty() || Instant::now() >= self.window.until || self.stop.load(Ordering::Relaxed)
    }

    /// Moves on past what was read, and starts partitions that are at their end again or leaves them out.
    fn advance(&mut self, read: &[wire::Fetched]) {
        for fetched in read {
            if let Some(position) = self.positions.iter_mut().find(|(partition, _)| *partition == fetched.partition) {
                position.1 = fetched.next;
            }
        }
        for (partition, offset) in &mut self.positions {
            if self.repeat && *offset >= self.ranges[partition].end {
                *offset = self.ranges[partition].start;
            }
        }
        self.positions.retain(|(partition, offset)| *offset < self.ranges[partition].end);
        // Brokers favour partitions in the order of the request.
        if !self.positions.is_empty() {
            self.positions.rotate_left(1);
        }
    }
}

impl Session for Consumer<'_> {
    fn socket(&self) -> &Socket {
        &self.socket
    }

    fn receive(&mut self) -> Result<(), BenchError> {
        if !self.socket.read()? {
            return Ok(());
        }
        let mut read = Vec::new();
        let Some(response) = self.socket.response()? else { return Ok(()) };
        wire::fetched(response, |fetched| read.push(fetched))?;
        let now = Instant::now();
        let Some(sent) = self.under_way.take() else {
            return Err(BenchError::Response("a response that no request was sent for".to_string()));
        };
        if self.window.contains(sent) {
            self.report.latency.saturating_record((now - sent).as_nanos() as u64);
        }
        if self.window.contains(now) {
            self.report.requests += 1;
            for fetched in &read {
                self.report.records += fetched.records;
                self.report.payload_bytes += fetched.bytes as u64;
            }
        }
        self.advance(&read);
        Ok(())
    }

    fn send(&mut self) -> Result<Waits, BenchError> {
        if self.under_way.is_none() {
            if self.ended() {
                return Ok(Waits::Done);
            }
            self.request = wire::fetch(self.topic, &self.positions, self.partition_bytes_max);
            self.under_way = Some(Instant::now());
            self.written = Some(0);
        }
        if let Some(from) = self.written {
            let written = from + self.socket.write(&self.request[from..])?;
            self.written = Some(written).filter(|written| *written < self.request.len());
        }
        Ok(if self.written.is_some() { Waits::Write } else { Waits::Read })
    }

    fn due(&self, _: u64) -> Option<Instant> {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_dealt_out_and_no_consumer_gets_none() {
        let ranges: Vec<Range> = (0..5).map(|partition| Range { partition, start: 0, end: 1 }).collect();
        let sizes = |leaders: [&str; 5], consumers| {
            let shares = shares(&leaders.map(str::to_string), ranges.clone(), consumers);
            shares.iter().map(|(_, ranges)| ranges.len()).collect::<Vec<_>>()
        };
        assert_eq!(sizes(["a"; 5], 2), [3, 2]);
        assert_eq!(sizes(["a"; 5], 8), [1, 1, 1, 1, 1]);
        assert_eq!(sizes(["a", "b", "b", "b", "a"], 2), [2, 1, 2]);
    }
}
