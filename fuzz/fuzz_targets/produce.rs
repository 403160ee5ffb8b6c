//! Produce requests of any version: what can be walked to its end can be answered.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use millstream::protocol::produce::{PartitionResult, ProduceRequest, VERSIONS, write_response};
use millstream::protocol::wire::{WireError, Writer};

/// The least a partition takes on the wire.
const PARTITION_BYTES_MIN: usize = 5;

fn partitions(request: &ProduceRequest) -> Result<usize, WireError> {
    let mut topics = request.topics();
    let mut partitions = 0;
    while topics.next_topic()?.is_some() {
        while topics.next_partition()?.is_some() {
            partitions += 1;
        }
    }
    Ok(partitions)
}

fuzz_target!(|data: &[u8]| {
    let Some((version, body)) = data.split_first() else { return };
    let version = VERSIONS.start() + i16::from(*version) % (VERSIONS.end() - VERSIONS.start() + 1);
    let Ok(request) = ProduceRequest::parse(Bytes::copy_from_slice(body), version) else { return };
    let Ok(partitions) = partitions(&request) else { return };
    assert!(partitions * PARTITION_BYTES_MIN <= body.len());
    let results = vec![PartitionResult::error(3); partitions];
    let mut writer = Writer::default();
    write_response(&mut writer, &request, &results, &[]);
});
