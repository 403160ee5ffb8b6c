//! This shard's streams to and from shards of other nodes, over which partitions are replicated: the bytes are
//! [`crate::peer::stream`], the rules of connections [`table`], whom it follows [`following`].
//!
//! What comes by them is for the owners' half of the shard, which hosts the replicas ([`crate::shard::owner`]).

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
use crate::peer::links::LinkId;
use crate::peer::stream::frame::{DurableRange, FromFollower, FromLeader};
use crate::peer::stream::greeting::Lane;
use following::{Following, Leader};
use stream::StreamKey;
use table::{Around, Fill, Filled, Me, Room, Table, Told};

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
        }
    }

    /// Something has happened to a connection with another node.
    pub fn handle(&mut self, turn: &mut Turn<'_>, event: Event) {
        self.table.handle(&mut around(turn, &mut self.told), event);
    }

    /// Dials, asks whether others are there, and closes what is silent.
    pub fn tick(&mut self, turn: &mut Turn<'_>) {
        if std::mem::take(&mut self.has_changed) {
            let wanted: BTreeSet<StreamKey> = self.following.leaders().map(live).collect();
            self.table.want(&mut around(turn, &mut self.told), &wanted);
        }
        self.table.tick(&mut around(turn, &mut self.told));
    }

    /// Says to each leader what was taken and has become durable in this turn.
    pub fn end_turn(&mut self, turn: &mut Turn<'_>) {
        self.table.end_turn(&mut around(turn, &mut self.told));
    }

    /// When something is due though nothing happens.
    pub fn next_deadline(&self) -> Option<Duration> {
        let at_once = (self.has_changed || !self.told.is_empty()).then_some(Duration::ZERO);
        at_once.or(self.table.next_deadline())
    }

    /// Takes what the streams have told since the last time.
    pub fn take_told(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.told)
    }

    /// Whose shard leads a partition that is followed here.
    pub fn leader_of(&self, key: PartitionKey) -> Option<Leader> {
        self.following.leader_of(key)
    }

    /// The partitions that are followed at a shard of another node.
    pub fn followed_at(&self, leader: Leader) -> Vec<PartitionKey> {
        self.following.partitions_of(leader)
    }

    /// The open stream to a leader, if there is one.
    pub fn to_leader(&self, leader: Leader) -> Option<LinkId> {
        self.table.to_leader(live(leader))
    }

    /// Says something to a leader at once.
    pub fn say_to_leader(&mut self, turn: &mut Turn<'_>, link: LinkId, frame: &FromFollower) {
        self.table.say_to_leader(&mut around(turn, &mut self.told), link, frame);
    }

    /// Says something to a follower that is no data.
    pub fn say_to_follower(&mut self, turn: &mut Turn<'_>, link: LinkId, frame: &FromLeader) {
        self.table.say_to_follower(&mut around(turn, &mut self.told), link, frame);
    }

    /// Closes the stream to a leader for what came by it.
    pub fn break_off(&mut self, turn: &mut Turn<'_>, link: LinkId, why: &str) {
        self.table.break_off(&mut around(turn, &mut self.told), link, why);
    }

    /// So many bytes that came by a stream are taken.
    pub fn consumed(&mut self, link: LinkId, bytes: u64) {
        self.table.consumed(link, bytes);
    }

    /// What a partition has durably here: said at the end of the turn.
    pub fn durable(&mut self, link: LinkId, range: DurableRange) {
        self.table.durable(link, range);
    }

    /// A partition that is followed on a stream has something to send.
    pub fn mark(&mut self, link: LinkId, handle: u32) {
        self.table.mark(link, handle);
    }

    /// Sends what marked partitions have: [`Table::fill`].
    pub fn fill(&mut self, turn: &mut Turn<'_>, source: impl FnMut(LinkId, u32, Room) -> Filled) -> Fill {
        self.table.fill(&mut around(turn, &mut self.told), source)
    }

    /// What is counted, for a scrape.
    pub fn samples(&self, samples: &mut Vec<Sample>) {
        self.table.samples(samples);
    }
}

fn live(leader: Leader) -> StreamKey {
    StreamKey { node: leader.node, shard: leader.shard, lane: Lane::Live }
}

fn registration(broker: &millstream_replication::Broker) -> (i32, i64, u32) {
    (broker.node_id, broker.epoch, broker.shards)
}

fn around<'a>(turn: &'a mut Turn<'_>, told: &'a mut Vec<Told>) -> Around<'a> {
    Around { now: turn.now.elapsed, image: turn.metadata.image(), effects: turn.effects, told }
}
