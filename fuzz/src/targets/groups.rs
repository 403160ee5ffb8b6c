//! Consumer groups. The first byte chooses: records of `__consumer_offsets`; requests to a coordinator, one after the
//! other, whose writes end well or badly.

use std::time::Duration;

use bytes::Bytes;
use millstream::group::route::{Node, Route, find_coordinator, merge, route};
use millstream::group::{
    ClientInfo, CommittedOffset, Coordinator, GroupConfig, GroupEffect, GroupMetadata, GroupRequest, MemberMetadata,
    Moment, Record, RequestKind, RequestRef,
};
use millstream::protocol::versions::{ApiKey, GroupApi, Handler, SERVED};
use millstream_replication::{ClusterImage, MetadataRecord, Partition};
use millstream_storage::{Now, TopicId};

use super::requests;
use crate::Target;
use crate::input::{Input, piece};
use crate::memory::{BASE_BYTES, bounded};

pub const TARGET: Target = Target { name: "groups", run, seeds };

/// The smallest member of a record takes 20 bytes and 120 in memory, and shares of allocations for its texts.
const RECORD_MEMORY_PER_BYTE: usize = 64;
/// An empty string takes 2 bytes on the wire and 32 in memory, in a structure of up to 150; then once more in the reply,
/// and in the group.
const REQUEST_MEMORY_PER_BYTE: usize = 1024;
/// A member or group has timers, a place in several maps and a generated id, however short its name.
const COORDINATOR_BYTES_MAX: usize = 512 << 10;

/// Requests of one input.
const REQUESTS_MAX: usize = 32;

/// The APIs whose requests go to a coordinator.
fn keys() -> Vec<ApiKey> {
    use ApiKey::*;
    let group = [
        JoinGroup,
        SyncGroup,
        Heartbeat,
        LeaveGroup,
        OffsetCommit,
        OffsetFetch,
        OffsetDelete,
        DescribeGroups,
        ListGroups,
        DeleteGroups,
        ConsumerGroupHeartbeat,
        ConsumerGroupDescribe,
    ];
    SERVED.iter().copied().filter(|key| group.contains(key)).collect()
}

fn run(bytes: &[u8]) {
    let Some((choice, bytes)) = bytes.split_first() else { return };
    match choice % 3 {
        0 => {
            let mut input = Input::new(bytes);
            let (key, value) = (input.piece(), input.rest());
            let bytes_max = BASE_BYTES + RECORD_MEMORY_PER_BYTE * bytes.len();
            bounded(bytes_max, || record(key, Some(value).filter(|value| !value.is_empty())));
        }
        1 => {
            let bytes_max = COORDINATOR_BYTES_MAX + REQUEST_MEMORY_PER_BYTE * bytes.len();
            bounded(bytes_max, || conversation(Input::new(bytes)));
        }
        _ => {
            let Some((version, body)) = bytes.split_first() else { return };
            let version = chosen(ApiKey::FindCoordinator, *version);
            let body = Bytes::copy_from_slice(body);
            bounded(BASE_BYTES + REQUEST_MEMORY_PER_BYTE * bytes.len(), || {
                let node = Node { id: 1, host: "h".to_owned(), port: 9092 };
                let _ = find_coordinator(version, body, 50, |partition| {
                    assert!((0..50).contains(&partition));
                    if partition % 2 == 0 { Ok(node.clone()) } else { Err(15) }
                });
            });
        }
    }
}

fn chosen(key: ApiKey, byte: u8) -> i16 {
    let declaration = key.declaration();
    declaration.version_min + i16::from(byte) % (declaration.version_max - declaration.version_min + 1)
}

fn record(key: &[u8], value: Option<&[u8]>) {
    let mut coordinator = Coordinator::new(GroupConfig::default());
    let loaded = coordinator.load(key, value);
    let Ok(Some(record)) = Record::decode(key, value) else { return };
    loaded.expect("what can be decoded can be loaded");
    let (key, value) = record.encode();
    assert_eq!(Record::decode(&key, value.as_deref()), Ok(Some(record)));
    let cluster = ClusterImage::new();
    coordinator.loaded(Moment { now: now(0), cluster: &cluster });
    // A record that is read back from what was loaded gives the same state.
    let mut again = Coordinator::new(GroupConfig::default());
    for record in coordinator.snapshot() {
        let (key, value) = record.encode();
        again.load(&key, value.as_deref()).expect("we wrote it");
    }
    assert_eq!(again.snapshot(), coordinator.snapshot());
    let far = Now { elapsed: Duration::from_secs(1 << 32), unix_ms: i64::MAX };
    coordinator.expire(Moment { now: far, cluster: &cluster }, &mut Vec::new());
}

fn now(seconds: u64) -> Now {
    Now { elapsed: Duration::from_secs(seconds), unix_ms: 1_700_000_000_000 + seconds as i64 * 1000 }
}

/// Two topics to be assigned.
fn cluster() -> ClusterImage {
    let mut cluster = ClusterImage::new();
    for (id, name) in [(1, requests::TOPIC), (2, "other")] {
        let topic_id = TopicId([id; 16]);
        cluster.replay(&MetadataRecord::Topic { topic_id, name: name.to_owned() });
        for partition in 0..2 {
            let state =
                Partition { replicas: [1].into(), isr: [1].into(), leader: 1, leader_epoch: 0, partition_epoch: 0 };
            cluster.replay(&MetadataRecord::Partition { topic_id, partition, state });
        }
    }
    cluster
}

/// Requests to one coordinator that leads all partitions. Each is answered once, if only because it resigns at the end.
fn conversation(mut input: Input<'_>) {
    let mut coordinator = Coordinator::new(GroupConfig::default());
    for _ in 0..input.byte() % 4 {
        let (key, value) = (input.piece(), input.piece());
        let _ = coordinator.load(key, Some(value));
    }
    let cluster = cluster();
    let at = |seconds| Moment { now: now(seconds), cluster: &cluster };
    coordinator.loaded(at(0));
    let keys = keys();
    let client = ClientInfo { client_id: "c".into(), client_host: "/127.0.0.1".into() };
    let (mut asked, mut answered, mut seconds) = (0u64, 0, 0);
    for _ in 0..REQUESTS_MAX {
        if input.is_empty() {
            break;
        }
        let choice = input.byte();
        let api_key = keys[usize::from(choice & 15) % keys.len()];
        let version = chosen(api_key, input.byte());
        let body = Bytes::copy_from_slice(input.piece());
        let Handler::Group(api) = api_key.handler() else { continue };
        let Ok(mut request) = GroupRequest::decode(api, version, body) else { continue };
        request.refuse_unknown_partitions(|topic, partition| topic == requests::TOPIC && (0..2).contains(&partition));
        drop(request.error_reply(16));
        let mut effects = Vec::new();
        // Parts go to the same coordinator here, and their responses are put together.
        let whole = match route(request, 50) {
            Route::One(partition, request) => {
                assert!((0..50).contains(&partition));
                asked += 1;
                coordinator.handle(at(seconds), request, RequestRef(asked), &client, asked, &mut effects);
                None
            }
            Route::All(request) => Some((request.clone(), vec![(0, request)])),
            Route::Parts(whole, parts) => Some((whole, parts)),
        };
        let mut bodies = Vec::new();
        for (_, part) in whole.iter().flat_map(|(_, parts)| parts) {
            asked += 1;
            coordinator.handle(at(seconds), part.clone(), RequestRef(asked), &client, asked, &mut effects);
        }
        answered += settle(&mut coordinator, at(seconds), &mut effects, choice & 16 == 0, &mut bodies);
        if let Some((whole, parts)) = whole
            && bodies.len() == parts.len()
            && !matches!(whole.kind, RequestKind::Join(_))
        {
            merge(&whole, bodies).expect("responses of ours");
        }
        seconds += u64::from(choice >> 5);
        coordinator.expire(at(seconds), &mut effects);
        answered += settle(&mut coordinator, at(seconds), &mut effects, true, &mut Vec::new());
    }
    let mut effects = Vec::new();
    coordinator.resign(now(seconds), &mut effects);
    answered += effects.iter().filter(|effect| matches!(effect, GroupEffect::Reply { .. })).count() as u64;
    assert_eq!(answered, asked, "every request gets one reply");
    assert_eq!(coordinator.writes_under_way(), 0);
}

/// Ends writes until there are none, and returns how many replies there were. Records that are written can be read.
fn settle(
    coordinator: &mut Coordinator,
    moment: Moment<'_>,
    effects: &mut Vec<GroupEffect>,
    well: bool,
    bodies: &mut Vec<Bytes>,
) -> u64 {
    let mut replies = 0;
    while !effects.is_empty() {
        for effect in std::mem::take(effects) {
            match effect {
                GroupEffect::Reply { body, .. } => {
                    replies += 1;
                    bodies.push(body);
                }
                GroupEffect::Write { write, records } => {
                    for (key, value) in records {
                        let record =
                            Record::decode(&key, value.as_deref()).expect("we wrote it").expect("a known kind");
                        assert_eq!(record.encode(), (key, value));
                    }
                    if well {
                        coordinator.committed(moment, write, effects);
                    } else {
                        coordinator.write_failed(moment, write, 56, effects);
                    }
                }
            }
        }
    }
    replies
}

/// The records of a consumer group with a member.
fn consumer_records() -> Vec<Record> {
    let cluster = cluster();
    let moment = Moment { now: now(0), cluster: &cluster };
    let mut coordinator = Coordinator::new(GroupConfig::default());
    coordinator.loaded(moment);
    let body = requests::sample(ApiKey::ConsumerGroupHeartbeat, 1);
    let request = GroupRequest::decode(GroupApi::ConsumerGroupHeartbeat, 1, body.into()).expect("a good request");
    let client = ClientInfo { client_id: "c".into(), client_host: "/127.0.0.1".into() };
    let mut effects = Vec::new();
    coordinator.handle(moment, request, RequestRef(1), &client, 1, &mut effects);
    settle(&mut coordinator, moment, &mut effects, true, &mut Vec::new());
    coordinator.expire(moment, &mut effects);
    settle(&mut coordinator, moment, &mut effects, true, &mut Vec::new());
    coordinator.snapshot()
}

fn seeds() -> Vec<Vec<u8>> {
    let member = MemberMetadata {
        member_id: "member".into(),
        instance_id: Some("i".into()),
        client_id: "c".into(),
        client_host: "/127.0.0.1".into(),
        rebalance_timeout_ms: 10_000,
        session_timeout_ms: 10_000,
        subscription: requests::subscription(),
        assignment: requests::subscription(),
    };
    let group = GroupMetadata {
        protocol_type: "consumer".into(),
        generation: 1,
        protocol: Some("range".into()),
        leader: Some("member".into()),
        state_since_ms: Some(5),
        members: vec![member],
    };
    let offset = CommittedOffset {
        offset: 7,
        leader_epoch: 0,
        metadata: "m".into(),
        commit_timestamp_ms: 5,
        expire_timestamp_ms: None,
    };
    let expiring = CommittedOffset { expire_timestamp_ms: Some(6), leader_epoch: -1, ..offset.clone() };
    let group = Record::GroupMetadata { group: requests::GROUP.into(), value: Some(group) };
    let commit = |value| Record::OffsetCommit {
        group: requests::GROUP.into(),
        topic: requests::TOPIC.into(),
        partition: 0,
        value,
    };
    let mut seeds = Vec::new();
    for record in [group.clone(), commit(Some(offset.clone())), commit(Some(expiring)), commit(None)] {
        let (key, value) = record.encode();
        seeds.push([&[0], &piece(&key)[..], &value.unwrap_or_default()].concat());
    }
    let mut consumers = vec![1, 3];
    for record in consumer_records() {
        let (key, value) = record.encode();
        let value = value.expect("not a tombstone");
        seeds.push([&[0], &piece(&key)[..], &value].concat());
        consumers.extend(piece(&key));
        consumers.extend(piece(&value));
    }
    seeds.push(consumers);
    // A group that is loaded and then asked for everything, in the oldest and the newest versions.
    let mut loaded = vec![1, 2];
    for record in [group, commit(Some(offset))] {
        let (key, value) = record.encode();
        loaded.extend(piece(&key));
        loaded.extend(piece(&value.expect("not a tombstone")));
    }
    for newest in [false, true] {
        let mut everything = loaded.clone();
        let mut nothing = vec![1, 0];
        for (place, key) in (0u8..).zip(keys()) {
            let declaration = key.declaration();
            let version = if newest { declaration.version_max } else { declaration.version_min };
            let body = requests::sample(key, version);
            let request = [&[place, (version - declaration.version_min) as u8], &piece(&body)[..]].concat();
            everything.extend(&request);
            nothing.extend(&request);
        }
        seeds.push(everything);
        seeds.push(nothing);
    }
    for version in [0, 4] {
        seeds.push([&[2, version as u8], &requests::sample(ApiKey::FindCoordinator, version)[..]].concat());
    }
    seeds
}
