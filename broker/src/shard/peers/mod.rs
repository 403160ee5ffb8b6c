//! This shard's streams to and from shards of other nodes, over which partitions are replicated: the bytes are
//! [`crate::peer::stream`], the rules of connections [`table`], whom it follows [`following`].
//!
//! What comes by them is for whoever hosts the replicas of this shard. No partition of a broker is replicated yet, as the
//! controller places one replica of each: so nothing is followed, no stream is dialled, and whoever wants to follow is told
//! that it may not.

pub mod credit;
pub mod following;
pub mod stream;
pub mod table;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::time::Duration;

use millstream_replication::ClusterImage;
use millstream_storage::PartitionKey;

use super::options::ShardOptions;
use super::turn::Turn;
use crate::metrics::Sample;
use crate::peer::links::Event;
use crate::peer::stream::frame::{Follow, FromFollower, FromLeader, RefuseReason, Refused};
use crate::peer::stream::greeting::Lane;
use following::{Following, Leader};
use stream::StreamKey;
use table::{Around, Filled, Me, Table, Told};

/// The streams of a shard.
pub struct Peers {
    table: Table,
    following: Following,
    /// The registrations of brokers as the image had them: their streams end with them, and with another number of shards
    /// partitions are elsewhere.
    brokers: Vec<(i32, i64, u32)>,
    /// Others may be followed than before.
    has_changed: bool,
    told: Vec<Told>,
}

impl Peers {
    /// No streams yet, to those that the image says are followed.
    pub fn new(options: &ShardOptions, image: &ClusterImage) -> Peers {
        let me = Me {
            node: options.node_id,
            shard: options.index as u32,
            shards: options.shards as u32,
            incarnation: options.incarnation,
            listener: options.inter_broker_listener.clone(),
            window_bytes: options.peer_window_bytes,
        };
        let (of_process, _) = options.incarnation.split_first_chunk().expect("16 bytes are 8 and 8");
        let seed = u64::from_le_bytes(*of_process) ^ options.index as u64;
        Peers {
            table: Table::new(me, seed),
            following: Following::new(options, image),
            brokers: Vec::new(),
            has_changed: true,
            told: Vec::new(),
        }
    }

    /// Something is known anew of a partition, or it is gone.
    pub fn update(&mut self, turn: &Turn<'_>, key: PartitionKey) {
        self.has_changed |= self.following.update(turn.options, turn.metadata.image(), key);
    }

    /// Another image is known.
    pub fn image_changed(&mut self, turn: &mut Turn<'_>) {
        let image = turn.metadata.image();
        let known = self.brokers.iter().copied();
        if !known.eq(image.brokers().map(registration)) {
            self.brokers = image.brokers().map(registration).collect();
            self.has_changed |= self.following.update_all(turn.options, image);
            self.table.image_changed(&mut around(turn, &mut self.told));
            self.answer(turn);
        }
    }

    /// Something has happened to a connection with another node.
    pub fn handle(&mut self, turn: &mut Turn<'_>, event: Event) {
        self.table.handle(&mut around(turn, &mut self.told), event);
        self.answer(turn);
    }

    /// Ends a turn: dials, asks whether others are there, and says what is to be said. Returns whether there was anything to
    /// do.
    pub fn advance(&mut self, turn: &mut Turn<'_>) -> bool {
        let effects = turn.effects.len();
        if std::mem::take(&mut self.has_changed) {
            let live = |Leader { node, shard }| StreamKey { node, shard, lane: Lane::Live };
            let wanted: BTreeSet<StreamKey> = self.following.leaders().map(live).collect();
            self.table.want(&mut around(turn, &mut self.told), &wanted);
        }
        let mut around = around(turn, &mut self.told);
        self.table.tick(&mut around);
        // Nobody follows by a stream, so there is no partition that has something to send.
        self.table.fill(&mut around, |_, _, _| Filled::default());
        self.table.end_turn(&mut around);
        self.answer(turn);
        turn.effects.len() > effects
    }

    /// When something is due though nothing happens.
    pub fn next_deadline(&self) -> Option<Duration> {
        let at_once = self.has_changed.then_some(Duration::ZERO);
        at_once.or(self.table.next_deadline())
    }

    /// What is counted, for a scrape.
    pub fn samples(&self, samples: &mut Vec<Sample>) {
        self.table.samples(samples);
    }

    /// What came by streams of which no replica here knows.
    fn answer(&mut self, turn: &mut Turn<'_>) {
        for told in std::mem::take(&mut self.told) {
            match told {
                Told::FromFollower { link, frame: FromFollower::Follow(follows), .. } => {
                    for follow in follows {
                        let refused = FromLeader::Refused(refusal(turn, follow));
                        self.table.say_to_follower(&mut around(turn, &mut self.told), link, &refused);
                    }
                }
                // Of a handle that was never given.
                Told::FromLeader { link, bytes, .. } => self.table.consumed(link, bytes),
                Told::FromFollower { .. }
                | Told::FollowerOpen { .. }
                | Told::FollowerClosed { .. }
                | Told::LeaderOpen { .. }
                | Told::LeaderClosed { .. } => {}
            }
        }
    }
}

/// Why a partition cannot be followed here.
fn refusal(turn: &Turn<'_>, follow: Follow) -> Refused {
    let key = PartitionKey { topic_id: follow.topic_id, partition: follow.partition };
    let image = turn.metadata.image();
    let state = image.topic_by_id(key.topic_id).and_then(|topic| topic.partition(key.partition));
    let why = if state.is_some() { RefuseReason::NotLeader } else { RefuseReason::UnknownPartition };
    Refused {
        follow_id: follow.follow_id,
        why,
        leader: state.map_or(-1, |state| state.leader),
        leader_epoch: state.map_or(-1, |state| state.leader_epoch),
        log_start: -1,
        log_end: -1,
    }
}

fn registration(broker: &millstream_replication::Broker) -> (i32, i64, u32) {
    (broker.node_id, broker.epoch, broker.shards)
}

fn around<'a>(turn: &'a mut Turn<'_>, told: &'a mut Vec<Told>) -> Around<'a> {
    Around { now: turn.now.elapsed, image: turn.metadata.image(), effects: turn.effects, told }
}
