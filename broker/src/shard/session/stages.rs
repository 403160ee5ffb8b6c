//! Where the time of requests goes: a timeline for each request, which cuts the time from its last byte read to its last
//! byte sent into stages without a gap, and histograms of the stages and of their sum.
//!
//! The shard reads no clock. Stages begin and end at the times that the driver gives with events and between the parts
//! of a turn ([`super::super::Shard::handle`]), and at those that other shards say in their replies; all of a process's shards
//! have the same clock.

use std::time::Duration;

use crate::histogram::Histogram;
use crate::metrics::HistogramSample;
use crate::protocol::versions::Handler;

/// Requests whose times are told apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Produce.
    Produce,
    /// Fetch.
    Fetch,
    /// All others.
    Other,
}

const KINDS: [Kind; 3] = [Kind::Produce, Kind::Fetch, Kind::Other];

/// What a request spends time in. A request may be in a stage more than once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It waits to be looked at: for its session's shard, then for the shards that own its partitions.
    Queue,
    /// Its session understands and checks it.
    Parse,
    /// The owners work on it, to the end of the turn.
    Local,
    /// It waits: for its commit, for more to read, for another shard or the controller.
    Remote,
    /// What it reads is brought into the page cache.
    Load,
    /// Its response waits for those before it, and goes to the socket.
    Respond,
}

const STAGES: usize = 6;

impl Kind {
    /// The kind of a request whose header could be read, by who serves it.
    pub fn of(handler: Handler) -> Kind {
        match handler {
            Handler::Produce => Kind::Produce,
            Handler::Fetch => Kind::Fetch,
            Handler::Offsets(_)
            | Handler::Survey(_)
            | Handler::ProducerIds
            | Handler::FindCoordinator
            | Handler::Group(_)
            | Handler::Image(_) => Kind::Other,
        }
    }

    /// The value of the label `api`.
    fn name(self) -> &'static str {
        match self {
            Kind::Produce => "Produce",
            Kind::Fetch => "Fetch",
            Kind::Other => "other",
        }
    }

    /// The stages that requests of this kind go through, with the values of the label `stage`.
    fn stages(self) -> &'static [(Stage, &'static str)] {
        use Stage::{Load, Local, Parse, Queue, Remote, Respond};
        match self {
            Kind::Produce => {
                &[(Queue, "queue"), (Parse, "parse"), (Local, "append"), (Remote, "commit"), (Respond, "respond")]
            }
            Kind::Fetch => &[
                (Queue, "queue"),
                (Parse, "parse"),
                (Local, "read"),
                (Remote, "wait"),
                (Load, "load"),
                (Respond, "respond"),
            ],
            Kind::Other => &[(Queue, "queue"), (Local, "handle"), (Remote, "wait"), (Respond, "respond")],
        }
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// One request's way through the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeline {
    kind: Kind,
    stage: Stage,
    /// When the stage began, in nanoseconds of [`millstream_storage::Now::elapsed`].
    since: u64,
    /// Nanoseconds spent in each stage before.
    spent: [u64; STAGES],
}

impl Timeline {
    /// A request whose last byte was read at `received`, and which is looked at since `now`.
    pub fn new(kind: Kind, received: Duration, now: Duration) -> Timeline {
        let mut timeline = Timeline { kind, stage: Stage::Queue, since: nanoseconds(received), spent: [0; STAGES] };
        timeline.enter(if kind == Kind::Other { Stage::Local } else { Stage::Parse }, now);
        timeline
    }

    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The stage it is in.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// Ends the stage it is in and begins another. A time before the last one given counts as that.
    pub fn enter(&mut self, stage: Stage, now: Duration) {
        let now = nanoseconds(now);
        self.spent[self.stage as usize] += now.saturating_sub(self.since);
        self.since = self.since.max(now);
        self.stage = stage;
    }

    /// Whether the stage it is in began at this time or before.
    pub fn is_since(&self, time: Duration) -> bool {
        self.since <= nanoseconds(time)
    }
}

/// The histograms of one kind.
#[derive(Clone, Debug, Default)]
struct OfKind {
    stages: [Histogram; STAGES],
    total: Histogram,
}

/// Histograms over the requests of a shard's sessions. About 10 KiB, never more.
#[derive(Clone, Debug, Default)]
pub struct Stages {
    kinds: Box<[OfKind; KINDS.len()]>,
}

impl Stages {
    /// Counts a request whose response has left.
    pub fn record(&mut self, timeline: &Timeline) {
        let of_kind = &mut self.kinds[timeline.kind as usize];
        let mut total = 0;
        for &(stage, _) in timeline.kind.stages() {
            let spent = timeline.spent[stage as usize];
            of_kind.stages[stage as usize].record(spent);
            total += spent;
        }
        of_kind.total.record(total);
    }

    /// The histograms, for a scrape.
    pub fn samples(&self, samples: &mut Vec<HistogramSample>) {
        for (kind, of_kind) in KINDS.iter().zip(self.kinds.iter()) {
            for &(stage, name) in kind.stages() {
                samples.push(HistogramSample {
                    name: "millstream_request_stage_seconds",
                    help: "Time of answered requests by stage; the stages of a request add up to its duration.",
                    labels: vec![("api", kind.name()), ("stage", name)],
                    histogram: of_kind.stages[stage as usize].clone(),
                });
            }
            samples.push(HistogramSample {
                name: "millstream_request_duration_seconds",
                help: "Time from the last byte of a request read to the last byte of its response sent.",
                labels: vec![("api", kind.name())],
                histogram: of_kind.total.clone(),
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stages_leave_no_gap() {
        let at = Duration::from_micros;
        let mut timeline = Timeline::new(Kind::Produce, at(10), at(15));
        timeline.enter(Stage::Queue, at(18));
        timeline.enter(Stage::Local, at(20));
        // Another shard's clock reading from before.
        timeline.enter(Stage::Remote, at(19));
        timeline.enter(Stage::Respond, at(900));
        timeline.enter(Stage::Respond, at(1_000));
        let mut stages = Stages::default();
        stages.record(&timeline);
        let mut samples = Vec::new();
        stages.samples(&mut samples);
        let spent: Vec<(&str, Duration)> = samples
            .iter()
            .filter(|sample| sample.labels[0].1 == "Produce" && sample.histogram.count() == 1)
            .map(|sample| (sample.labels.get(1).map_or("total", |label| label.1), sample.histogram.sum()))
            .collect();
        let expected = [
            ("queue", at(7)),
            ("parse", at(3)),
            ("append", at(0)),
            ("commit", at(880)),
            ("respond", at(100)),
            ("total", at(990)),
        ];
        assert_eq!(spent, expected);
        assert!(samples.iter().all(|sample| sample.labels[0].1 == "Produce" || sample.histogram.count() == 0));
    }
}
