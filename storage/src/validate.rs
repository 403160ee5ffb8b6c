//! What a leader checks of a client's records before it appends them, in Kafka's order (KIP-98, KIP-467; the order is
//! that of `UnifiedLog.analyzeAndValidateRecords` and `LogValidator`).
//!
//! A compressed batch of a topic that is not compacted is not opened: its header and its checksum say all that the log
//! relies on, and opening it would cost ten times what everything else does. Its records' timestamps are judged by the
//! header's base and maximum.

use std::borrow::Cow;

use crate::batch::{
    BATCH_HEADER_BYTES, BatchError, BatchHeader, Batches, Codec, MAGIC, NO_PRODUCER_ID, NO_TIMESTAMP, TimestampType,
    verify_crc,
};
use crate::records::{OpenBatch, Record};

/// What a topic's configuration and the request say about the batches that may be appended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchRules {
    /// `max.message.bytes`: largest batch, compressed, header included.
    pub max_message_bytes: usize,
    /// `message.timestamp.before.max.ms`: how far a record's timestamp may lie behind the broker's clock.
    pub timestamp_before_max_ms: i64,
    /// `message.timestamp.after.max.ms`: how far it may lie ahead.
    pub timestamp_after_max_ms: i64,
    /// The broker's clock, milliseconds since the Unix epoch.
    pub now_ms: i64,
    /// `message.timestamp.type`; with LogAppendTime the client's timestamps do not matter.
    pub timestamp_type: TimestampType,
    /// `cleanup.policy` contains `compact`: every record needs a key.
    pub compacted: bool,
    /// The request's version knows zstd: Produce 7 or later (KIP-110).
    pub zstd_allowed: bool,
}

/// Kafka's errors for records that a leader does not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalError {
    /// CORRUPT_MESSAGE
    CorruptMessage,
    /// MESSAGE_TOO_LARGE
    MessageTooLarge,
    /// INVALID_RECORD
    InvalidRecord,
    /// INVALID_TIMESTAMP
    InvalidTimestamp,
    /// UNSUPPORTED_COMPRESSION_TYPE
    UnsupportedCompressionType,
}

/// Why a client's records are not taken. Nothing of them is appended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The partition's error code.
    pub error: RefusalError,
    /// One line for people: `error_message` (Produce 8, KIP-467).
    pub message: Cow<'static, str>,
    /// Index within the batch of the record at fault, if one is: `record_errors` (Produce 8, KIP-467).
    pub record_index: Option<i32>,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.message)
    }
}

impl std::error::Error for Refusal {}

impl Refusal {
    fn new(error: RefusalError, message: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { error, message: message.into(), record_index: None }
    }

    fn of_record(error: RefusalError, record_index: i32, message: impl Into<Cow<'static, str>>) -> Refusal {
        Refusal { error, message: message.into(), record_index: Some(record_index) }
    }
}

impl From<BatchError> for Refusal {
    fn from(error: BatchError) -> Refusal {
        let kind = match error {
            BatchError::Truncated | BatchError::Length(_) | BatchError::Crc { .. } | BatchError::Compression(_) => {
                RefusalError::CorruptMessage
            }
            BatchError::Magic(_) | BatchError::Record(_) => RefusalError::InvalidRecord,
            BatchError::UnknownCodec(_) => RefusalError::UnsupportedCompressionType,
            BatchError::TooLarge => RefusalError::MessageTooLarge,
        };
        Refusal::new(kind, error.to_string())
    }
}

/// Checks what a client sent for one partition: exactly one batch, of version 2, that obeys the rules. Whoever appends
/// may rely on everything the header says but for the maximum timestamp of a compressed batch.
pub fn validate_client_batches(bytes: &[u8], rules: &BatchRules) -> Result<(), Refusal> {
    let (header, batch) = only_batch(bytes)?;
    let codec = header.codec()?;
    if codec == Codec::Zstd && !rules.zstd_allowed {
        return Err(Refusal::new(
            RefusalError::UnsupportedCompressionType,
            "Produce requests below version 7 may not use zstd",
        ));
    }
    if header.base_offset() != 0 {
        return Err(Refusal::new(RefusalError::InvalidRecord, "The base offset of a batch from a client must be 0"));
    }
    if batch.len() > rules.max_message_bytes {
        return Err(Refusal::new(
            RefusalError::MessageTooLarge,
            format!(
                "The record batch has {} bytes, more than the {} that max.message.bytes allows",
                batch.len(),
                rules.max_message_bytes
            ),
        ));
    }
    verify_crc(batch)?;
    check_header(header)?;
    check_header_timestamps(header, rules)?;
    if codec == Codec::None || rules.compacted {
        check_records(batch, rules)?;
    }
    Ok(())
}

fn only_batch(bytes: &[u8]) -> Result<(&BatchHeader, &[u8]), Refusal> {
    const EXACTLY_ONE: &str = "A produce request must have exactly one record batch per partition";
    // Old versions have their magic at the same place, but a shorter header.
    if let Some(magic) = bytes.get(16).map(|byte| *byte as i8)
        && magic != MAGIC
    {
        return Err(BatchError::Magic(magic).into());
    }
    let mut batches = Batches::new(bytes);
    let first = batches.next().ok_or_else(|| Refusal::new(RefusalError::InvalidRecord, EXACTLY_ONE))??;
    if batches.rest().is_empty() { Ok(first) } else { Err(Refusal::new(RefusalError::InvalidRecord, EXACTLY_ONE)) }
}

fn check_header(header: &BatchHeader) -> Result<(), Refusal> {
    let invalid = |message: &'static str| Err(Refusal::new(RefusalError::InvalidRecord, message));
    if header.record_count() <= 0 || header.last_offset_delta() < 0 {
        return invalid("The record batch has no records");
    }
    if header.record_count() - 1 != header.last_offset_delta() {
        return invalid("The record batch's count and last offset delta disagree");
    }
    if header.is_control() {
        return invalid("Clients may not write control records");
    }
    if header.unknown_attributes() != 0 || header.has_delete_horizon() {
        return invalid("The record batch has attributes that a client may not set");
    }
    if header.producer_id() < NO_PRODUCER_ID {
        return invalid("The producer id is negative");
    }
    if header.producer_id() != NO_PRODUCER_ID {
        if header.base_sequence() < 0 {
            return invalid("The sequence number of a batch with a producer id is negative");
        }
        if header.producer_epoch() < 0 {
            return invalid("The producer epoch of a batch with a producer id is negative");
        }
    } else if header.is_transactional() {
        return invalid("A transactional batch needs a producer id");
    }
    Ok(())
}

fn check_header_timestamps(header: &BatchHeader, rules: &BatchRules) -> Result<(), Refusal> {
    if header.timestamp_type() == TimestampType::LogAppendTime {
        return Err(Refusal::new(
            RefusalError::InvalidTimestamp,
            "Producers may not set the timestamp type to LogAppendTime",
        ));
    }
    check_timestamp(header.base_timestamp(), rules)
        .and_then(|()| check_timestamp(header.max_timestamp(), rules))
        .map_err(|message| Refusal::new(RefusalError::InvalidTimestamp, message))
}

fn check_timestamp(timestamp: i64, rules: &BatchRules) -> Result<(), String> {
    if rules.timestamp_type == TimestampType::LogAppendTime || timestamp == NO_TIMESTAMP {
        return Ok(());
    }
    let earliest = rules.now_ms.saturating_sub(rules.timestamp_before_max_ms);
    let latest = rules.now_ms.saturating_add(rules.timestamp_after_max_ms);
    if (earliest..=latest).contains(&timestamp) {
        Ok(())
    } else {
        Err(format!("Timestamp {timestamp} is out of range: it must lie between {earliest} and {latest}"))
    }
}

fn check_records(batch: &[u8], rules: &BatchRules) -> Result<(), Refusal> {
    let open = OpenBatch::new(batch)?;
    let mut expected = 0;
    for record in open.records() {
        let record = record.map_err(|error| Refusal { record_index: Some(expected), ..Refusal::from(error) })?;
        check_record(&record, expected, open.timestamp(&record), rules)?;
        expected += 1;
    }
    // The walk ends early only with an error, so the count was right.
    debug_assert_eq!(expected, open.header.record_count());
    Ok(())
}

fn check_record(record: &Record<'_>, index: i32, timestamp: i64, rules: &BatchRules) -> Result<(), Refusal> {
    if record.offset_delta != index {
        return Err(Refusal::of_record(
            RefusalError::InvalidRecord,
            index,
            "The offsets within the record batch are not consecutive",
        ));
    }
    if rules.compacted && record.key.is_none() {
        return Err(Refusal::of_record(
            RefusalError::InvalidRecord,
            index,
            "A compacted topic does not take a record without a key",
        ));
    }
    check_timestamp(timestamp, rules)
        .map_err(|message| Refusal::of_record(RefusalError::InvalidTimestamp, index, message))
}

const _: () = assert!(BATCH_HEADER_BYTES > 17, "the magic lies in the header");

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{BatchBuilder, seal};
    use crate::records::recode;

    const NOW_MS: i64 = 1_700_000_000_000;

    fn rules() -> BatchRules {
        BatchRules {
            max_message_bytes: 1_048_588,
            timestamp_before_max_ms: i64::MAX,
            timestamp_after_max_ms: 3_600_000,
            now_ms: NOW_MS,
            timestamp_type: TimestampType::CreateTime,
            compacted: false,
            zstd_allowed: true,
        }
    }

    fn batch() -> Vec<u8> {
        BatchBuilder::new()
            .producer(7, 0, 0)
            .record(NOW_MS, Some(b"a"), Some(b"1"), &[])
            .record(NOW_MS + 1, None, Some(b"2"), &[("h", None)])
            .build()
    }

    fn refused(bytes: &[u8], rules: &BatchRules) -> (RefusalError, Option<i32>) {
        let refusal = validate_client_batches(bytes, rules).expect_err("must be refused");
        (refusal.error, refusal.record_index)
    }

    /// Changes bytes of a good batch, makes the checksum right again, and says how it is refused.
    fn changed(position: usize, bytes: &[u8]) -> (RefusalError, Option<i32>) {
        let mut batch = batch();
        batch[position..position + bytes.len()].copy_from_slice(bytes);
        seal(&mut batch);
        refused(&batch, &rules())
    }

    #[test]
    fn a_good_batch_is_taken_with_every_codec() {
        validate_client_batches(&batch(), &rules()).unwrap();
        for codec in [Codec::Gzip, Codec::Snappy, Codec::Lz4, Codec::Zstd] {
            let batch = recode(&batch(), codec, None).unwrap();
            validate_client_batches(&batch, &rules()).unwrap();
        }
    }

    #[test]
    fn exactly_one_batch() {
        let invalid = (RefusalError::InvalidRecord, None);
        assert_eq!(refused(&[], &rules()), invalid);
        assert_eq!(refused(&[batch(), batch()].concat(), &rules()), invalid);
        assert_eq!(refused(&[batch(), vec![0]].concat(), &rules()), invalid);
        let mut old = batch();
        old[16] = 1;
        assert_eq!(refused(&old, &rules()), invalid);
        let whole = batch();
        let cut = &whole[..whole.len() - 1];
        assert_eq!(refused(cut, &rules()), (RefusalError::CorruptMessage, None));
        assert_eq!(refused(&whole[..30], &rules()), (RefusalError::CorruptMessage, None));
    }

    #[test]
    fn the_header_is_checked() {
        let invalid = (RefusalError::InvalidRecord, None);
        assert_eq!(changed(0, &1i64.to_be_bytes()), invalid, "base offset");
        assert_eq!(changed(57, &3i32.to_be_bytes()), invalid, "count of 3, last offset delta 1");
        assert_eq!(changed(57, &0i32.to_be_bytes()), invalid, "no records");
        assert_eq!(changed(57, &i32::MIN.to_be_bytes()), invalid, "negative count");
        assert_eq!(changed(22, &[0x20]), invalid, "control");
        assert_eq!(changed(22, &[0x40]), invalid, "delete horizon");
        assert_eq!(changed(21, &[0x80]), invalid, "unknown attribute");
        assert_eq!(changed(53, &(-1i32).to_be_bytes()), invalid, "sequence");
        assert_eq!(changed(51, &(-1i16).to_be_bytes()), invalid, "epoch");
        assert_eq!(changed(43, &(-2i64).to_be_bytes()), invalid, "producer id");
        assert_eq!(changed(22, &[5]), (RefusalError::UnsupportedCompressionType, None));
        assert_eq!(changed(22, &[0x08]), (RefusalError::InvalidTimestamp, None));
        let mut damaged = batch();
        *damaged.last_mut().unwrap() ^= 1;
        assert_eq!(refused(&damaged, &rules()), (RefusalError::CorruptMessage, None));
    }

    #[test]
    fn zstd_needs_a_version_that_knows_it() {
        let batch = recode(&batch(), Codec::Zstd, None).unwrap();
        let rules = BatchRules { zstd_allowed: false, ..rules() };
        assert_eq!(refused(&batch, &rules), (RefusalError::UnsupportedCompressionType, None));
    }

    #[test]
    fn size_counts_the_whole_batch() {
        let batch = batch();
        let mut rules = rules();
        rules.max_message_bytes = batch.len();
        validate_client_batches(&batch, &rules).unwrap();
        rules.max_message_bytes -= 1;
        assert_eq!(refused(&batch, &rules), (RefusalError::MessageTooLarge, None));
    }

    #[test]
    fn compacted_topics_want_keys_even_inside_compressed_batches() {
        let rules = BatchRules { compacted: true, ..rules() };
        let keyless = (RefusalError::InvalidRecord, Some(1));
        assert_eq!(refused(&batch(), &rules), keyless);
        let lz4 = recode(&batch(), Codec::Lz4, None).unwrap();
        assert_eq!(refused(&lz4, &rules), keyless);
    }

    #[test]
    fn timestamps_have_bounds_unless_the_broker_sets_them() {
        let at = |timestamp| BatchBuilder::new().record(timestamp, None, None, &[]).build();
        validate_client_batches(&at(NOW_MS + 3_600_000), &rules()).unwrap();
        validate_client_batches(&at(NO_TIMESTAMP), &rules()).unwrap();
        validate_client_batches(&at(0), &rules()).unwrap();
        let late = at(NOW_MS + 3_600_001);
        assert_eq!(refused(&late, &rules()), (RefusalError::InvalidTimestamp, None));
        let stamped_here = BatchRules { timestamp_type: TimestampType::LogAppendTime, ..rules() };
        validate_client_batches(&late, &stamped_here).unwrap();
        let narrow = BatchRules { timestamp_before_max_ms: 10, ..rules() };
        validate_client_batches(&at(NOW_MS - 10), &narrow).unwrap();
        assert_eq!(refused(&at(NOW_MS - 11), &narrow), (RefusalError::InvalidTimestamp, None));
        // The header's two timestamps are fine, a record between them is not.
        let inside = BatchBuilder::new().record(NOW_MS, None, None, &[]).record(NOW_MS - 11, None, None, &[]).build();
        assert_eq!(refused(&inside, &narrow), (RefusalError::InvalidTimestamp, Some(1)));
    }

    #[test]
    fn records_must_fill_the_batch_exactly() {
        let mut batch = batch();
        // The second record's offset delta: after its length, attributes and one-byte timestamp delta.
        let second = BATCH_HEADER_BYTES + 1 + usize::from(batch[BATCH_HEADER_BYTES] >> 1);
        assert_eq!(batch[second + 3], 2, "zigzag of 1");
        batch[second + 3] = 4;
        seal(&mut batch);
        assert_eq!(refused(&batch, &rules()), (RefusalError::InvalidRecord, Some(1)));

        let mut one_less = super::tests::batch();
        one_less[57..61].copy_from_slice(&1i32.to_be_bytes());
        one_less[23..27].copy_from_slice(&0i32.to_be_bytes());
        seal(&mut one_less);
        assert_eq!(refused(&one_less, &rules()), (RefusalError::InvalidRecord, Some(1)));
    }
}
