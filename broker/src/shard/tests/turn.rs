//! The parts of a turn, as a driver measures them.

use kafka_wire::MetadataRequest;

use super::fetch::fetch_request;
use super::produce::produce_request;
use super::*;
use crate::shard::{Clock, Work};

/// A clock that goes on by a microsecond with each part of a turn, and remembers which they were.
struct Recording {
    now: Now,
    laps: Vec<Work>,
}

impl Clock for Recording {
    fn now(&self) -> Now {
        self.now
    }

    fn lap(&mut self, work: Work) {
        self.now.elapsed += Duration::from_micros(1);
        self.laps.push(work);
    }
}

impl Broker {
    /// Takes what has happened, and says what kinds of work that was.
    fn measure(&mut self, events: Vec<Event>) -> Vec<Work> {
        let mut clock = Recording { now: self.now, laps: Vec::new() };
        let mut effects = Vec::new();
        for event in events {
            self.shards[0].handle(&mut clock, event, &mut effects);
        }
        self.now = clock.now;
        effects.into_iter().for_each(|effect| self.execute(0, effect));
        clock.laps
    }

    /// Ends the turn, and says what kinds of work that was.
    fn measure_end(&mut self) -> Vec<Work> {
        let mut clock = Recording { now: self.now, laps: Vec::new() };
        let mut effects = Vec::new();
        self.shards[0].end_turn(&mut clock, &mut effects);
        self.now = clock.now;
        effects.into_iter().for_each(|effect| self.execute(0, effect));
        clock.laps
    }
}

#[test]
fn requests_are_measured_by_their_kind_and_steps_without_work_are_not() {
    let mut broker = Broker::new(Setup::default());
    broker.create_topic("t", 1, &[]);
    let client = broker.connect(0);
    let measure = |broker: &mut Broker| {
        let events = broker.events[0].drain(..).collect();
        broker.measure(events)
    };
    broker.send(client, 9, &produce_request("t", -1, &[(0, batch(&["a"]))]));
    assert_eq!(measure(&mut broker), [Work::Produce, Work::Append]);
    let steps = broker.measure_end();
    assert!(steps.contains(&Work::Commit), "{steps:?}");
    assert!(!steps.iter().any(|step| matches!(step, Work::Metadata | Work::Deadlines | Work::Wake)), "{steps:?}");
    assert!(measure(&mut broker).iter().all(|work| *work == Work::Disk), "the write is done");
    broker.run();

    broker.send(client, 12, &fetch_request("t", &[(0, 0)]));
    assert_eq!(measure(&mut broker), [Work::Fetch, Work::Read]);
    broker.send(client, 9, &MetadataRequest::default());
    assert_eq!(measure(&mut broker), [Work::Connection, Work::Request], "the fetch's response has left before");
    broker.send_frame(client, Bytes::from_static(&[0, 0, 0, 9]));
    assert_eq!(measure(&mut broker), [Work::Connection, Work::Request], "what cannot be read is no Produce request");
    assert!(broker.is_closed(client));
}
