//! All streams of one shard: those that it dials as a follower, and those that others have dialled to follow it. Whom to dial
//! and when again, what a greeting is worth against the image, when a stream counts as dead, and whose turn it is to send.
//!
//! Calling contract. The host says whom it follows ([`Table::want`]), hands in what happens to connections
//! ([`Table::handle`]), says when the image is another ([`Table::image_changed`]), calls [`Table::tick`] when
//! [`Table::next_deadline`] has come, and [`Table::end_turn`] at the end of each turn. What comes of it is in `told`.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::time::Duration;

use bytes::Bytes;
use millstream_replication::ClusterImage;

use super::credit::{Credit, Dirty, Taken};
use super::stream::{
    Accepted, AcceptedStage, Dialled, Following, HELD_MAX, HELLO_MAX, Leading, Peer, REDIAL_MAX, REDIAL_MIN, Stage,
    StreamKey, silence_max,
};
use crate::metrics::Sample;
use crate::peer::frame::LENGTH_BYTES;
use crate::peer::links::{Event, LinkId};
use crate::peer::stream::frame::{DurableRange, FromFollower, FromLeader, ITEMS_MAX};
use crate::peer::stream::greeting::{Addressee, Answer, Hello, Reject, RejectReason, VERSIONS, Welcome};
use crate::peer::stream::section::{FRAME_BYTES_TARGET, SECTION_BYTES, SECTIONS_MAX, Section};
use crate::protocol::send::SendPart;
use crate::shard::event::Effect;

/// Streams that others may have with one shard. Each node of a cluster has two for each of its shards, at most.
pub const ACCEPTED_MAX: usize = 1024;
/// Data frames that one stream may send in a turn before the others get theirs.
const FRAMES_A_TURN_MAX: usize = 4;
/// What a data frame takes besides its sections.
const DATA_FRAME_BYTES: usize = LENGTH_BYTES + 1 + 4;

/// Whose streams these are.
#[derive(Clone, Debug)]
pub struct Me {
    /// This node.
    pub node: i32,
    /// This shard.
    pub shard: u32,
    /// How many the node has.
    pub shards: u32,
    /// The process.
    pub incarnation: [u8; 16],
    /// The listener at which brokers reach each other: `inter.broker.listener.name`.
    pub listener: String,
    /// The window that it has room for on each stream that it dials, in bytes, within each lane's bounds.
    pub window_bytes: u32,
}

/// What a call is given: the time, what is known of the cluster, and where its effects go.
pub struct Around<'a> {
    /// The time. Never goes back.
    pub now: Duration,
    /// The cluster.
    pub image: &'a ClusterImage,
    /// What the driver is to do.
    pub effects: &'a mut Vec<Effect>,
    /// What the host is told.
    pub told: &'a mut Vec<Told>,
}

/// What the host of the streams is told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// A stream is open to a leader: nothing is followed on it yet.
    FollowerOpen {
        /// The stream.
        link: LinkId,
        /// The leader's shard.
        leader: Peer,
    },
    /// It is gone, with all that was followed on it.
    FollowerClosed {
        /// The stream.
        link: LinkId,
        /// The leader's shard.
        leader: StreamKey,
    },
    /// The leader says something.
    FromLeader {
        /// The stream.
        link: LinkId,
        /// What.
        frame: FromLeader,
        /// What [`Table::consumed`] is to be told of when a data frame is taken; else 0.
        bytes: u64,
    },
    /// A stream is open from a follower.
    LeaderOpen {
        /// The stream.
        link: LinkId,
        /// The follower's shard.
        follower: Peer,
    },
    /// It is gone, and nobody follows by it any more.
    LeaderClosed {
        /// The stream.
        link: LinkId,
        /// The follower's shard.
        follower: Peer,
    },
    /// The follower says something. What it has taken is accounted for already.
    FromFollower {
        /// The stream.
        link: LinkId,
        /// Who.
        follower: Peer,
        /// What.
        frame: FromFollower,
    },
}

/// What a partition has to send: [`Table::fill`].
#[derive(Clone, Debug, Default)]
pub struct Filled {
    /// The next batches, not more than there is room for.
    pub section: Option<Section>,
    /// More is left to send.
    pub has_more: bool,
}

/// How much of a partition may be sent at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// Bytes of batches.
    pub bytes_max: usize,
    /// The first batch may be larger.
    pub is_first: bool,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    opened: u64,
    lost: u64,
    rejected: u64,
    broken: u64,
}

/// All streams of one shard.
#[derive(Debug)]
pub struct Table {
    me: Me,
    chance: u64,
    /// How many connections were dialled.
    dials: u64,
    dialled: BTreeMap<StreamKey, Dialled>,
    by_link: BTreeMap<LinkId, StreamKey>,
    accepted: BTreeMap<LinkId, Accepted>,
    /// This broker's registration as the image has it; `None`: this process is not registered yet.
    my_epoch: Option<i64>,
    /// Nothing is due before.
    due: Option<Duration>,
    counts: Counts,
}

impl Table {
    /// No streams yet. The seed is where waits get their jitter from.
    pub fn new(me: Me, seed: u64) -> Table {
        Table {
            me,
            chance: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            dials: 0,
            dialled: BTreeMap::new(),
            by_link: BTreeMap::new(),
            accepted: BTreeMap::new(),
            my_epoch: None,
            due: None,
            counts: Counts::default(),
        }
    }

    /// To whom there is to be a stream from now on, and to nobody else.
    pub fn want(&mut self, around: &mut Around<'_>, wanted: &BTreeSet<StreamKey>) {
        let unwanted: Vec<StreamKey> = self.dialled.keys().filter(|key| !wanted.contains(key)).copied().collect();
        for key in unwanted {
            self.hang_up(around, key);
            self.dialled.remove(&key);
        }
        for key in wanted.iter().filter(|key| key.node != self.me.node) {
            self.dialled.entry(*key).or_insert_with(|| Dialled::new(around.now));
        }
        self.dial(around);
    }

    /// Something has happened to a connection.
    pub fn handle(&mut self, around: &mut Around<'_>, event: Event) {
        match event {
            Event::Accepted { link } => {
                let accepted = Accepted { received_at: around.now, stage: AcceptedStage::New };
                self.accepted.insert(link, accepted);
            }
            Event::Dialed { link, result } => {
                let Some(key) = self.by_link.get(&link).copied() else { return };
                match result {
                    Ok(()) => self.greet(around, key),
                    Err(_) => self.failed(around, key),
                }
            }
            // Only what is new can be due before what was.
            Event::Received { link, bytes } => match self.by_link.get(&link).copied() {
                Some(key) => return self.received(around, key, &bytes),
                None => return self.received_from_follower(around, link, &bytes),
            },
            Event::Closed { link } => match self.by_link.get(&link).copied() {
                Some(key) => self.failed(around, key),
                None => self.follower_gone(around, link),
            },
            Event::Tick => return self.tick(around),
        }
        self.set_due();
    }

    /// The image is another: brokers may be registered anew, this one among them.
    pub fn image_changed(&mut self, around: &mut Around<'_>) {
        let me = around.image.broker(self.me.node);
        let my_epoch = me.filter(|broker| broker.incarnation == self.me.incarnation).map(|broker| broker.epoch);
        let is_another = my_epoch != self.my_epoch;
        self.my_epoch = my_epoch;
        let keys: Vec<StreamKey> = self.dialled.keys().copied().collect();
        for key in keys {
            let stream = self.dialled.get_mut(&key).expect("it is there");
            match (&stream.stage, stream.to_epoch()) {
                (Stage::Unknown, _) => stream.stage = Stage::Waiting { until: around.now },
                // Whoever did not take it, or was not there, is another by now.
                (Stage::Waiting { .. }, _) if stream.known != epoch_of(around.image, key.node) || is_another => {
                    *stream = Dialled::new(around.now);
                }
                (_, Some(epoch)) if is_another || epoch_of(around.image, key.node) != Some(epoch) => {
                    self.hang_up(around, key);
                    let stream = self.dialled.get_mut(&key).expect("it is there");
                    *stream = Dialled::new(around.now);
                }
                _ => {}
            }
        }
        let links: Vec<LinkId> = self.accepted.keys().copied().collect();
        for link in links {
            // One that was judged before may have taken its place.
            let Some(accepted) = self.accepted.get(&link) else { continue };
            match &accepted.stage {
                AcceptedStage::New => {}
                AcceptedStage::Held { hello, .. } => {
                    let hello = Hello::clone(hello);
                    self.judge(around, link, hello, true);
                }
                AcceptedStage::Open(open) => {
                    let Peer { key, broker_epoch } = open.peer;
                    if is_another || epoch_of(around.image, key.node) != Some(broker_epoch) {
                        self.close_follower(around, link);
                    }
                }
            }
        }
        self.dial(around);
    }

    /// Does what is due.
    pub fn tick(&mut self, around: &mut Around<'_>) {
        if self.due.is_none_or(|due| due > around.now) {
            return;
        }
        let keys: Vec<StreamKey> = self.dialled.keys().copied().collect();
        for key in keys {
            let stream = self.dialled.get_mut(&key).expect("it is there");
            match &mut stream.stage {
                Stage::Greeting { until, .. } if *until <= around.now => self.failed_and_close(around, key),
                Stage::Open(open) if open.received_at + silence_max(key.lane) <= around.now => {
                    self.failed_and_close(around, key);
                }
                Stage::Open(open) if open.ping_at() <= around.now => {
                    (open.pinged_at, open.sent_at) = (around.now, around.now);
                    send(around.effects, open.link, FromFollower::Ping.to_bytes());
                }
                _ => {}
            }
        }
        let late = self.accepted.iter().filter(|(_, accepted)| accepted.deadline() <= around.now);
        for link in late.map(|(link, _)| *link).collect::<Vec<_>>() {
            match &self.accepted[&link].stage {
                AcceptedStage::Held { hello, .. } => {
                    let text = format!("node {} knows a registration that this node does not", hello.node);
                    self.reject(around, link, RejectReason::NewEpoch, text);
                }
                AcceptedStage::New | AcceptedStage::Open(_) => self.close_follower(around, link),
            }
        }
        self.dial(around);
    }

    /// When [`Table::tick`] is due at the latest.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.due
    }

    /// Ends a turn: says to each leader what was taken and what has become durable, in one frame if it fits.
    pub fn end_turn(&mut self, around: &mut Around<'_>) -> bool {
        let mut any = false;
        for stream in self.dialled.values_mut() {
            let Stage::Open(open) = &mut stream.stage else { continue };
            while !open.ranges.is_empty() || open.taken.must_say() {
                let rest = open.ranges.split_off(open.ranges.len().min(ITEMS_MAX));
                let ranges = mem::replace(&mut open.ranges, rest);
                let ack = FromFollower::Ack { consumed_bytes: open.taken.say(), ranges };
                send(around.effects, open.link, ack.to_bytes());
                open.sent_at = around.now;
                any = true;
            }
        }
        any
    }

    // ---- For whoever hosts replicas ----

    /// The open stream to a leader, if there is one.
    pub fn to_leader(&self, key: StreamKey) -> Option<LinkId> {
        match &self.dialled.get(&key)?.stage {
            Stage::Open(open) => Some(open.link),
            _ => None,
        }
    }

    /// Says something to a leader; [`Table::durable`] and [`Table::consumed`] are for what is said of each turn. Nothing, if
    /// the stream is gone.
    pub fn say_to_leader(&mut self, around: &mut Around<'_>, link: LinkId, frame: &FromFollower) {
        if let Some(open) = self.following(link) {
            open.sent_at = around.now;
            send(around.effects, link, frame.to_bytes());
        }
    }

    /// So many bytes that came by a stream are taken: the leader may send as many more.
    pub fn consumed(&mut self, link: LinkId, bytes: u64) {
        if let Some(open) = self.following(link) {
            open.taken.consumed(bytes);
        }
    }

    /// What a partition has durably here: said at the end of the turn. Once a turn for each partition.
    pub fn durable(&mut self, link: LinkId, range: DurableRange) {
        if let Some(open) = self.following(link) {
            open.ranges.push(range);
        }
    }

    /// Says something to a follower that is no data. Nothing, if the stream is gone.
    pub fn say_to_follower(&mut self, around: &mut Around<'_>, link: LinkId, frame: &FromLeader) {
        assert!(!matches!(frame, FromLeader::Data(_)), "data takes credit: Table::fill");
        if self.leading(link).is_some() {
            send_parts(around.effects, link, frame.to_slices());
        }
    }

    /// A partition that is followed on a stream has something to send.
    pub fn mark(&mut self, link: LinkId, handle: u32) {
        if let Some(open) = self.leading(link) {
            open.dirty.push(handle);
        }
    }

    /// Sends what marked partitions have, in turn, as far as followers have room for it: frames of
    /// [`FRAME_BYTES_TARGET`] at most, but for a batch that is larger. `source` gives the next batches of the partition
    /// that this handle names on this stream. Returns whether anything was sent, or is left that may be sent at once.
    pub fn fill(&mut self, around: &mut Around<'_>, mut source: impl FnMut(LinkId, u32, Room) -> Filled) -> Fill {
        let mut fill = Fill::default();
        for (link, accepted) in &mut self.accepted {
            let AcceptedStage::Open(open) = &mut accepted.stage else { continue };
            for frame in 0..FRAMES_A_TURN_MAX {
                let next = next_frame(open, |handle, room| source(*link, handle, room));
                let Some((sections, bytes)) = next else {
                    // Nothing under way brings an answer after which this would be looked at again.
                    fill.has_more |= !open.dirty.is_empty() && open.credit.outstanding() == 0;
                    break;
                };
                open.credit.sent(bytes);
                send_parts(around.effects, *link, FromLeader::Data(sections).to_slices());
                fill.has_sent = true;
                let is_last = frame + 1 == FRAMES_A_TURN_MAX;
                fill.has_more |= is_last && !open.dirty.is_empty() && may_send(&open.credit);
            }
        }
        fill
    }

    fn following(&mut self, link: LinkId) -> Option<&mut Following> {
        match &mut self.dialled.get_mut(self.by_link.get(&link)?)?.stage {
            Stage::Open(open) => Some(open),
            _ => None,
        }
    }

    fn leading(&mut self, link: LinkId) -> Option<&mut Leading> {
        match &mut self.accepted.get_mut(&link)?.stage {
            AcceptedStage::Open(open) => Some(open),
            _ => None,
        }
    }

    // ---- Streams that are dialled ----

    /// Dials what is due, and finds when something is due next.
    fn dial(&mut self, around: &mut Around<'_>) {
        let due = self.dialled.iter().filter(|(_, stream)| match stream.stage {
            Stage::Waiting { until } => until <= around.now,
            _ => false,
        });
        for key in due.map(|(key, _)| *key).collect::<Vec<_>>() {
            let broker = around.image.broker(key.node).filter(|broker| broker.shards > key.shard);
            let endpoint = broker.and_then(|broker| Some((broker.epoch, broker.endpoint(&self.me.listener)?)));
            let stream = self.dialled.get_mut(&key).expect("it is there");
            // Nobody would take what is not registered.
            let (Some((to_epoch, endpoint)), Some(_)) = (endpoint, self.my_epoch) else {
                stream.stage = Stage::Unknown;
                continue;
            };
            let link = LinkId(LinkId::DIALLED | self.dials);
            self.dials += 1;
            stream.known = Some(to_epoch);
            stream.stage = Stage::Dialling { link, to_epoch };
            self.by_link.insert(link, key);
            around.effects.push(Effect::Dial { link, host: endpoint.host.clone(), port: endpoint.port });
        }
        self.set_due();
    }

    /// A connection is made: says who this is.
    fn greet(&mut self, around: &mut Around<'_>, key: StreamKey) {
        let to_shards = around.image.broker(key.node).map_or(0, |broker| broker.shards);
        let (cluster_id, broker_epoch) = (around.image.cluster(), self.my_epoch);
        let stream = self.dialled.get_mut(&key).expect("it is wanted");
        let Stage::Dialling { link, to_epoch } = stream.stage else { return };
        let (Some(cluster_id), Some(broker_epoch)) = (cluster_id, broker_epoch) else {
            return self.failed_and_close(around, key);
        };
        stream.stage = Stage::Greeting { link, to_epoch, until: around.now + HELLO_MAX };
        let hello = Hello {
            version_min: *VERSIONS.start(),
            version_max: *VERSIONS.end(),
            cluster_id,
            node: self.me.node,
            shard: self.me.shard,
            broker_epoch,
            incarnation: self.me.incarnation,
            to_node: key.node,
            to_shard: key.shard,
            to_shards,
            to_broker_epoch: to_epoch,
            lane: key.lane,
            window_bytes: key.lane.clamp_window(self.me.window_bytes),
            metadata_offset: around.image.offset(),
        };
        send(around.effects, link, hello.to_bytes());
    }

    fn received(&mut self, around: &mut Around<'_>, key: StreamKey, bytes: &Bytes) {
        let stream = self.dialled.get_mut(&key).expect("it is wanted");
        let link = stream.link().expect("something came by it");
        let outcome = match &mut stream.stage {
            Stage::Greeting { .. } => Answer::decode(bytes).and_then(|answer| self.answered(around, key, answer)),
            Stage::Open(open) => {
                open.received_at = around.now;
                FromLeader::decode(bytes).and_then(|frame| {
                    let frame_bytes = (LENGTH_BYTES + bytes.len()) as u64;
                    let bytes = if matches!(frame, FromLeader::Data(_)) { frame_bytes } else { 0 };
                    open.taken.received(bytes)?;
                    if frame != FromLeader::Pong {
                        around.told.push(Told::FromLeader { link, frame, bytes });
                    }
                    Ok(())
                })
            }
            Stage::Unknown | Stage::Waiting { .. } | Stage::Dialling { .. } => return,
        };
        if let Err(why) = outcome {
            self.broken(around, key.node, key.shard, &why);
            self.failed_and_close(around, key);
        }
    }

    /// The answer to a greeting has come. The error is why it is no good one.
    fn answered(&mut self, around: &mut Around<'_>, key: StreamKey, answer: Answer) -> Result<(), String> {
        let stream = self.dialled.get_mut(&key).expect("it is wanted");
        let Stage::Greeting { link, to_epoch, .. } = stream.stage else { return Ok(()) };
        match answer {
            Answer::Welcome(Welcome { version, broker_epoch, window_bytes, incarnation }) => {
                let known = around.image.broker(key.node).map(|broker| broker.incarnation);
                if broker_epoch != to_epoch || known != Some(incarnation) || !VERSIONS.contains(&version) {
                    return Err(format!("welcomed by registration {broker_epoch}, and {to_epoch} was meant"));
                }
                let offered = key.lane.clamp_window(self.me.window_bytes);
                if window_bytes > offered || window_bytes == 0 {
                    return Err(format!("a window of {window_bytes} bytes, and there is room for {offered}"));
                }
                stream.rejected = None;
                stream.stage = Stage::Open(Box::new(Following {
                    link,
                    to_epoch,
                    opened_at: around.now,
                    received_at: around.now,
                    sent_at: around.now,
                    pinged_at: around.now,
                    taken: Taken::new(window_bytes),
                    ranges: Vec::new(),
                }));
                self.counts.opened += 1;
                around.told.push(Told::FollowerOpen { link, leader: Peer { key, broker_epoch } });
                self.set_due();
            }
            Answer::Reject(Reject { why, text, .. }) => {
                if stream.rejected.replace(why) != Some(why) {
                    let message = format!("node {} takes no stream to its shard {}: {text}", key.node, key.shard);
                    around.effects.push(Effect::Warn { message });
                }
                self.failed_and_close(around, key);
            }
        }
        Ok(())
    }

    /// What came by a stream from a leader is not what it should be: closes it.
    pub fn break_off(&mut self, around: &mut Around<'_>, link: LinkId, why: &str) {
        if let Some(key) = self.by_link.get(&link).copied() {
            self.broken(around, key.node, key.shard, why);
            self.failed_and_close(around, key);
        }
    }

    fn failed_and_close(&mut self, around: &mut Around<'_>, key: StreamKey) {
        if let Some(link) = self.dialled[&key].link() {
            around.effects.push(Effect::HangUp { link });
        }
        self.failed(around, key);
    }

    /// A connection was not made, or is gone: it is dialled again.
    fn failed(&mut self, around: &mut Around<'_>, key: StreamKey) {
        let quarters = 3 + self.draw(65) as u32;
        let stream = self.dialled.get_mut(&key).expect("it is wanted");
        if let Some(link) = stream.link() {
            self.by_link.remove(&link);
        }
        if let Stage::Open(open) = &stream.stage {
            // What was open for a while is not to be waited for.
            if around.now >= open.opened_at + REDIAL_MAX {
                stream.wait = REDIAL_MIN;
            }
            self.counts.lost += 1;
            around.told.push(Told::FollowerClosed { link: open.link, leader: key });
        }
        // A quarter more or less: from 48 to 80 of 64.
        let wait = stream.wait * (48 + quarters / 2).min(80) / 64;
        stream.wait = (stream.wait * 2).min(REDIAL_MAX);
        stream.stage = Stage::Waiting { until: around.now + wait };
        self.set_due();
    }

    /// Closes a stream, if it is there, and does not dial it again.
    fn hang_up(&mut self, around: &mut Around<'_>, key: StreamKey) {
        let stream = self.dialled.get_mut(&key).expect("it is there");
        if let Some(link) = stream.link() {
            self.by_link.remove(&link);
            around.effects.push(Effect::HangUp { link });
        }
        if let Stage::Open(open) = &stream.stage {
            around.told.push(Told::FollowerClosed { link: open.link, leader: key });
        }
        stream.stage = Stage::Unknown;
    }

    // ---- Streams that others have dialled ----

    fn received_from_follower(&mut self, around: &mut Around<'_>, link: LinkId, bytes: &Bytes) {
        let Some(accepted) = self.accepted.get_mut(&link) else { return };
        let outcome = match &mut accepted.stage {
            AcceptedStage::New => match Hello::decode(bytes) {
                Ok(hello) => {
                    self.judge(around, link, hello, false);
                    self.set_due();
                    return;
                }
                Err(why) => Err((-1, 0, why)),
            },
            // Whoever greets waits for the answer.
            AcceptedStage::Held { hello, .. } => Err((hello.node, hello.shard, "more than a greeting came".to_owned())),
            AcceptedStage::Open(open) => {
                accepted.received_at = around.now;
                let follower = open.peer;
                let taken = FromFollower::decode(bytes).and_then(|frame| {
                    match frame {
                        FromFollower::Ping => send_parts(around.effects, link, FromLeader::Pong.to_slices()),
                        FromFollower::Ack { consumed_bytes, ranges } => {
                            open.credit.consumed(consumed_bytes)?;
                            if !ranges.is_empty() {
                                let frame = FromFollower::Ack { consumed_bytes, ranges };
                                around.told.push(Told::FromFollower { link, follower, frame });
                            }
                        }
                        frame => around.told.push(Told::FromFollower { link, follower, frame }),
                    }
                    Ok(())
                });
                taken.map_err(|why| (follower.key.node, follower.key.shard, why))
            }
        };
        if let Err((node, shard, why)) = outcome {
            self.broken(around, node, shard, &why);
            self.close_follower(around, link);
        }
    }

    /// Takes a greeting, holds it, or rejects it.
    fn judge(&mut self, around: &mut Around<'_>, link: LinkId, hello: Hello, is_held: bool) {
        let Some(cluster_id) = around.image.cluster() else { return self.hold(around, link, hello, is_held) };
        let me = Addressee { cluster_id, node: self.me.node, shards: self.me.shards };
        match hello.shard_of(me) {
            Ok(shard) if shard == self.me.shard => {}
            Ok(shard) => {
                let text = format!("shard {shard} was meant, and this is shard {}", self.me.shard);
                return self.reject(around, link, RejectReason::Node, text);
            }
            Err((why, text)) => return self.reject(around, link, why, text),
        }
        let mine = around.image.broker(self.me.node).map(|broker| broker.epoch);
        let theirs = around.image.broker(hello.node);
        let their_epoch = theirs.map(|broker| broker.epoch);
        // A broker that the image does not know is not registered any more, or not yet: its own epoch tells.
        let is_gone = their_epoch.is_none() && (hello.broker_epoch as u64) <= around.image.offset();
        if mine.is_some_and(|mine| hello.to_broker_epoch < mine) {
            let text = format!("this node is registered anew since {}", hello.to_broker_epoch);
            return self.reject(around, link, RejectReason::OldEpoch, text);
        }
        if is_gone || their_epoch.is_some_and(|epoch| hello.broker_epoch < epoch) {
            let text = format!("node {} is registered anew since {}, or not any more", hello.node, hello.broker_epoch);
            return self.reject(around, link, RejectReason::OldEpoch, text);
        }
        let (Some(my_epoch), Some(theirs)) = (self.my_epoch, theirs) else {
            return self.hold(around, link, hello, is_held);
        };
        if hello.to_broker_epoch > my_epoch || hello.broker_epoch > theirs.epoch {
            return self.hold(around, link, hello, is_held);
        }
        if theirs.incarnation != hello.incarnation {
            let text = format!("another process is registered as node {}", hello.node);
            return self.reject(around, link, RejectReason::Node, text);
        }
        let key = StreamKey { node: hello.node, shard: hello.shard, lane: hello.lane };
        // Of several the newest counts.
        let is_same =
            |accepted: &Accepted| matches!(&accepted.stage, AcceptedStage::Open(open) if open.peer.key == key);
        let before = self.accepted.iter().find(|(_, accepted)| is_same(accepted)).map(|(link, _)| *link);
        if let Some(before) = before {
            self.close_follower(around, before);
        } else if self.streams_accepted() >= ACCEPTED_MAX {
            return self.reject(around, link, RejectReason::Busy, "there are too many streams".to_owned());
        }
        let version = hello.version().expect("it was looked at");
        let window_bytes = hello.lane.clamp_window(hello.window_bytes).min(hello.window_bytes.max(1));
        let welcome = Welcome { version, broker_epoch: my_epoch, incarnation: self.me.incarnation, window_bytes };
        send(around.effects, link, Answer::Welcome(welcome).to_bytes());
        let peer = Peer { key, broker_epoch: hello.broker_epoch };
        let accepted = self.accepted.get_mut(&link).expect("it has greeted");
        accepted.received_at = around.now;
        accepted.stage =
            AcceptedStage::Open(Box::new(Leading { peer, credit: Credit::new(window_bytes), dirty: Dirty::default() }));
        self.counts.opened += 1;
        around.told.push(Told::LeaderOpen { link, follower: peer });
    }

    fn hold(&mut self, around: &Around<'_>, link: LinkId, hello: Hello, is_held: bool) {
        if !is_held {
            let accepted = self.accepted.get_mut(&link).expect("it has greeted");
            accepted.stage = AcceptedStage::Held { hello: Box::new(hello), until: around.now + HELD_MAX };
        }
    }

    fn reject(&mut self, around: &mut Around<'_>, link: LinkId, why: RejectReason, text: String) {
        self.counts.rejected += 1;
        let broker_epoch = self.my_epoch.unwrap_or(-1);
        let answer = Answer::Reject(Reject { why, shards: self.me.shards, broker_epoch, text });
        send(around.effects, link, answer.to_bytes());
        self.close_follower(around, link);
    }

    fn close_follower(&mut self, around: &mut Around<'_>, link: LinkId) {
        around.effects.push(Effect::HangUp { link });
        self.follower_gone(around, link);
    }

    fn follower_gone(&mut self, around: &mut Around<'_>, link: LinkId) {
        if let Some(Accepted { stage: AcceptedStage::Open(open), .. }) = self.accepted.remove(&link) {
            self.counts.lost += 1;
            around.told.push(Told::LeaderClosed { link, follower: open.peer });
        }
    }

    // ---- Both ----

    /// A peer does what it must not.
    fn broken(&mut self, around: &mut Around<'_>, node: i32, shard: u32, why: &str) {
        self.counts.broken += 1;
        // It is closed and dialled again, more and more seldom: so are these lines.
        let message = format!("closing a stream with shard {shard} of node {node}: {why}");
        around.effects.push(Effect::Warn { message });
    }

    fn streams_accepted(&self) -> usize {
        self.accepted.values().filter(|accepted| matches!(accepted.stage, AcceptedStage::Open(_))).count()
    }

    fn streams_dialled(&self) -> usize {
        self.dialled.values().filter(|dialled| matches!(dialled.stage, Stage::Open(_))).count()
    }

    fn set_due(&mut self) {
        let dialled = self.dialled.iter().filter_map(|(key, stream)| stream.deadline(key.lane));
        self.due = dialled.chain(self.accepted.values().map(Accepted::deadline)).min();
    }

    /// A number below `bound`: xorshift.
    fn draw(&mut self, bound: u64) -> u64 {
        self.chance ^= self.chance << 13;
        self.chance ^= self.chance >> 7;
        self.chance ^= self.chance << 17;
        self.chance % bound
    }

    /// What is counted, for a scrape.
    pub fn samples(&self, samples: &mut Vec<Sample>) {
        let mut outstanding = 0;
        for accepted in self.accepted.values() {
            if let AcceptedStage::Open(open) = &accepted.stage {
                outstanding += open.credit.outstanding();
            }
        }
        let help = "Streams that are open to shards of other nodes that this shard follows.";
        samples.push(Sample::gauge("millstream_peer_streams_dialled", help, self.streams_dialled() as u64));
        let help = "Streams that are open from shards of other nodes that follow this shard.";
        samples.push(Sample::gauge("millstream_peer_streams_accepted", help, self.streams_accepted() as u64));
        let help = "The bound of millstream_peer_streams_accepted.";
        samples.push(Sample::gauge("millstream_peer_streams_accepted_max", help, ACCEPTED_MAX as u64));
        let help = "Bytes sent to followers that they have not taken yet.";
        samples.push(Sample::gauge("millstream_peer_stream_outstanding_bytes", help, outstanding));
        let mut counter = |name, help, value: u64| samples.push(Sample::counter(name, help, value));
        let Counts { opened, lost, rejected, broken } = self.counts;
        counter("millstream_peer_streams_opened_total", "Streams opened, at either end.", opened);
        counter("millstream_peer_streams_lost_total", "Open streams that ended, at either end.", lost);
        counter("millstream_peer_streams_rejected_total", "Greetings of other nodes' shards rejected.", rejected);
        counter("millstream_peer_streams_broken_total", "Streams closed for what came by them.", broken);
    }
}

/// What became of [`Table::fill`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fill {
    /// Something was sent.
    pub has_sent: bool,
    /// More may be sent at once: in the next turn.
    pub has_more: bool,
}

fn epoch_of(image: &ClusterImage, node: i32) -> Option<i64> {
    image.broker(node).map(|broker| broker.epoch)
}

/// Whether there is room for a frame, if only of one small batch.
fn may_send(credit: &Credit) -> bool {
    credit.outstanding() == 0 || credit.room() > (DATA_FRAME_BYTES + SECTION_BYTES) as u64
}

/// The next data frame of a stream, and its bytes with its length.
fn next_frame(open: &mut Leading, mut source: impl FnMut(u32, Room) -> Filled) -> Option<(Vec<Section>, u64)> {
    if !may_send(&open.credit) {
        return None;
    }
    let is_idle = open.credit.outstanding() == 0;
    let room = usize::try_from(open.credit.room()).unwrap_or(usize::MAX).min(FRAME_BYTES_TARGET);
    let mut frame_bytes = DATA_FRAME_BYTES;
    let mut sections: Vec<Section> = Vec::new();
    for _ in 0..open.dirty.len() {
        let bytes_max = room.saturating_sub(frame_bytes + SECTION_BYTES);
        if bytes_max == 0 || sections.len() == SECTIONS_MAX {
            break;
        }
        let Some(handle) = open.dirty.pop() else { break };
        let is_first = is_idle && sections.is_empty();
        let Filled { section, has_more } = source(handle, Room { bytes_max, is_first });
        match section {
            Some(section) => {
                let bytes = section.batches_bytes();
                assert!(is_first || bytes <= bytes_max, "{bytes} bytes where there is room for {bytes_max}");
                frame_bytes += SECTION_BYTES + bytes;
                sections.push(section);
                if has_more {
                    open.dirty.push(handle);
                }
            }
            // Its next batch does not fit: it is the first of the next frame.
            None if has_more => {
                open.dirty.put_back(handle);
                break;
            }
            None => {}
        }
    }
    (!sections.is_empty()).then_some((sections, frame_bytes as u64))
}

fn send(effects: &mut Vec<Effect>, link: LinkId, bytes: Bytes) {
    effects.push(Effect::SendToPeer { link, parts: vec![SendPart::Memory(bytes)] });
}

fn send_parts(effects: &mut Vec<Effect>, link: LinkId, slices: Vec<Bytes>) {
    effects.push(Effect::SendToPeer { link, parts: slices.into_iter().map(SendPart::Memory).collect() });
}
