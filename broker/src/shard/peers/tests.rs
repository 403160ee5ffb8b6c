//! Two tables joined by a list of frames: greetings against images, silence, loss, credit.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use millstream_replication::{Broker, ClusterImage, Endpoint, METADATA_VERSIONS, MetadataRecord, Partition};
use millstream_storage::batch::BatchBuilder;
use millstream_storage::{PartitionKey, TopicId};

use super::following::{Following, Leader, leader_of};
use super::stream::{HELD_MAX, Peer, StreamKey};
use super::table::{Around, Fill, Filled, Me, Table, Told};
use crate::peer::frame::cut;
use crate::peer::links::{DialError, Event, LinkId};
use crate::peer::stream::FRAME_BYTES_MAX;
use crate::peer::stream::frame::{DurableRange, Follow, FromFollower, FromLeader, RefuseReason, Refused};
use crate::peer::stream::greeting::Lane;
use crate::peer::stream::section::{FRAME_BYTES_TARGET, Section};
use crate::protocol::send::SendPart;
use crate::shard::event::Effect;
use crate::shard::options::ShardOptions;

const LISTENER: &str = "INSIDE";
/// The follower's and the leader's.
const NODES: [i32; 2] = [1, 2];
/// Whom the follower dials: shard 3 of 4.
const LIVE: StreamKey = StreamKey { node: 2, shard: 3, lane: Lane::Live };
/// How the leader names the same stream.
const BACK: StreamKey = StreamKey { node: 1, shard: 0, lane: Lane::Live };
const WINDOW: u32 = 256 << 10;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn broker(node_id: i32, epoch: i64) -> Broker {
    Broker {
        node_id,
        epoch,
        incarnation: [epoch as u8; 16],
        directory_id: [node_id as u8; 16],
        shards: 4,
        is_fenced: false,
        in_controlled_shutdown: false,
        endpoints: vec![
            Endpoint { listener: "OUTSIDE".into(), host: "elsewhere".into(), port: 1 },
            Endpoint { listener: LISTENER.into(), host: format!("n{node_id}"), port: 9092 },
        ],
        rack: None,
        metadata_versions: METADATA_VERSIONS,
    }
}

/// The cluster with these registrations of the two.
fn image(epochs: [i64; 2]) -> ClusterImage {
    let cluster = MetadataRecord::Cluster { cluster_id: [7; 16] };
    let brokers = NODES.into_iter().zip(epochs).map(|(node, epoch)| MetadataRecord::Broker(broker(node, epoch)));
    let records: Vec<_> = [cluster].into_iter().chain(brokers).collect();
    ClusterImage::from_snapshot(epochs[0].max(epochs[1]) as u64, &records).expect("an image")
}

/// A table, what it knows, and what it wants done.
struct Shard {
    table: Table,
    image: ClusterImage,
    effects: Vec<Effect>,
    told: Vec<Told>,
}

impl Shard {
    fn new(node: i32, shard: u32, incarnation: u8, image: ClusterImage) -> Shard {
        let me = Me {
            node,
            shard,
            shards: 4,
            incarnation: [incarnation; 16],
            listener: LISTENER.into(),
            window_bytes: WINDOW,
        };
        Shard { table: Table::new(me, 5), image, effects: Vec::new(), told: Vec::new() }
    }

    fn with<T>(&mut self, now: Duration, act: impl FnOnce(&mut Table, &mut Around<'_>) -> T) -> T {
        let Shard { table, image, effects, told } = self;
        act(table, &mut Around { now, image, effects, told })
    }
}

/// The follower's shard and the leader's, and the connections between them.
struct Two {
    now: Duration,
    follower: Shard,
    leader: Shard,
    /// By the follower's number of each, the leader's.
    connections: BTreeMap<LinkId, LinkId>,
    accepted: u64,
    /// Nobody listens where the leader is.
    is_refusing: bool,
    /// Nothing arrives.
    is_cut: bool,
    dials: Vec<Duration>,
    warnings: Vec<String>,
}

impl Two {
    /// Both know the same, and the follower wants a stream.
    fn new() -> Two {
        let mut two = Two::knowing([10, 20], image([10, 20]), image([10, 20]));
        two.want(&[LIVE]);
        two
    }

    /// Two processes, of these registrations, and what each knows.
    fn knowing(epochs: [i64; 2], follower: ClusterImage, leader: ClusterImage) -> Two {
        let mut two = Two {
            now: ms(1000),
            follower: Shard::new(1, 0, epochs[0] as u8, follower),
            leader: Shard::new(2, 3, epochs[1] as u8, leader),
            connections: BTreeMap::new(),
            accepted: 0,
            is_refusing: false,
            is_cut: false,
            dials: Vec::new(),
            warnings: Vec::new(),
        };
        two.follower.with(two.now, |table, around| table.image_changed(around));
        two.leader.with(two.now, |table, around| table.image_changed(around));
        two
    }

    fn want(&mut self, keys: &[StreamKey]) {
        let keys: BTreeSet<StreamKey> = keys.iter().copied().collect();
        self.follower.with(self.now, |table, around| table.want(around, &keys));
        self.settle();
    }

    fn follower_knows(&mut self, image: ClusterImage) {
        self.follower.image = image;
        self.follower.with(self.now, |table, around| table.image_changed(around));
        self.settle();
    }

    fn leader_knows(&mut self, image: ClusterImage) {
        self.leader.image = image;
        self.leader.with(self.now, |table, around| table.image_changed(around));
        self.settle();
    }

    /// Carries frames to and fro until there are none.
    fn settle(&mut self) {
        loop {
            let mut to_leader: VecDeque<Event> = VecDeque::new();
            let mut to_follower: VecDeque<Event> = VecDeque::new();
            for effect in std::mem::take(&mut self.follower.effects) {
                match effect {
                    Effect::Dial { link, host, port } => {
                        assert_eq!((&host[..], port), ("n2", 9092));
                        self.dials.push(self.now);
                        let result = if self.is_refusing { Err(DialError::Refused) } else { Ok(()) };
                        to_follower.push_back(Event::Dialed { link, result });
                        if result.is_ok() {
                            self.connections.insert(link, LinkId(self.accepted));
                            to_leader.push_back(Event::Accepted { link: LinkId(self.accepted) });
                            self.accepted += 1;
                        }
                    }
                    Effect::SendToPeer { link, parts } if !self.is_cut => {
                        let Some(link) = self.connections.get(&link).copied() else { continue };
                        to_leader.extend(frames(parts).map(|bytes| Event::Received { link, bytes }));
                    }
                    Effect::HangUp { link } => {
                        let closed = self.connections.remove(&link).filter(|_| !self.is_cut);
                        to_leader.extend(closed.map(|link| Event::Closed { link }));
                    }
                    Effect::Warn { message } => self.warnings.push(message),
                    Effect::SendToPeer { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
            for effect in std::mem::take(&mut self.leader.effects) {
                let other_end = |link| self.connections.iter().find(|(_, to)| **to == link).map(|(from, _)| *from);
                match effect {
                    Effect::SendToPeer { link, parts } if !self.is_cut => {
                        let Some(link) = other_end(link) else { continue };
                        to_follower.extend(frames(parts).map(|bytes| Event::Received { link, bytes }));
                    }
                    Effect::HangUp { link } => {
                        if let Some(link) = other_end(link).filter(|_| !self.is_cut) {
                            self.connections.remove(&link);
                            to_follower.push_back(Event::Closed { link });
                        }
                    }
                    Effect::Warn { message } => self.warnings.push(message),
                    Effect::SendToPeer { .. } => {}
                    other => panic!("{other:?}"),
                }
            }
            if to_leader.is_empty() && to_follower.is_empty() {
                return;
            }
            for event in to_leader {
                self.leader.with(self.now, |table, around| table.handle(around, event));
            }
            for event in to_follower {
                self.follower.with(self.now, |table, around| table.handle(around, event));
            }
        }
    }

    /// Lets so much time pass, in steps in which what is due happens.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now = (self.now + ms(5)).min(until);
            for shard in [&mut self.follower, &mut self.leader] {
                if shard.table.next_deadline().is_some_and(|due| due <= self.now) {
                    shard.with(self.now, |table, around| table.tick(around));
                }
                shard.with(self.now, |table, around| table.end_turn(around));
            }
            self.settle();
        }
    }

    fn open(&self) -> Option<LinkId> {
        self.follower.table.to_leader(LIVE)
    }

    /// What both ends were told since the last time.
    fn told(&mut self) -> (Vec<Told>, Vec<Told>) {
        (std::mem::take(&mut self.follower.told), std::mem::take(&mut self.leader.told))
    }

    fn fill(&mut self, source: impl FnMut(LinkId, u32, super::table::Room) -> Filled) -> Fill {
        let fill = self.leader.with(self.now, |table, around| table.fill(around, source));
        self.settle();
        fill
    }
}

fn frames(parts: Vec<SendPart>) -> impl Iterator<Item = Bytes> {
    let mut bytes = BytesMut::new();
    for part in parts {
        let SendPart::Memory(part) = part else { panic!("from memory") };
        bytes.extend_from_slice(&part);
    }
    std::iter::from_fn(move || cut(&mut bytes, FRAME_BYTES_MAX).expect("whole frames"))
}

#[test]
fn a_stream_is_dialled_greeted_and_kept_alive() {
    let mut two = Two::new();
    let link = two.open().expect("it is open");
    let (follower, leader) = two.told();
    let to = Peer { key: LIVE, broker_epoch: 20 };
    let from = Peer { key: BACK, broker_epoch: 10 };
    assert_eq!(follower, [Told::FollowerOpen { link, leader: to }]);
    assert_eq!(leader, [Told::LeaderOpen { link: LinkId(0), follower: from }]);
    two.pass(ms(10_000));
    assert_eq!((two.open(), two.told(), two.dials.len()), (Some(link), (vec![], vec![]), 1));

    let follow = Follow {
        follow_id: 1,
        topic_id: TopicId([1; 16]),
        partition: 0,
        leader_epoch: 0,
        fetch_offset: 0,
        last_epoch: -1,
        log_start: 0,
    };
    let frame = FromFollower::Follow(vec![follow]);
    two.follower.with(two.now, |table, around| table.say_to_leader(around, link, &frame));
    two.settle();
    assert_eq!(two.told().1, [Told::FromFollower { link: LinkId(0), follower: from, frame }]);
    let why = RefuseReason::NotLeader;
    let refused = Refused { follow_id: 1, why, leader: -1, leader_epoch: -1, log_start: -1, log_end: -1 };
    let frame = FromLeader::Refused(refused);
    two.leader.with(two.now, |table, around| table.say_to_follower(around, LinkId(0), &frame));
    two.settle();
    assert_eq!(two.told().0, [Told::FromLeader { link, frame, bytes: 0 }]);

    two.want(&[]);
    let (follower, leader) = two.told();
    assert_eq!(follower, [Told::FollowerClosed { link, leader: LIVE }]);
    assert_eq!(leader, [Told::LeaderClosed { link: LinkId(0), follower: from }]);
    two.pass(ms(3_000));
    assert_eq!((two.dials.len(), two.open()), (1, None));
}

#[test]
fn silence_closes_both_ends_and_the_lane_says_when() {
    for (lane, silence) in [(Lane::Live, 1000), (Lane::CatchUp, 2000)] {
        let mut two = Two::new();
        let key = StreamKey { lane, ..LIVE };
        two.want(&[key]);
        let link = two.follower.table.to_leader(key).expect("it is open");
        two.told();
        two.is_cut = true;
        two.pass(ms(silence - 50));
        assert_eq!(two.told(), (vec![], vec![]), "not yet");
        two.pass(ms(100));
        let (follower, leader) = two.told();
        assert_eq!(follower, [Told::FollowerClosed { link, leader: key }]);
        assert!(matches!(leader[..], [Told::LeaderClosed { .. }]));
        two.is_cut = false;
        two.pass(ms(4000));
        assert!(two.follower.table.to_leader(key).is_some(), "it is there again");
    }
}

#[test]
fn who_refuses_is_dialled_again_and_more_and_more_seldom() {
    let mut two = Two::knowing([10, 20], image([10, 20]), image([10, 20]));
    two.is_refusing = true;
    two.want(&[LIVE]);
    two.pass(ms(10_000));
    let waits: Vec<u64> = two.dials.windows(2).map(|pair| (pair[1] - pair[0]).as_millis() as u64).collect();
    assert!((15..=35).contains(&waits[0]), "{waits:?}");
    assert!(waits[8..].iter().all(|wait| (750..=1255).contains(wait)), "{waits:?}");
    assert!(waits[8..].iter().any(|wait| *wait != waits[8]), "they have jitter: {waits:?}");
    two.is_refusing = false;
    two.pass(ms(1_300));
    assert!(two.open().is_some());
    // Lost after a while, it is back almost at once.
    two.pass(ms(1_500));
    let link = two.open().expect("open");
    let dials = two.dials.len();
    two.connections.clear();
    two.follower.with(two.now, |table, around| table.handle(around, Event::Closed { link }));
    two.pass(ms(40));
    assert_eq!(two.dials.len(), dials + 1);
    assert!(two.open().is_some_and(|again| again != link));
}

#[test]
fn an_old_registration_is_rejected_at_either_end() {
    // The follower's process is not the one that is registered by now.
    let mut two = Two::knowing([10, 20], image([10, 20]), image([30, 20]));
    two.want(&[LIVE]);
    two.pass(ms(200));
    assert!(two.open().is_none());
    assert!(two.warnings.len() == 1 && two.warnings[0].contains("registered anew since 10"), "{:?}", two.warnings);
    // It means a process that is no more.
    let mut two = Two::knowing([10, 30], image([10, 20]), image([10, 30]));
    two.want(&[LIVE]);
    two.pass(ms(200));
    assert!(two.open().is_none() && two.warnings[0].contains("registered anew since 20"), "{:?}", two.warnings);
    // Its image comes.
    two.follower_knows(image([10, 30]));
    two.pass(ms(10));
    assert!(two.open().is_some());
    // A broker that is not registered any more.
    let mut gone = ClusterImage::from_snapshot(40, &image([10, 20]).snapshot()).expect("an image");
    gone.replay(&MetadataRecord::UnregisterBroker { node_id: 1, epoch: 10 });
    let mut two = Two::knowing([10, 20], image([10, 20]), gone);
    two.want(&[LIVE]);
    two.pass(ms(200));
    assert!(two.open().is_none() && two.warnings[0].contains("not any more"), "{:?}", two.warnings);
}

#[test]
fn a_new_registration_is_waited_for() {
    // The leader has not heard of the follower's.
    let mut two = Two::knowing([30, 20], image([30, 20]), image([10, 20]));
    two.want(&[LIVE]);
    two.pass(HELD_MAX - ms(100));
    assert!(two.open().is_none());
    two.leader_knows(image([30, 20]));
    assert!(two.open().is_some());
    assert_eq!((two.dials.len(), two.warnings.len()), (1, 0));
    // Nor of its own.
    let mut two = Two::knowing([10, 30], image([10, 30]), image([10, 20]));
    two.want(&[LIVE]);
    two.pass(ms(100));
    two.leader_knows(image([10, 30]));
    assert!(two.open().is_some());
    // It never does.
    let mut two = Two::knowing([30, 20], image([30, 20]), image([10, 20]));
    two.want(&[LIVE]);
    two.pass(ms(5000));
    assert!(two.open().is_none());
    assert!(two.warnings.len() == 1 && two.warnings[0].contains("that this node does not"), "{:?}", two.warnings);
    assert!((3..8).contains(&two.dials.len()), "{:?}", two.dials);
}

#[test]
fn streams_end_with_the_registrations_between_which_they_were_opened() {
    let mut two = Two::new();
    two.told();
    two.leader_knows(image([30, 20]));
    let (follower, leader) = two.told();
    assert!(matches!(leader[..], [Told::LeaderClosed { .. }]) && matches!(follower[..], [Told::FollowerClosed { .. }]));
    let mut two = Two::new();
    two.told();
    two.follower_knows(image([10, 30]));
    let (follower, leader) = two.told();
    assert!(matches!(leader[0], Told::LeaderClosed { .. }) && matches!(follower[0], Told::FollowerClosed { .. }));
    // Another process is registered under the follower's number: it is nobody any more.
    let mut two = Two::new();
    two.follower_knows(image([30, 20]));
    two.pass(ms(3000));
    assert!(two.open().is_none());
    assert_eq!(two.dials.len(), 1);
}

#[test]
fn another_shard_or_cluster_is_not_spoken_to() {
    let records = |cluster: u8| -> ClusterImage {
        let mut records = image([10, 20]).snapshot();
        records[0] = MetadataRecord::Cluster { cluster_id: [cluster; 16] };
        ClusterImage::from_snapshot(20, &records).expect("an image")
    };
    let mut two = Two::knowing([10, 20], records(7), records(8));
    two.want(&[LIVE]);
    two.pass(ms(100));
    assert!(two.open().is_none() && two.warnings[0].contains("another cluster"), "{:?}", two.warnings);
    let mut two = Two::knowing([10, 20], image([10, 20]), image([10, 20]));
    two.want(&[StreamKey { shard: 2, ..LIVE }]);
    two.pass(ms(100));
    assert!(two.warnings[0].contains("shard 2 was meant"), "{:?}", two.warnings);
    // A shard that the leader does not have is not dialled, nor is a node that is not known.
    let mut two = Two::knowing([10, 20], image([10, 20]), image([10, 20]));
    two.want(&[StreamKey { shard: 4, ..LIVE }, StreamKey { node: 3, ..LIVE }, StreamKey { node: 1, ..LIVE }]);
    two.pass(ms(3000));
    assert_eq!(two.dials, []);
}

#[test]
fn who_comes_again_replaces_its_stream() {
    let mut two = Two::new();
    two.told();
    let link = two.open().expect("open");
    // The follower has noticed a loss that the leader has not.
    two.connections.clear();
    two.follower.with(two.now, |table, around| table.handle(around, Event::Closed { link }));
    two.pass(ms(100));
    let (_, leader) = two.told();
    let expected = [LinkId(0), LinkId(1)];
    match leader[..] {
        [Told::LeaderClosed { link: old, .. }, Told::LeaderOpen { link: new, .. }] => assert_eq!([old, new], expected),
        _ => panic!("{leader:?}"),
    }
}

#[test]
fn what_must_not_come_closes_the_stream() {
    // Before the answer, and after it.
    let mut two = Two::knowing([30, 20], image([30, 20]), image([10, 20]));
    two.want(&[LIVE]);
    let ping = || FromFollower::Ping.to_bytes().slice(4..);
    let early = Event::Received { link: LinkId(0), bytes: ping() };
    two.leader.with(two.now, |table, around| table.handle(around, early));
    two.settle();
    assert!(two.warnings[0].contains("more than a greeting"), "{:?}", two.warnings);
    let mut two = Two::new();
    let link = two.open().expect("open");
    two.follower.with(two.now, |table, around| table.handle(around, Event::Received { link, bytes: ping() }));
    two.settle();
    assert!(two.warnings[0].contains("kind 34"), "{:?}", two.warnings);
    assert!(matches!(two.told().1[..], [Told::LeaderOpen { .. }, Told::LeaderClosed { .. }]));
    let mut two = Two::new();
    let frame = FromFollower::Ack { consumed_bytes: 1, ranges: Vec::new() };
    let bytes = frame.to_bytes().slice(4..);
    two.leader.with(two.now, |table, around| table.handle(around, Event::Received { link: LinkId(0), bytes }));
    two.settle();
    assert!(two.warnings[0].contains("1 bytes are taken of 0"), "{:?}", two.warnings);
}

/// So many batches of this size, of one partition, and how many were sent.
struct Source {
    batch: Bytes,
    left: BTreeMap<u32, usize>,
}

impl Source {
    fn new(batch_bytes: usize, partitions: &[(u32, usize)]) -> Source {
        let batch = BatchBuilder::new().record(1, None, Some(&vec![1; batch_bytes]), &[]).build();
        Source { batch: batch.into(), left: partitions.iter().copied().collect() }
    }

    fn next(&mut self, handle: u32, room: super::table::Room) -> Filled {
        let left = self.left.get_mut(&handle).expect("it was marked");
        let fitting = (room.bytes_max / self.batch.len()).max(usize::from(room.is_first)).min(*left);
        *left -= fitting;
        let section = Section {
            handle,
            leader_epoch: 1,
            base_offset: *left as i64,
            next_offset: *left as i64 + 1,
            high_watermark: 0,
            batches: vec![self.batch.clone(); fitting],
        };
        Filled { section: (fitting > 0).then_some(section), has_more: *left > 0 }
    }
}

#[test]
fn nothing_is_sent_without_credit_and_all_partitions_get_their_turn() {
    let mut two = Two::new();
    let link = two.open().expect("open");
    two.told();
    let mut source = Source::new(10_000, &[(1, 100), (2, 1), (3, 100)]);
    [1, 2, 3].into_iter().for_each(|handle| two.leader.table.mark(LinkId(0), handle));
    let (mut received, mut rounds) = (BTreeMap::new(), 0);
    loop {
        let fill = two.fill(|_, handle, room| source.next(handle, room));
        let mut waiting = 0;
        for told in two.told().0 {
            let Told::FromLeader { frame: FromLeader::Data(sections), bytes, .. } = told else { panic!("{told:?}") };
            waiting += bytes;
            for section in sections {
                *received.entry(section.handle).or_insert(0) += section.batches_bytes() / source.batch.len();
            }
        }
        assert!(waiting <= u64::from(WINDOW), "{waiting} bytes are under way");
        if source.left.values().all(|left| *left == 0) {
            break;
        }
        if rounds == 1 {
            assert_eq!(received.get(&2), Some(&1), "nobody waits behind all of another: {received:?}");
        }
        assert_eq!(two.fill(|_, handle, room| source.next(handle, room)), Fill::default(), "there is no room");
        assert!(!fill.has_more);
        two.follower.table.consumed(link, waiting);
        let handle = 1;
        two.follower.table.durable(link, DurableRange { handle, end: rounds, log_start: 0 });
        two.follower.with(two.now, |table, around| table.end_turn(around));
        two.settle();
        let leader = two.told().1;
        assert!(
            matches!(&leader[..], [Told::FromFollower { frame: FromFollower::Ack { ranges, .. }, .. }] if ranges.len() == 1)
        );
        rounds += 1;
        assert!(rounds < 100);
    }
    assert_eq!(received, BTreeMap::from([(1, 100), (2, 1), (3, 100)]));
}

#[test]
fn a_batch_larger_than_the_window_goes_alone() {
    let mut two = Two::new();
    let link = two.open().expect("open");
    two.told();
    let mut source = Source::new(2 * FRAME_BYTES_TARGET, &[(1, 2)]);
    two.leader.table.mark(LinkId(0), 1);
    for _ in 0..2 {
        assert!(two.fill(|_, handle, room| source.next(handle, room)).has_sent);
        let told = two.told().0;
        let [Told::FromLeader { bytes, .. }] = told[..] else { panic!("{told:?}") };
        assert!(bytes > 2 * FRAME_BYTES_TARGET as u64);
        two.follower.table.consumed(link, bytes);
        two.follower.with(two.now, |table, around| table.end_turn(around));
        two.settle();
    }
    assert_eq!(source.left[&1], 0);
}

fn options() -> ShardOptions {
    ShardOptions {
        index: 1,
        shards: 2,
        node_id: 1,
        incarnation: [10; 16],
        file: Default::default(),
        log_dir: String::new(),
        listeners: vec![LISTENER.into()],
        inter_broker_listener: LISTENER.into(),
        peer_window_bytes: WINDOW,
        replica_lag_time_max: ms(30_000),
        fetch_bytes_max: 0,
        group_bytes_max: 0,
        request_bytes_max: 0,
    }
}

#[test]
fn what_a_shard_follows_is_what_others_lead_of_what_it_holds() {
    let options = options();
    let topic_id = TopicId([1; 16]);
    let mut image = image([10, 20]);
    image.replay(&MetadataRecord::Topic { topic_id, name: "t".into() });
    let state = |replicas: &[i32], leader| Partition {
        replicas: replicas.into(),
        isr: replicas.into(),
        leader,
        leader_epoch: 0,
        partition_epoch: 0,
    };
    for partition in 0..8 {
        let state = match partition {
            0..=3 => state(&[1, 2], 2),
            4 | 5 => state(&[1, 2], 1),
            _ => state(&[2], 2),
        };
        image.replay(&MetadataRecord::Partition { topic_id, partition, state });
    }
    let key = |partition| PartitionKey { topic_id, partition };
    let mut expected = BTreeSet::new();
    for partition in 0..8 {
        let followed = leader_of(&options, &image, key(partition));
        let is_mine = key(partition).shard(2) == 1;
        let leader = Leader { node: 2, shard: key(partition).shard(4) as u32 };
        assert_eq!(followed, (is_mine && partition < 4).then_some(leader));
        expected.extend(followed);
    }
    let mut following = Following::new(&options, &image);
    assert!(!expected.is_empty() && following.leaders().eq(expected.iter().copied()));
    // They are led here from now on.
    for partition in 0..4 {
        let state = Partition { leader_epoch: 1, partition_epoch: 1, ..state(&[1, 2], 1) };
        image.replay(&MetadataRecord::Partition { topic_id, partition, state });
    }
    let changed = (0..4).map(|partition| following.update(&options, &image, key(partition))).filter(|changed| *changed);
    assert_eq!(changed.count(), expected.len());
    assert_eq!(following.leaders().count(), 0);
}
