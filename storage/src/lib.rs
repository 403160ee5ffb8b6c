//! Millstream's storage engine: record batches as they came over the wire, one journal for each shard with group
//! commit over all its partitions, and segment files in Kafka's `.log` layout behind it.
//!
//! The crate is pure. [`ShardLog`] takes the time and finished disk operations as arguments and returns new disk
//! operations as data ([`DiskOp`]); it reads no clock, draws no random number and performs no I/O. The broker's driver
//! and the simulator execute the same operations. `docs/storage-format.md` describes every file.

#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod batch;
pub mod block;
pub mod bug;
pub mod checkpoint;
pub mod compaction;
pub mod crc;
pub mod disk;
pub mod epochs;
pub mod index;
pub mod journal;
pub mod partition_log;
pub mod partition_state;
pub mod producer;
#[cfg(any(test, feature = "testing"))]
pub mod random;
pub mod records;
pub mod recovery;
#[cfg(any(test, feature = "testing"))]
pub mod seeds;
pub mod segment;
pub mod shard_log;
mod tail;
#[cfg(test)]
mod testing;
pub mod validate;
mod walk;
mod zeros;

pub use disk::{BLOCK_BYTES, DiskError, DiskOp, DiskReply, DiskToken, FilePath};
pub use shard_log::ShardLog;

use std::time::Duration;

/// The time, as the driver read it once at the start of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Now {
    /// Since the process started; never goes back. For deadlines.
    pub elapsed: Duration,
    /// Milliseconds since the Unix epoch; may jump. For record timestamps and retention.
    pub unix_ms: i64,
}

/// A topic's identity for as long as it exists; a topic deleted and created again has another (KIP-516).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicId(pub [u8; 16]);

const BASE64_ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

impl TopicId {
    /// The URL-safe base64 text Kafka's tools print and that names the topic's directory: 22 characters.
    pub fn to_base64(self) -> String {
        let bits = u128::from_be_bytes(self.0);
        (0..22)
            .map(|digit| {
                // 22 digits of 6 bits are 132 bits: the last digit carries four zero bits at its end.
                let value = if digit == 21 { bits << 4 } else { bits >> (122 - 6 * digit) };
                char::from(BASE64_ALPHABET[(value & 63) as usize])
            })
            .collect()
    }

    /// What [`TopicId::to_base64`] made a text of; none for any other text.
    pub fn from_base64(text: &str) -> Option<TopicId> {
        let mut bits = 0u128;
        for (digit, byte) in text.bytes().enumerate() {
            let value = BASE64_ALPHABET.iter().position(|known| *known == byte)? as u128;
            bits = if digit < 21 { bits << 6 | value } else { bits << 2 | value >> 4 };
        }
        let id = TopicId(bits.to_be_bytes());
        (id.to_base64() == text).then_some(id)
    }
}

/// One partition of one topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionKey {
    /// The topic's identity.
    pub topic_id: TopicId,
    /// The partition's index within the topic, from 0.
    pub partition: i32,
}

impl PartitionKey {
    /// The shard that owns this partition when the process runs `shards` of them. Partitions of one topic are spread
    /// evenly; nothing depends on the placement surviving a change of `shards`.
    pub fn shard(&self, shards: usize) -> usize {
        let topic = crc32c::crc32c(&self.topic_id.0) as usize;
        topic.wrapping_add(self.partition as usize) % shards.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_what_kafka_prints() {
        // java: new Uuid(0x0123456789abcdefL, 0xfedcba9876543210L).toString()
        let id = TopicId(0x0123456789abcdef_fedcba9876543210u128.to_be_bytes());
        assert_eq!(id.to_base64(), "ASNFZ4mrze_-3LqYdlQyEA");
        assert_eq!(TopicId::from_base64("ASNFZ4mrze_-3LqYdlQyEA"), Some(id));
        for no_id in
            ["", "ASNFZ4mrze_-3LqYdlQyE", "ASNFZ4mrze_-3LqYdlQyEB", "ASNFZ4mrze_-3LqYdlQyEAA", "ASNFZ4mrze+-3LqYdlQyEA"]
        {
            assert_eq!(TopicId::from_base64(no_id), None, "{no_id}");
        }
    }

    #[test]
    fn partitions_of_a_topic_spread_over_the_shards() {
        let shards: Vec<usize> =
            (0..4).map(|partition| PartitionKey { topic_id: TopicId([7; 16]), partition }.shard(4)).collect();
        let mut sorted = shards.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 1, 2, 3]);
    }
}
