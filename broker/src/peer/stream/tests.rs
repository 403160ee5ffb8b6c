//! Tests of the streams' bytes: what is written is read, frozen bytes stay as they are, and nothing else is accepted.

use bytes::{Bytes, BytesMut};
use millstream_storage::TopicId;
use millstream_storage::batch::BatchBuilder;
use millstream_storage::random::Random;

use super::FRAME_BYTES_MAX;
use super::frame::*;
use super::greeting::*;
use super::section::{SECTIONS_MAX, Section};
use crate::peer::frame::{FIRST_FRAME_BYTES_MAX, Frame, TEXT_BYTES_MAX, cut};

fn hello() -> Hello {
    Hello {
        version_min: 1,
        version_max: 2,
        cluster_id: [1; 16],
        node: 2,
        shard: 3,
        broker_epoch: 40,
        incarnation: [5; 16],
        to_node: 6,
        to_shard: 1,
        to_shards: 8,
        to_broker_epoch: 90,
        lane: Lane::CatchUp,
        window_bytes: 0x01_0203,
        metadata_offset: 11,
    }
}

fn batch(value: &[u8]) -> Bytes {
    BatchBuilder::new().record(1, None, Some(value), &[]).build().into()
}

fn section(batches: Vec<Bytes>) -> Section {
    Section { handle: 7, leader_epoch: 3, base_offset: 100, next_offset: 101, high_watermark: 99, batches }
}

fn follow() -> Follow {
    Follow {
        follow_id: 1,
        topic_id: TopicId([2; 16]),
        partition: 3,
        leader_epoch: 4,
        fetch_offset: 6,
        last_epoch: -1,
        log_start: 5,
    }
}

fn from_follower() -> Vec<FromFollower> {
    let range = |handle, end, log_start| DurableRange { handle, end, log_start };
    let ranges = vec![range(1, 2, 0), range(3, i64::MAX, i64::MAX)];
    vec![
        FromFollower::Ping,
        FromFollower::Follow(vec![follow(), Follow { follow_id: 2, ..follow() }]),
        FromFollower::Unfollow(vec![1, u32::MAX]),
        FromFollower::Ack { consumed_bytes: 9, ranges },
        FromFollower::Ack { consumed_bytes: u64::MAX, ranges: Vec::new() },
        FromFollower::Stalled { why: StallReason::NoSpace, handles: vec![4] },
        FromFollower::Stalled { why: StallReason::SlowDisk, handles: vec![4, 5] },
    ]
}

fn from_leader() -> Vec<FromLeader> {
    let refused = |why| Refused { follow_id: 1, why, leader: -1, leader_epoch: -1, log_start: -1, log_end: -1 };
    let large = batch(&[9; 40_000]);
    vec![
        FromLeader::Pong,
        FromLeader::FollowOk(FollowOk {
            follow_id: 1,
            handle: 2,
            high_watermark: 3,
            log_start: 4,
            log_end: 5,
            epoch_start: 6,
        }),
        FromLeader::Diverged(Diverged { follow_id: 1, epoch: -1, end_offset: -1 }),
        FromLeader::Refused(refused(RefuseReason::NotLeader)),
        FromLeader::Refused(Refused { leader: 4, leader_epoch: 5, ..refused(RefuseReason::NotInMemory) }),
        FromLeader::Data(vec![section(vec![batch(b"one")]), section(vec![large]), section(vec![batch(b"two")])]),
        FromLeader::Skip(Skip { handle: 1, to_offset: 2, epoch: 4, high_watermark: 3 }),
        FromLeader::Marks(vec![Mark { handle: 1, high_watermark: 2, log_start: 3 }]),
    ]
}

/// The only frame of these bytes, without its length.
fn body(bytes: &[u8]) -> Bytes {
    let mut bytes = BytesMut::from(bytes);
    let body = cut(&mut bytes, FRAME_BYTES_MAX).expect("a good length").expect("complete");
    assert!(bytes.is_empty());
    body
}

fn body_of(frame: &FromLeader) -> Bytes {
    body(&frame.to_slices().concat())
}

#[test]
fn what_is_written_is_read() {
    let greeting = body(&hello().to_bytes());
    assert_eq!(Hello::decode(&greeting), Ok(hello()));
    assert!(is_hello(&greeting) && Frame::decode(&greeting).is_err(), "controllers take it for none of theirs");
    for frame in from_follower() {
        assert_eq!(FromFollower::decode(&body(&frame.to_bytes())), Ok(frame));
    }
    for frame in from_leader() {
        assert_eq!(FromLeader::decode(&body_of(&frame)), Ok(frame));
    }
}

#[test]
fn greetings_have_the_bytes_they_always_had() {
    let mut expected = vec![0x4e, 0x20, 0, 1, 0, 0, 0, 0, 0xff, 0xff, 1, 0, 2, 0];
    expected.extend([1; 16]);
    expected.extend([2, 0, 0, 0, 3, 0, 0, 0, 40, 0, 0, 0, 0, 0, 0, 0]);
    expected.extend([5; 16]);
    expected.extend([6, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0, 90, 0, 0, 0, 0, 0, 0, 0, 2]);
    expected.extend([3, 2, 1, 0, 11, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(body(&hello().to_bytes()), expected);

    let welcome = Welcome { version: 1, broker_epoch: 2, incarnation: [3; 16], window_bytes: 4 };
    let expected = [&[32, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0][..], &[3; 16], &[4, 0, 0, 0]].concat();
    assert_eq!(body(&Answer::Welcome(welcome).to_bytes()), expected);
    assert_eq!(Answer::decode(&expected), Ok(Answer::Welcome(welcome)));

    let reject = Reject { why: RejectReason::OldEpoch, shards: 2, broker_epoch: -1, text: "é".into() };
    let expected = [&[33, 5, 2, 0, 0, 0][..], &[0xff; 8], &[2, 0, 0xc3, 0xa9]].concat();
    assert_eq!(body(&Answer::Reject(reject.clone()).to_bytes()), expected);
    assert_eq!(Answer::decode(&expected), Ok(Answer::Reject(reject)));
}

#[test]
fn frames_have_the_bytes_they_always_had() {
    let of_follower = |frame: FromFollower| body(&frame.to_bytes());
    assert_eq!(of_follower(FromFollower::Ping), [34][..]);
    let mut expected = vec![36, 1, 0, 0, 0, 1, 0, 0, 0];
    expected.extend([2; 16]);
    expected.extend([3, 0, 0, 0, 4, 0, 0, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 5, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(of_follower(FromFollower::Follow(vec![follow()])), expected);
    assert_eq!(of_follower(FromFollower::Unfollow(vec![258])), [37, 1, 0, 0, 0, 2, 1, 0, 0][..]);
    let ranges = vec![DurableRange { handle: 4, end: 5, log_start: 2 }];
    let mut expected = vec![38, 3, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 4, 0, 0, 0];
    [5i64, 2].iter().for_each(|offset| expected.extend(offset.to_le_bytes()));
    assert_eq!(of_follower(FromFollower::Ack { consumed_bytes: 3, ranges }), expected);
    let stalled = FromFollower::Stalled { why: StallReason::SlowDisk, handles: vec![1] };
    assert_eq!(of_follower(stalled), [39, 2, 1, 0, 0, 0, 1, 0, 0, 0][..]);

    assert_eq!(body_of(&FromLeader::Pong), [35][..]);
    let ok = FollowOk { follow_id: 1, handle: 2, high_watermark: 3, log_start: 4, log_end: 5, epoch_start: 6 };
    let mut expected = vec![40, 1, 0, 0, 0, 2, 0, 0, 0];
    [3i64, 4, 5, 6].iter().for_each(|offset| expected.extend(offset.to_le_bytes()));
    assert_eq!(body_of(&FromLeader::FollowOk(ok)), expected);
    let diverged = FromLeader::Diverged(Diverged { follow_id: 1, epoch: 2, end_offset: 3 });
    assert_eq!(body_of(&diverged), [41, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0][..]);
    let why = RefuseReason::FencedEpoch;
    let refused = Refused { follow_id: 1, why, leader: 3, leader_epoch: 4, log_start: 5, log_end: 6 };
    let mut expected = vec![42, 1, 0, 0, 0, 2, 3, 0, 0, 0, 4, 0, 0, 0];
    [5i64, 6].iter().for_each(|offset| expected.extend(offset.to_le_bytes()));
    assert_eq!(body_of(&FromLeader::Refused(refused)), expected);
    let skip = FromLeader::Skip(Skip { handle: 1, to_offset: 2, epoch: 4, high_watermark: 3 });
    assert_eq!(body_of(&skip), [44, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0][..]);
    let mark = FromLeader::Marks(vec![Mark { handle: 1, high_watermark: 2, log_start: 3 }]);
    let expected = [45, 1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(body_of(&mark), expected[..]);

    let mut expected = vec![43, 1, 0, 0, 0, 7, 0, 0, 0, 3, 0, 0, 0];
    [100i64, 101, 99].iter().for_each(|offset| expected.extend(offset.to_le_bytes()));
    expected.extend([3, 0, 0, 0, 0xb9, 0xb4, 0x2e, 0x23, b'a', b'b', b'c']);
    assert_eq!(body_of(&FromLeader::Data(vec![section(vec![Bytes::from_static(b"abc")])])), expected);
}

#[test]
fn cut_frames_are_refused() {
    let bytes = body(&hello().to_bytes());
    (0..bytes.len()).for_each(|length| assert!(Hello::decode(&bytes[..length]).is_err(), "{length}"));
    let longer = [&bytes[..], b"more"].concat();
    assert_eq!(Hello::decode(&longer), Ok(hello()), "later versions may add to it");
    for frame in from_follower() {
        let bytes = body(&frame.to_bytes());
        (0..bytes.len()).for_each(|length| assert!(FromFollower::decode(&bytes.slice(..length)).is_err(), "{frame:?}"));
        assert!(FromFollower::decode(&[&bytes[..], &[0]].concat().into()).is_err(), "{frame:?}");
        assert!(FromLeader::decode(&bytes).is_err(), "{frame:?}");
    }
    for frame in from_leader() {
        let bytes = body_of(&frame);
        let lengths = (0..bytes.len()).filter(|length| *length < 500 || length % 997 == 0);
        lengths.for_each(|length| assert!(FromLeader::decode(&bytes.slice(..length)).is_err(), "{frame:?}"));
        assert!(FromLeader::decode(&[&bytes[..], &[0]].concat().into()).is_err());
        assert!(FromFollower::decode(&bytes).is_err(), "{frame:?}");
    }
}

#[test]
fn counts_are_checked_before_memory_is_given_to_them() {
    for kind in [36u8, 37, 43, 45] {
        let bytes = [&[kind][..], &u32::MAX.to_le_bytes()].concat().into();
        assert!(FromFollower::decode(&bytes).is_err() && FromLeader::decode(&bytes).is_err());
        let empty = [kind, 0, 0, 0, 0].to_vec().into();
        assert!(FromFollower::decode(&empty).is_err() && FromLeader::decode(&empty).is_err());
    }
    let sections = vec![section(vec![Bytes::from_static(b"x")]); SECTIONS_MAX];
    assert!(FromLeader::decode(&body_of(&FromLeader::Data(sections))).is_ok());
}

#[test]
fn a_flipped_bit_of_a_section_is_noticed_where_no_batch_would() {
    let large = batch(&[9; 40_000]);
    let bytes = body_of(&FromLeader::Data(vec![section(vec![large.clone()])])).to_vec();
    let start = bytes.len() - large.len();
    // The section's fields, and what Kafka's own checksum does not cover of the batch.
    for at in 5..start + 21 {
        let mut damaged = bytes.clone();
        damaged[at] ^= 1;
        assert!(FromLeader::decode(&damaged.into()).is_err(), "{at}");
    }
    // What it covers is checked where the batch is.
    let mut damaged = bytes.clone();
    damaged[start + 100] ^= 1;
    assert!(FromLeader::decode(&damaged.into()).is_ok());
    // A small batch is read.
    let small = body_of(&FromLeader::Data(vec![section(vec![batch(b"v")])])).to_vec();
    for at in 5..small.len() {
        let mut damaged = small.clone();
        damaged[at] ^= 1;
        assert!(FromLeader::decode(&damaged.into()).is_err(), "{at}");
    }
}

#[test]
fn large_batches_are_not_copied_and_small_ones_are() {
    let (small, large) = (batch(b"v"), batch(&[9; 40_000]));
    let slices = FromLeader::Data(vec![section(vec![small.clone(), large.clone(), small])]).to_slices();
    assert_eq!(slices.len(), 3);
    assert_eq!(slices[1].as_ptr(), large.as_ptr());
}

#[test]
fn hostile_bytes_neither_panic_nor_decode_to_something_else() {
    let mut bodies: Vec<Bytes> = from_follower().iter().map(|frame| body(&frame.to_bytes())).collect();
    bodies.extend(from_leader().iter().map(body_of).filter(|body| body.len() < 1000));
    bodies.push(body(&hello().to_bytes()));
    bodies.push(body_of(&FromLeader::Data(vec![section(vec![batch(b"v")]), section(vec![batch(b"w")])])));
    let mut random = Random::new(1);
    for _ in 0..50_000 {
        let mut bytes = bodies[random.index(bodies.len())].to_vec();
        for _ in 0..=random.below(3) {
            let at = random.index(bytes.len());
            bytes[at] = random.next() as u8;
        }
        let bytes = Bytes::from(bytes);
        if let Ok(frame) = FromFollower::decode(&bytes) {
            assert_eq!(body(&frame.to_bytes()), bytes);
        }
        if let Ok(frame) = FromLeader::decode(&bytes) {
            assert_eq!(body_of(&frame), bytes);
        }
        if let Ok(hello) = Hello::decode(&bytes) {
            // The correlation id means nothing.
            assert_eq!(body(&hello.to_bytes())[10..], bytes[10..]);
        }
    }
}

#[test]
fn only_whom_it_means_takes_a_greeting() {
    let me = Addressee { cluster_id: [1; 16], node: 6, shards: 8 };
    assert_eq!(hello().shard_of(me), Ok(1));
    let why = |hello: Hello, me: Addressee| hello.shard_of(me).expect_err("not meant").0;
    assert_eq!(why(hello(), Addressee { cluster_id: [2; 16], ..me }), RejectReason::Cluster);
    assert_eq!(why(hello(), Addressee { node: 5, ..me }), RejectReason::Node);
    assert_eq!(why(Hello { node: 6, ..hello() }, me), RejectReason::Node, "it speaks to itself");
    assert_eq!(why(hello(), Addressee { shards: 2, ..me }), RejectReason::Shards);
    assert_eq!(why(Hello { version_min: 2, ..hello() }, me), RejectReason::Version);
    assert_eq!(Hello { version_max: 1, ..hello() }.version(), Some(1));
}

#[test]
fn every_answer_fits_the_first_frame() {
    let text = "é".repeat(TEXT_BYTES_MAX);
    let reject = Answer::Reject(Reject { why: RejectReason::Busy, shards: 1, broker_epoch: 1, text });
    let bytes = body(&reject.to_bytes());
    assert!(bytes.len() <= FIRST_FRAME_BYTES_MAX);
    let Ok(Answer::Reject(read)) = Answer::decode(&bytes) else { panic!("a rejection") };
    assert_eq!(read.text, "é".repeat(TEXT_BYTES_MAX / 2));
}

#[test]
fn no_log_begins_above_what_is_durable() {
    for (end, log_start, is_read) in [(5, 5, true), (5, 0, true), (5, 6, false), (5, -1, false)] {
        let ranges = vec![DurableRange { handle: 1, end, log_start }];
        let ack = FromFollower::Ack { consumed_bytes: 0, ranges };
        assert_eq!(FromFollower::decode(&body(&ack.to_bytes())).is_ok(), is_read, "{ack:?}");
    }
}

#[test]
fn no_follower_is_sent_where_no_log_begins() {
    for (offset, is_read) in [((1 << 62) - 1, true), (1 << 62, false), (i64::MAX, false)] {
        let skip = FromLeader::Skip(Skip { handle: 1, to_offset: offset, epoch: 4, high_watermark: 3 });
        let why = RefuseReason::OutOfRange;
        let refused = Refused { follow_id: 1, why, leader: -1, leader_epoch: -1, log_start: offset, log_end: 9 };
        for frame in [skip, FromLeader::Refused(refused)] {
            assert_eq!(FromLeader::decode(&body_of(&frame)).is_ok(), is_read, "{frame:?}");
        }
    }
}
