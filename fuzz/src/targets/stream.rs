//! What shards of other nodes send. The first byte chooses: a greeting or its answer, a frame of a follower or of a leader,
//! sections with the checksum that they must have, or a shard's streams, to which anything happens in any order.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use millstream::peer::frame::{LENGTH_BYTES, cut};
use millstream::peer::links::{DialError, Event, LinkId};
use millstream::peer::stream::FRAME_BYTES_MAX;
use millstream::peer::stream::frame::{
    Diverged, DurableRange, Follow, FollowOk, FromFollower, FromLeader, Mark, RefuseReason, Refused, Skip, StallReason,
};
use millstream::peer::stream::greeting::{Answer, Hello, Lane, Reject, RejectReason, Welcome};
use millstream::peer::stream::section::Section;
use millstream::shard::peers::stream::StreamKey;
use millstream::shard::peers::table::{ACCEPTED_MAX, Around, Filled, Me, Table, Told};
use millstream::shard::{Effect, SendPart};
use millstream_replication::{Broker, ClusterImage, Endpoint, METADATA_VERSIONS, MetadataRecord};
use millstream_storage::TopicId;
use millstream_storage::batch::BatchBuilder;

use crate::Target;
use crate::input::{Input, piece};
use crate::memory::{BASE_BYTES, bounded};

pub const TARGET: Target = Target { name: "stream", run, seeds };

/// An item of an Ack takes 12 bytes and 16 in memory, a section of one byte 41 and 64 with what holds its slice.
const MEMORY_PER_BYTE: usize = 8;
/// A shard's streams, and what it knows of the cluster.
const TABLE_BYTES: usize = 256 << 10;
const LISTENER: &str = "INSIDE";
/// The leader that is dialled.
const LIVE: StreamKey = StreamKey { node: 2, shard: 0, lane: Lane::Live };

fn run(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let bytes_max = BASE_BYTES + MEMORY_PER_BYTE * bytes.len();
    match choice % 5 {
        0 => greeting(bytes),
        1 => {
            let bytes = Bytes::copy_from_slice(bytes);
            if let Ok(frame) = bounded(bytes_max, || FromFollower::decode(&bytes)) {
                assert_eq!(frame.to_bytes()[LENGTH_BYTES..], bytes);
            }
        }
        2 => {
            let bytes = Bytes::copy_from_slice(bytes);
            if let Ok(frame) = bounded(bytes_max, || FromLeader::decode(&bytes)) {
                assert_eq!(body(&frame), bytes);
            }
        }
        3 => sections(Input::new(bytes)),
        _ => bounded(bytes_max + TABLE_BYTES, || streams(Input::new(bytes))),
    }
}

fn body(frame: &FromLeader) -> Bytes {
    frame.to_slices().concat().split_off(LENGTH_BYTES).into()
}

fn greeting(bytes: &[u8]) {
    if let Ok(hello) = bounded(BASE_BYTES, || Hello::decode(bytes)) {
        let again = hello.to_bytes().slice(LENGTH_BYTES..);
        // Its correlation id means nothing, and what follows the fields neither.
        assert_eq!(again[10..], bytes[10..again.len()]);
    }
    if let Ok(answer) = bounded(BASE_BYTES, || Answer::decode(bytes)) {
        let again = answer.to_bytes().slice(LENGTH_BYTES..);
        assert_eq!(again, bytes[..again.len()]);
    }
}

/// Whatever the batches are, what was summed when it was written is when it is read.
fn sections(mut input: Input<'_>) {
    let mut sections = Vec::new();
    while !input.is_empty() {
        let handle = input.u16().into();
        let base_offset = input.u16().into();
        let pieces = input.byte() % 4;
        let batches: Vec<Bytes> = (0..pieces).map(|_| Bytes::copy_from_slice(input.piece())).collect();
        if batches.iter().any(|batch| !batch.is_empty()) {
            let (next_offset, high_watermark) = (base_offset + 1, base_offset);
            sections.push(Section { handle, leader_epoch: 1, base_offset, next_offset, high_watermark, batches });
        }
    }
    if sections.is_empty() || sections.len() > 1000 {
        return;
    }
    let bytes = body(&FromLeader::Data(sections.clone()));
    match FromLeader::decode(&bytes) {
        Ok(FromLeader::Data(read)) => {
            for (read, written) in read.iter().zip(&sections) {
                assert_eq!(read.batches[0], written.batches.concat());
                assert_eq!((read.handle, read.base_offset), (written.handle, written.base_offset));
            }
        }
        // Where a large batch says another checksum than it has, it matters how it was cut.
        other => assert!(sections.iter().any(|section| section.batches_bytes() >= 16 << 10), "{other:?}"),
    }
}

fn broker(node_id: i32, epoch: i64) -> MetadataRecord {
    MetadataRecord::Broker(Broker {
        node_id,
        epoch,
        incarnation: [epoch as u8; 16],
        directory_id: [1; 16],
        shards: 1,
        is_fenced: false,
        in_controlled_shutdown: false,
        endpoints: vec![Endpoint { listener: LISTENER.into(), host: "h".into(), port: 1 }],
        rack: None,
        metadata_versions: METADATA_VERSIONS,
    })
}

fn image(epochs: [i64; 2]) -> ClusterImage {
    let records = [MetadataRecord::Cluster { cluster_id: [7; 16] }, broker(1, epochs[0]), broker(2, epochs[1])];
    ClusterImage::from_snapshot(100, &records).expect("an image")
}

/// A shard's streams, and what a driver knows of its connections.
struct Shard {
    table: Table,
    image: ClusterImage,
    now: Duration,
    accepted: u64,
    dialling: BTreeSet<LinkId>,
    open: BTreeSet<LinkId>,
    /// Streams of which the host was told, and data that it has not taken.
    streams: BTreeSet<LinkId>,
    untaken: Vec<(LinkId, u64)>,
}

impl Shard {
    fn act(&mut self, act: impl FnOnce(&mut Table, &mut Around<'_>)) {
        let (mut effects, mut told) = (Vec::new(), Vec::new());
        let mut around = Around { now: self.now, image: &self.image, effects: &mut effects, told: &mut told };
        act(&mut self.table, &mut around);
        for effect in effects {
            match effect {
                Effect::Dial { link, .. } => assert!(self.dialling.insert(link), "dialled twice"),
                Effect::SendToPeer { link, parts } => {
                    assert!(self.open.contains(&link), "sent to nobody");
                    let mut sent = BytesMut::new();
                    for part in parts {
                        let SendPart::Memory(bytes) = part else { panic!("from memory") };
                        sent.extend_from_slice(&bytes);
                    }
                    while cut(&mut sent, FRAME_BYTES_MAX).expect("a length of ours").is_some() {}
                    assert!(sent.is_empty(), "half a frame");
                }
                Effect::HangUp { link } => {
                    // It may be closed already: the other side was faster.
                    let _ = self.open.remove(&link) || self.dialling.remove(&link);
                }
                Effect::Warn { .. } => {}
                other => panic!("{other:?}"),
            }
        }
        for told in told {
            match told {
                Told::FollowerOpen { link, .. } | Told::LeaderOpen { link, .. } => assert!(self.streams.insert(link)),
                Told::FollowerClosed { link, .. } | Told::LeaderClosed { link, .. } => {
                    assert!(self.streams.remove(&link));
                }
                Told::FromLeader { link, bytes, .. } => {
                    assert!(self.streams.contains(&link));
                    self.untaken.push((link, bytes));
                }
                Told::FromFollower { link, .. } => assert!(self.streams.contains(&link)),
            }
        }
    }

    fn happens(&mut self, event: Event) {
        self.act(|table, around| table.handle(around, event));
    }

    fn step(&mut self, input: &mut Input<'_>) {
        let (choice, number) = (input.byte(), input.byte());
        let pick = |among: &BTreeSet<LinkId>| among.iter().nth(usize::from(number) % among.len().max(1)).copied();
        let (open, dialling) = (pick(&self.open), pick(&self.dialling));
        match (choice % 9, open, dialling) {
            (0, ..) if self.open.len() < 100 => {
                let link = LinkId(self.accepted);
                self.accepted += 1;
                self.open.insert(link);
                self.happens(Event::Accepted { link });
            }
            (1 | 2, Some(link), _) => {
                let bytes = Bytes::copy_from_slice(input.piece());
                self.happens(Event::Received { link, bytes });
            }
            (3, Some(link), _) => {
                self.open.remove(&link);
                self.happens(Event::Closed { link });
            }
            (4, _, Some(link)) => {
                self.dialling.remove(&link);
                let result = if number < 200 { Ok(()) } else { Err(DialError::Refused) };
                if result.is_ok() {
                    self.open.insert(link);
                }
                self.happens(Event::Dialed { link, result });
            }
            (5, ..) => {
                let wanted = if number < 200 { BTreeSet::from([LIVE]) } else { BTreeSet::new() };
                self.act(|table, around| table.want(around, &wanted));
            }
            (6, ..) => {
                self.image = image([10, if number < 100 { 20 } else { 30 }]);
                self.act(|table, around| table.image_changed(around));
            }
            (7, ..) => {
                for (link, bytes) in std::mem::take(&mut self.untaken) {
                    self.table.consumed(link, bytes);
                    self.table.durable(link, DurableRange { handle: 1, end: 2, log_start: 1 });
                }
                let streams: Vec<LinkId> = self.streams.iter().copied().collect();
                streams.iter().for_each(|link| self.table.mark(*link, 1));
                self.act(|table, around| {
                    table.fill(around, |_, handle, _| Filled { section: Some(section(handle)), has_more: false });
                    table.end_turn(around);
                });
            }
            _ => {
                self.now += Duration::from_millis(u64::from(number) * 10);
                self.happens(Event::Tick);
            }
        }
    }
}

fn section(handle: u32) -> Section {
    let batch: Bytes = BatchBuilder::new().record(1, None, Some(b"value"), &[]).build().into();
    Section { handle, leader_epoch: 0, base_offset: 0, next_offset: 1, high_watermark: 0, batches: vec![batch] }
}

fn streams(mut input: Input<'_>) {
    let me = Me {
        node: 1,
        shard: 0,
        shards: 1,
        incarnation: [10; 16],
        listener: LISTENER.to_owned(),
        window_bytes: 1 << 20,
    };
    let mut shard = Shard {
        table: Table::new(me, 1),
        image: image([10, 20]),
        now: Duration::ZERO,
        accepted: 0,
        dialling: BTreeSet::new(),
        open: BTreeSet::new(),
        streams: BTreeSet::new(),
        untaken: Vec::new(),
    };
    shard.act(|table, around| table.image_changed(around));
    shard.act(|table, around| table.want(around, &BTreeSet::from([LIVE])));
    while !input.is_empty() {
        shard.step(&mut input);
        assert!(shard.streams.len() <= ACCEPTED_MAX && shard.streams.is_subset(&shard.open));
    }
    // No deadline lies in the past for ever.
    shard.happens(Event::Tick);
    let due = shard.table.next_deadline();
    assert!(due.is_none_or(|due| due > shard.now), "{due:?} at {:?}", shard.now);
}

fn hello() -> Hello {
    Hello {
        version_min: 1,
        version_max: 1,
        cluster_id: [7; 16],
        node: 2,
        shard: 0,
        broker_epoch: 20,
        incarnation: [20; 16],
        to_node: 1,
        to_shard: 0,
        to_shards: 1,
        to_broker_epoch: 10,
        lane: Lane::Live,
        window_bytes: 1 << 20,
        metadata_offset: 100,
    }
}

fn from_follower() -> Vec<FromFollower> {
    let follow = Follow {
        follow_id: 1,
        topic_id: TopicId([1; 16]),
        partition: 0,
        leader_epoch: 1,
        fetch_offset: 5,
        last_epoch: 0,
        log_start: 2,
    };
    vec![
        FromFollower::Ping,
        FromFollower::Follow(vec![follow, follow]),
        FromFollower::Unfollow(vec![1]),
        FromFollower::Ack { consumed_bytes: 0, ranges: vec![DurableRange { handle: 1, end: 2, log_start: 1 }] },
        FromFollower::Stalled { why: StallReason::NoSpace, handles: vec![1] },
    ]
}

fn from_leader() -> Vec<FromLeader> {
    let ok = FollowOk { follow_id: 1, handle: 1, high_watermark: 1, log_start: 0, log_end: 2, epoch_start: 0 };
    let why = RefuseReason::NotInMemory;
    vec![
        FromLeader::Pong,
        FromLeader::FollowOk(ok),
        FromLeader::Diverged(Diverged { follow_id: 1, epoch: 0, end_offset: 1 }),
        FromLeader::Refused(Refused { follow_id: 1, why, leader: 2, leader_epoch: 3, log_start: 0, log_end: 9 }),
        FromLeader::Data(vec![section(1), section(2)]),
        FromLeader::Skip(Skip { handle: 1, to_offset: 5, epoch: 1, high_watermark: 5 }),
        FromLeader::Marks(vec![Mark { handle: 1, high_watermark: 2, log_start: 1 }]),
    ]
}

/// A step in which a frame comes over the connection of this place.
fn received(place: u8, frame: &[u8]) -> Vec<u8> {
    [&[1, place], &piece(frame)[..]].concat()
}

fn seeds() -> Vec<Vec<u8>> {
    let greeting = hello().to_bytes().slice(LENGTH_BYTES..);
    let welcome = Welcome { version: 1, broker_epoch: 20, incarnation: [20; 16], window_bytes: 1 << 20 };
    let welcome = Answer::Welcome(welcome).to_bytes().slice(LENGTH_BYTES..);
    let reject = Reject { why: RejectReason::Busy, shards: 1, broker_epoch: 20, text: "why".into() };
    let reject = Answer::Reject(reject).to_bytes().slice(LENGTH_BYTES..);
    // Somebody follows, and says all that a follower may say; it is sent something.
    let mut called = vec![4, 0, 0];
    called.extend(received(0, &greeting));
    from_follower().iter().for_each(|frame| called.extend(received(0, &frame.to_bytes()[LENGTH_BYTES..])));
    called.extend([7, 0, 8, 20, 6, 200]);
    // The leader takes the connection and says all that it may say; then time passes, and it is dialled again.
    let mut dialled = vec![4, 4, 0];
    dialled.extend(received(0, &welcome));
    from_leader().iter().for_each(|frame| dialled.extend(received(0, &body(frame))));
    dialled.extend([7, 0, 8, 30, 8, 200, 8, 10, 4, 250]);
    let mut rejected = vec![4, 4, 0];
    rejected.extend(received(0, &reject));
    rejected.extend([8, 10, 4, 0, 3, 0, 5, 250]);
    // A registration that is not known yet is waited for.
    let newer = Hello { broker_epoch: 30, incarnation: [30; 16], ..hello() };
    let mut held = vec![4, 0, 0];
    held.extend(received(0, &newer.to_bytes()[LENGTH_BYTES..]));
    let late = [&held[..], &[8, 95]].concat();
    held.extend([6, 200]);
    let batch: Vec<u8> = BatchBuilder::new().record(1, None, Some(&[1; 20_000]), &[]).build();
    let large = [&[3, 0, 1, 0, 2, 1][..], &piece(&batch)].concat();
    let mut seeds = vec![called, dialled, rejected, held, late, large];
    seeds.extend([&greeting, &welcome, &reject].map(|frame| [&[0], &frame[..]].concat()));
    seeds.extend(from_follower().iter().map(|frame| [&[1], &frame.to_bytes()[LENGTH_BYTES..]].concat()));
    seeds.extend(from_leader().iter().map(|frame| [&[2], &body(frame)[..]].concat()));
    seeds
}
