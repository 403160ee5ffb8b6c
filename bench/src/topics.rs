//! Topics: created, deleted, and who leads their partitions. A load talks to the leaders, as every client does.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes};

use crate::connection::{Connection, Target};
use crate::error::BenchError;
use crate::wire::{NONE, begin, finish, put_string, skip, skip_string};

const LIST_OFFSETS: (i16, i16) = (2, 4);
const METADATA: (i16, i16) = (3, 5);
const CREATE_TOPICS: (i16, i16) = (19, 2);
const DELETE_TOPICS: (i16, i16) = (20, 1);

const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
const LEADER_NOT_AVAILABLE: i16 = 5;
const NOT_LEADER_OR_FOLLOWER: i16 = 6;
const REQUEST_TIMED_OUT: i16 = 7;
const NOT_ENOUGH_REPLICAS: i16 = 19;
const NOT_ENOUGH_REPLICAS_AFTER_APPEND: i16 = 20;
const TOPIC_ALREADY_EXISTS: i16 = 36;

/// Times that stand for offsets in ListOffsets.
pub const LATEST: i64 = -1;
pub const EARLIEST: i64 = -2;

/// How long new partitions may take until they have leaders and all replicas are in sync, and deleted topics until they
/// are gone.
const SETTLE_MAX: Duration = Duration::from_secs(30);
/// How long to wait before asking again.
const SETTLE_STEP: Duration = Duration::from_millis(50);
/// How long the broker may take to create or delete a topic, in milliseconds.
const ADMIN_TIMEOUT_MS: i32 = 30_000;

/// A topic that a load needs.
pub struct Wanted<'a> {
    pub name: &'a str,
    pub partitions: i32,
    /// Of several, which brokers have them is not left to the cluster, so that it is the same in all that are compared:
    /// partition p is led by broker p of those there are, in turn, and the next ones follow.
    pub replicas: usize,
    pub configs: &'a [(String, String)],
}

/// Whether a broker answered that a partition is led by another one, by none yet, or has too few replicas in sync: what
/// clients try again.
pub fn has_moved(error: &BenchError) -> bool {
    matches!(
        error,
        BenchError::Broker(
            _,
            UNKNOWN_TOPIC_OR_PARTITION
                | LEADER_NOT_AVAILABLE
                | NOT_LEADER_OR_FOLLOWER
                | REQUEST_TIMED_OUT
                | NOT_ENOUGH_REPLICAS
                | NOT_ENOUGH_REPLICAS_AFTER_APPEND
        )
    )
}

/// Creates the topic if it is missing, and waits until all its partitions have leaders that answer and, of those wanted,
/// every replica in sync. Returns the address of each partition's leader.
///
/// For a while after the creation brokers answer that they do not know the topic or do not lead its partitions.
pub fn ensure(target: &Target, wanted: &Wanted) -> Result<Vec<String>, BenchError> {
    let mut connection = Connection::open(target)?;
    let topic = wanted.name;
    let mut brokers = described(&connection.call(metadata(topic))?)?.brokers;
    brokers.sort();
    if brokers.len() < wanted.replicas {
        let (there, wanted) = (brokers.len(), wanted.replicas);
        return Err(BenchError::Options(format!("{wanted} replicas are wanted, and the cluster has {there} brokers")));
    }
    let ids: Vec<i32> = brokers.into_iter().map(|(id, _)| id).collect();
    let response = connection.call(create(wanted, &ids))?;
    match topic_error(&response, 12)? {
        NONE | TOPIC_ALREADY_EXISTS => {}
        error => return Err(BenchError::Broker("creating the topic", error)),
    }
    let leaders = settle(|| {
        let described = described(&connection.call(metadata(topic))?)?;
        let leaders = described.leaders()?;
        // What producing with `min.insync.replicas` would be answered.
        if described.partitions.iter().any(|partition| partition.in_sync < partition.replicas) {
            return Err(BenchError::Broker("a partition with replicas that are not in sync", NOT_ENOUGH_REPLICAS));
        }
        Ok(leaders)
    })?;
    if leaders.len() < wanted.partitions as usize {
        let (topic, found) = (topic.to_string(), leaders.len() as i32);
        return Err(BenchError::Partitions { topic, wanted: wanted.partitions, found });
    }
    settle(|| offsets(target, topic, &leaders, LATEST).map(drop))?;
    Ok(leaders)
}

/// Deletes the topic and waits until it is gone.
pub fn delete(target: &Target, topic: &str) -> Result<(), BenchError> {
    let mut connection = Connection::open(target)?;
    let mut request = begin(DELETE_TOPICS, 0);
    request.put_i32(1);
    put_string(&mut request, topic);
    request.put_i32(ADMIN_TIMEOUT_MS);
    let response = connection.call(finish(request))?;
    match topic_error(&response, 12)? {
        NONE | UNKNOWN_TOPIC_OR_PARTITION => {}
        error => return Err(BenchError::Broker("deleting the topic", error)),
    }
    let asked = Instant::now();
    while described(&connection.call(metadata(topic))?)?.error != UNKNOWN_TOPIC_OR_PARTITION {
        if asked.elapsed() > SETTLE_MAX {
            return Err(BenchError::Response(format!("topic {topic} is still there after it was deleted")));
        }
        std::thread::sleep(SETTLE_STEP);
    }
    Ok(())
}

/// The address of the leader of each partition; waits until all have one.
pub fn leaders(target: &Target, topic: &str) -> Result<Vec<String>, BenchError> {
    let mut connection = Connection::open(target)?;
    settle(|| described(&connection.call(metadata(topic))?)?.leaders())
}

/// The offset of each partition that `time` names, asked of their leaders.
pub fn offsets(target: &Target, topic: &str, leaders: &[String], time: i64) -> Result<Vec<i64>, BenchError> {
    let mut offsets = HashMap::new();
    for (leader, partitions) in by_leader(leaders, (0..leaders.len() as i32).collect()) {
        let mut connection = Connection::open(&target.at(&leader))?;
        offsets.extend(listed(&connection.call(list_offsets(topic, &partitions, time))?)?);
    }
    let all = (0..leaders.len() as i32).map(|partition| offsets.get(&partition).copied()).collect::<Option<_>>();
    all.ok_or_else(|| BenchError::Response(format!("not every partition of topic {topic} was answered")))
}

/// Waits until the broker knows so many brokers that take requests, itself included.
pub fn await_brokers(target: &Target, count: usize, wait_max: Duration) -> Result<(), BenchError> {
    let mut connection = Connection::open(target)?;
    let begun = Instant::now();
    loop {
        let there = described(&connection.call(metadata(""))?)?.brokers.len();
        if there >= count {
            return Ok(());
        }
        if begun.elapsed() > wait_max {
            return Err(BenchError::Response(format!("{} knows {there} brokers of {count}", target.address)));
        }
        std::thread::sleep(SETTLE_STEP);
    }
}

/// Groups partitions by who leads them, in the order in which the leaders first come.
pub fn by_leader(leaders: &[String], partitions: Vec<i32>) -> Vec<(String, Vec<i32>)> {
    let mut groups: Vec<(String, Vec<i32>)> = Vec::new();
    for partition in partitions {
        let leader = &leaders[partition as usize];
        match groups.iter_mut().find(|(address, _)| address == leader) {
            Some((_, led)) => led.push(partition),
            None => groups.push((leader.clone(), vec![partition])),
        }
    }
    groups
}

/// Tries again while the cluster is about to change.
fn settle<T>(mut attempt: impl FnMut() -> Result<T, BenchError>) -> Result<T, BenchError> {
    let begun = Instant::now();
    loop {
        match attempt() {
            Err(error) if has_moved(&error) && begun.elapsed() < SETTLE_MAX => std::thread::sleep(SETTLE_STEP),
            settled => return settled,
        }
    }
}

fn create(wanted: &Wanted, brokers: &[i32]) -> Bytes {
    let mut request = begin(CREATE_TOPICS, 0);
    request.put_i32(1);
    put_string(&mut request, wanted.name);
    if wanted.replicas == 1 {
        request.put_i32(wanted.partitions);
        request.put_i16(1);
        request.put_i32(0);
    } else {
        request.put_i32(-1);
        request.put_i16(-1);
        request.put_i32(wanted.partitions);
        for partition in 0..wanted.partitions {
            request.put_i32(partition);
            request.put_i32(wanted.replicas as i32);
            let next = brokers.iter().cycle().skip(partition as usize % brokers.len());
            next.take(wanted.replicas).for_each(|broker| request.put_i32(*broker));
        }
    }
    request.put_i32(wanted.configs.len() as i32);
    for (name, value) in wanted.configs {
        put_string(&mut request, name);
        put_string(&mut request, value);
    }
    request.put_i32(ADMIN_TIMEOUT_MS);
    request.put_u8(0);
    finish(request)
}

/// The error of the one topic in an answer about topics, whose name begins at `from`.
fn topic_error(mut response: &[u8], from: usize) -> Result<i16, BenchError> {
    skip(&mut response, from)?;
    skip_string(&mut response)?;
    Ok(response.try_get_i16()?)
}

/// Asks about one topic; about none when it has no name.
fn metadata(topic: &str) -> Bytes {
    let mut request = begin(METADATA, 0);
    if topic.is_empty() {
        request.put_i32(0);
    } else {
        request.put_i32(1);
        put_string(&mut request, topic);
    }
    request.put_u8(0);
    finish(request)
}

/// What a metadata response says of the cluster and of one topic, or none.
#[derive(Debug)]
struct Described {
    /// Number and address.
    brokers: Vec<(i32, String)>,
    /// Of the topic.
    error: i16,
    partitions: Vec<Partition>,
}

#[derive(Debug)]
struct Partition {
    error: i16,
    index: i32,
    leader: i32,
    replicas: usize,
    in_sync: usize,
}

impl Described {
    /// The address of each partition's leader; an error when one has none.
    fn leaders(&self) -> Result<Vec<String>, BenchError> {
        if self.error != NONE {
            return Err(BenchError::Broker("describing the topic", self.error));
        }
        let mut leaders = vec![String::new(); self.partitions.len()];
        for partition in &self.partitions {
            if ![NONE, LEADER_NOT_AVAILABLE].contains(&partition.error) {
                return Err(BenchError::Broker("a partition", partition.error));
            }
            let leader = self.brokers.iter().find(|(id, _)| *id == partition.leader);
            let (_, address) = leader.ok_or(BenchError::Broker("a partition", LEADER_NOT_AVAILABLE))?;
            let place = usize::try_from(partition.index).ok().and_then(|index| leaders.get_mut(index));
            *place.ok_or_else(|| BenchError::Response("partitions are not numbered from 0 on".to_string()))? =
                address.clone();
        }
        Ok(leaders)
    }
}

fn described(mut response: &[u8]) -> Result<Described, BenchError> {
    skip(&mut response, 8)?;
    let mut described = Described { brokers: Vec::new(), error: NONE, partitions: Vec::new() };
    for _ in 0..response.try_get_i32()? {
        let id = response.try_get_i32()?;
        let length = response.try_get_i16()?.max(0) as usize;
        let (host, rest) = response.split_at_checked(length).ok_or(BenchError::Truncated)?;
        response = rest;
        let port = response.try_get_i32()?;
        described.brokers.push((id, format!("{}:{port}", String::from_utf8_lossy(host))));
        skip_string(&mut response)?;
    }
    skip_string(&mut response)?;
    skip(&mut response, 4)?;
    if response.try_get_i32()? == 0 {
        return Ok(described);
    }
    described.error = response.try_get_i16()?;
    skip_string(&mut response)?;
    skip(&mut response, 1)?;
    for _ in 0..response.try_get_i32()? {
        let (error, index) = (response.try_get_i16()?, response.try_get_i32()?);
        let leader = response.try_get_i32()?;
        let (replicas, in_sync) = (skip_numbers(&mut response)?, skip_numbers(&mut response)?);
        let _offline = skip_numbers(&mut response)?;
        described.partitions.push(Partition { error, index, leader, replicas, in_sync });
    }
    Ok(described)
}

/// Skips an array of 32-bit numbers; returns how many there are.
fn skip_numbers(response: &mut &[u8]) -> Result<usize, BenchError> {
    let count = response.try_get_i32()?.max(0) as usize;
    skip(response, count.saturating_mul(4))?;
    Ok(count)
}

fn list_offsets(topic: &str, partitions: &[i32], time: i64) -> Bytes {
    let mut request = begin(LIST_OFFSETS, 0);
    request.put_i32(-1);
    request.put_u8(0);
    request.put_i32(1);
    put_string(&mut request, topic);
    request.put_i32(partitions.len() as i32);
    for &partition in partitions {
        request.put_i32(partition);
        request.put_i32(-1);
        request.put_i64(time);
    }
    finish(request)
}

/// The offset of each partition in an answer about one topic.
fn listed(mut response: &[u8]) -> Result<HashMap<i32, i64>, BenchError> {
    let mut offsets = HashMap::new();
    skip(&mut response, 12)?;
    skip_string(&mut response)?;
    for _ in 0..response.try_get_i32()? {
        let partition = response.try_get_i32()?;
        let error = response.try_get_i16()?;
        if error != NONE {
            return Err(BenchError::Broker("listing offsets", error));
        }
        skip(&mut response, 8)?;
        offsets.insert(partition, response.try_get_i64()?);
        skip(&mut response, 4)?;
    }
    Ok(offsets)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;

    /// Of brokers 1 to 3; partitions come last first.
    fn metadata_response(leaders: &[i32], in_sync: usize) -> Vec<u8> {
        let mut response = BytesMut::new();
        response.put_i64(0);
        response.put_i32(3);
        for id in 1..=3 {
            response.put_i32(id);
            put_string(&mut response, "localhost");
            response.put_i32(9092 + id);
            response.put_i16(-1);
        }
        put_string(&mut response, "cluster");
        response.put_i32(1);
        response.put_i32(1);
        response.put_i16(0);
        put_string(&mut response, "topic");
        response.put_u8(0);
        response.put_i32(leaders.len() as i32);
        for (partition, &leader) in leaders.iter().enumerate().rev() {
            response.put_i16(0);
            response.put_i32(partition as i32);
            response.put_i32(leader);
            for numbers in [3, in_sync, 0] {
                response.put_i32(numbers as i32);
                (0..numbers).for_each(|number| response.put_i32(number as i32 + 1));
            }
        }
        response.to_vec()
    }

    #[test]
    fn leaders_are_found_by_partition_whatever_their_order() {
        let described = described(&metadata_response(&[3, 1], 2)).unwrap();
        assert_eq!(described.leaders().unwrap(), ["localhost:9095", "localhost:9093"]);
        assert!(described.partitions.iter().all(|partition| (partition.replicas, partition.in_sync) == (3, 2)));
    }

    /// Neither one that has none, nor one whose leader nobody can reach.
    #[test]
    fn a_partition_without_a_leader_is_noticed() {
        for leaders in [[1, -1], [1, 4]] {
            let described = described(&metadata_response(&leaders, 3)).unwrap();
            assert!(matches!(described.leaders(), Err(BenchError::Broker(_, LEADER_NOT_AVAILABLE))));
        }
    }

    #[test]
    fn requests_say_their_own_length() {
        let configs = [("flush.messages".to_string(), "1".to_string())];
        let wanted = |replicas| Wanted { name: "topic", partitions: 4, replicas, configs: &configs };
        for request in [
            create(&wanted(1), &[1, 2, 3]),
            create(&wanted(3), &[1, 2, 3]),
            metadata("topic"),
            metadata(""),
            list_offsets("topic", &[0, 1], LATEST),
        ] {
            assert_eq!((&request[..4]).get_i32() as usize + 4, request.len());
        }
    }

    /// Each broker leads in turn, and the next ones follow.
    #[test]
    fn replicas_are_laid_out_in_turn() {
        let request = create(&Wanted { name: "t", partitions: 4, replicas: 2, configs: &[] }, &[7, 8, 9]);
        let numbers = |of: [i32; 4]| of.into_iter().flat_map(i32::to_be_bytes).collect::<Vec<u8>>();
        for layout in [[0, 2, 7, 8], [1, 2, 8, 9], [2, 2, 9, 7], [3, 2, 7, 8]] {
            let found = request.windows(16).filter(|bytes| *bytes == numbers(layout)).count();
            assert_eq!(found, 1, "{layout:?}");
        }
    }

    #[test]
    fn partitions_are_grouped_by_leader() {
        let leaders = ["b", "a", "b"].map(str::to_string);
        let groups = by_leader(&leaders, vec![0, 1, 2]);
        assert_eq!(groups, [("b".to_string(), vec![0, 2]), ("a".to_string(), vec![1])]);
    }

    #[test]
    fn responses_that_end_too_early_are_errors_and_none_panics() {
        let metadata = metadata_response(&[1, 1], 3);
        for length in 0..metadata.len() {
            assert!(matches!(described(&metadata[..length]), Err(BenchError::Truncated)), "{length} bytes");
        }
        for fill in [0, 1, 0x7f, 0x80, 0xff] {
            for length in 0..120 {
                let bytes = vec![fill; length];
                let _ = (described(&bytes).map(|described| described.leaders()), listed(&bytes));
            }
        }
    }
}
