//! Produce and Fetch requests of every version, which are read in place: what can be walked to its end can be answered.
//! The first byte chooses the API, the second the version.

use bytes::Bytes;
use millstream::protocol::fetch::{self, FetchRequest, PartitionData};
use millstream::protocol::produce::{self, PartitionResult, ProduceRequest};
use millstream::protocol::versions::ApiKey;
use millstream::protocol::wire::{WireError, Writer};

use crate::Target;
use crate::memory::{BASE_BYTES, SHARING_BYTES, bounded};

pub const TARGET: Target = Target { name: "hot_path", run, seeds };

/// Reading takes nothing. A partition of 5 bytes (Produce) is answered with 38 and a result of 64; one of 16 bytes
/// (Fetch) with 46 and a result of 112; the vectors may have twice the room.
const MEMORY_PER_BYTE: usize = 48;
/// The least that a partition takes on the wire.
const PRODUCE_PARTITION_BYTES_MIN: usize = 5;
const FETCH_PARTITION_BYTES_MIN: usize = 16;

fn run(bytes: &[u8]) {
    let [choice, version, body @ ..] = bytes else { return };
    let body = Bytes::copy_from_slice(body);
    if choice & 1 == 0 {
        run_produce(chosen(*version, produce::VERSIONS), body);
    } else {
        run_fetch(chosen(*version, fetch::VERSIONS), body);
    }
}

fn chosen(byte: u8, versions: std::ops::RangeInclusive<i16>) -> i16 {
    versions.start() + i16::from(byte) % (versions.end() - versions.start() + 1)
}

fn run_produce(version: i16, body: Bytes) {
    let bytes = body.len();
    let parsed = bounded(SHARING_BYTES, || {
        let request = ProduceRequest::parse(body, version)?;
        let (mut topics, mut partitions) = (request.topics(), 0);
        while topics.next_topic()?.is_some() {
            while topics.next_partition()?.is_some() {
                partitions += 1;
            }
        }
        Ok::<_, WireError>((request, partitions))
    });
    let Ok((request, partitions)) = parsed else { return };
    assert!(partitions * PRODUCE_PARTITION_BYTES_MIN <= bytes);
    bounded(BASE_BYTES + MEMORY_PER_BYTE * bytes, || {
        let results = vec![PartitionResult::error(3); partitions];
        produce::write_response(&mut Writer::default(), &request, &results, &[], 0);
    });
}

fn run_fetch(version: i16, body: Bytes) {
    let bytes = body.len();
    let parsed = bounded(SHARING_BYTES, || {
        let request = FetchRequest::parse(body, version)?;
        let (mut topics, mut partitions) = (request.topics(), 0);
        while topics.next_topic()?.is_some() {
            while topics.next_partition()?.is_some() {
                partitions += 1;
            }
        }
        Ok::<_, WireError>((request, partitions))
    });
    let Ok((request, partitions)) = parsed else { return };
    assert!(partitions * FETCH_PARTITION_BYTES_MIN <= bytes);
    bounded(BASE_BYTES + MEMORY_PER_BYTE * bytes, || {
        let mut writer = Writer::default();
        writer.i32(0);
        let parts = fetch::response_parts(writer, &request, vec![PartitionData::error(3); partitions], &[], 0);
        assert_eq!(parts.len(), 1, "an error carries no records");
    });
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for (choice, key, versions) in [(0, ApiKey::Produce, produce::VERSIONS), (1, ApiKey::Fetch, fetch::VERSIONS)] {
        for (place, version) in (0u8..).zip(versions) {
            seeds.push([&[choice, place], &super::requests::sample(key, version)[..]].concat());
        }
    }
    seeds
}
