//! The producer state of a partition: what it remembers of its idempotent producers (KIP-98, KIP-185), enough to recognise
//! a batch that was sent again, and to refuse one that would leave a gap. Kafka's `ProducerStateManager`; the snapshot of
//! it is in the checkpoint.
//!
//! For each producer id: its newest [`BATCHES_REMEMBERED`] batches below the offset up to which the log is committed, and all
//! above it, each with the epoch in which it was sent. What lies above may be truncated; then the producer is again as it was
//! before ([`ProducerStates::truncate`]). A producer that nothing is known of may begin with any sequence number (KIP-360):
//! its state may have expired. The log's start moving up is no reason to forget a producer; time is.

use std::collections::BTreeMap;

use crate::batch::{BatchHeader, NO_PRODUCER_ID, TimestampType, sequence_after};
use crate::bug::{Bug, is_planted};

/// A producer may have this many batches on their way to a partition, so as many may be sent again
/// (`max.in.flight.requests.per.connection` of an idempotent producer is at most 5).
pub const BATCHES_REMEMBERED: usize = 5;

/// Batches remembered of one producer, those that are not committed among them. A client that waits for acknowledgements has
/// far fewer on their way; of one that does not the oldest is forgotten, and a truncation that takes all that is left forgets
/// the producer.
pub const BATCHES_MAX: usize = 64;

/// Producers remembered in one partition. Above it the one that has been silent for the longest is forgotten: its next
/// batch is taken whatever its sequence number, as if its state had expired.
pub const PRODUCERS_MAX: usize = 5_000;

/// About what one remembered producer takes of memory, in bytes.
pub const PRODUCER_BYTES: usize = 320;

const VERSION: u8 = 2;
/// The version before truncation: a producer's batches are all of its newest epoch, and at most [`BATCHES_REMEMBERED`].
const ONE_EPOCH_VERSION: u8 = 1;

/// What to do with a producer's batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It follows what is known: append it, then [`ProducerStates::record`] it.
    Append,
    /// It is here already: answer as the first time.
    Duplicate {
        /// The offset that its first record was given.
        base_offset: i64,
        /// The offset that its last record was given.
        last_offset: i64,
        /// The broker's time in its records with LogAppendTime, else -1.
        log_append_time: i64,
    },
    /// Its sequence number does not follow the last one: OUT_OF_ORDER_SEQUENCE_NUMBER.
    OutOfOrderSequence,
    /// A newer epoch of this producer has been seen: INVALID_PRODUCER_EPOCH.
    InvalidProducerEpoch,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct RememberedBatch {
    base_offset: i64,
    log_append_time: i64,
    base_sequence: i32,
    last_offset_delta: i32,
    epoch: i16,
}

impl RememberedBatch {
    fn last_sequence(&self) -> i32 {
        sequence_after(self.base_sequence, self.last_offset_delta)
    }

    fn last_offset(&self) -> i64 {
        self.base_offset + i64::from(self.last_offset_delta)
    }

    /// Whether its offsets are possible, the one after its last among them, and its sequence numbers.
    fn is_sound(&self) -> bool {
        let end = self.base_offset.checked_add(i64::from(self.last_offset_delta) + 1);
        end.is_some() && self.base_offset >= 0 && self.base_sequence >= 0 && self.last_offset_delta >= 0
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Producer {
    /// When the last batch was recorded, by a clock of the process that does not jump.
    recorded_ms: i64,
    /// In the order of their offsets; never empty.
    batches: Vec<RememberedBatch>,
}

impl Producer {
    fn last(&self) -> &RememberedBatch {
        self.batches.last().expect("a producer is known by its batches")
    }

    /// Its newest epoch.
    fn epoch(&self) -> i16 {
        self.last().epoch
    }

    /// Those of its newest epoch.
    fn of_epoch(&self) -> impl Iterator<Item = &RememberedBatch> {
        let epoch = self.epoch();
        self.batches.iter().rev().take_while(move |batch| batch.epoch == epoch)
    }

    /// Adds a batch, and forgets those that neither a retry nor a truncation can name any more.
    fn push(&mut self, batch: RememberedBatch, committed: i64) {
        assert!(
            self.batches.last().is_none_or(|last| last.last_offset() < batch.base_offset),
            "batches are recorded in the order of their offsets"
        );
        let below = self.batches.partition_point(|batch| batch.base_offset < committed);
        let excess = below.saturating_sub(BATCHES_REMEMBERED).max((self.batches.len() + 1).saturating_sub(BATCHES_MAX));
        self.batches.drain(..excess);
        if self.batches.len() == self.batches.capacity() {
            self.batches.reserve_exact(BATCHES_REMEMBERED + 1);
        }
        self.batches.push(batch);
        assert!(self.batches.len() <= BATCHES_MAX, "the oldest batch was forgotten");
    }
}

/// What is shown of a producer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProducerView {
    /// The producer.
    pub producer_id: i64,
    /// Its newest epoch.
    pub epoch: i16,
    /// The sequence number of its last record.
    pub last_sequence: i32,
    /// When its last batch came, by the broker's clock; milliseconds.
    pub recorded_ms: i64,
}

/// The idempotent producers of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProducerStates {
    /// Boxed because a node of the map has room for eleven values, and most partitions have one or two producers.
    producers: BTreeMap<i64, Box<Producer>>,
}

impl ProducerStates {
    /// Nothing is known of any producer.
    pub fn new() -> ProducerStates {
        ProducerStates::default()
    }

    /// How many producers are remembered, at most [`PRODUCERS_MAX`].
    pub fn len(&self) -> usize {
        self.producers.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.producers.is_empty()
    }

    /// What is remembered of each producer, in the order of their ids.
    pub fn views(&self) -> impl Iterator<Item = ProducerView> + '_ {
        self.producers.iter().map(|(&producer_id, producer)| ProducerView {
            producer_id,
            epoch: producer.epoch(),
            last_sequence: producer.last().last_sequence(),
            recorded_ms: producer.recorded_ms,
        })
    }

    /// Judges a batch that a client sent. A batch without a producer id is always to be appended.
    pub fn check(&self, header: &BatchHeader) -> Verdict {
        if header.producer_id() == NO_PRODUCER_ID {
            return Verdict::Append;
        }
        let Some(producer) = self.producers.get(&header.producer_id()) else {
            return Verdict::Append;
        };
        let epoch = header.producer_epoch();
        if epoch < producer.epoch() {
            return Verdict::InvalidProducerEpoch;
        }
        if epoch > producer.epoch() {
            return if header.base_sequence() == 0 { Verdict::Append } else { Verdict::OutOfOrderSequence };
        }
        let duplicate = producer.of_epoch().find(|batch| {
            batch.base_sequence == header.base_sequence() && batch.last_offset_delta == header.last_offset_delta()
        });
        if let Some(batch) = duplicate {
            return Verdict::Duplicate {
                base_offset: batch.base_offset,
                last_offset: batch.last_offset(),
                log_append_time: batch.log_append_time,
            };
        }
        if header.base_sequence() == sequence_after(producer.last().last_sequence(), 1) {
            Verdict::Append
        } else {
            Verdict::OutOfOrderSequence
        }
    }

    /// Remembers a batch that was appended, its offset assigned; also while a log is replayed. `now_ms` is the broker's
    /// clock; a replay may give its own time, which only lets the state live longer. What lies below `committed` will not be
    /// truncated.
    pub fn record(&mut self, header: &BatchHeader, now_ms: i64, committed: i64) {
        if header.producer_id() == NO_PRODUCER_ID || header.is_control() {
            return;
        }
        let batch = RememberedBatch {
            base_offset: header.base_offset(),
            log_append_time: match header.timestamp_type() {
                TimestampType::LogAppendTime => header.max_timestamp(),
                TimestampType::CreateTime => -1,
            },
            base_sequence: header.base_sequence(),
            last_offset_delta: header.last_offset_delta(),
            epoch: header.producer_epoch(),
        };
        assert!(header.producer_id() >= 0 && batch.is_sound(), "a batch that was validated and has its offset");
        if let Some(producer) = self.producers.get_mut(&header.producer_id()) {
            producer.recorded_ms = now_ms;
            producer.push(batch, committed);
            return;
        }
        if self.producers.len() >= PRODUCERS_MAX {
            self.forget_oldest();
        }
        let mut producer = Producer { recorded_ms: now_ms, batches: Vec::new() };
        producer.push(batch, committed);
        self.producers.insert(header.producer_id(), Box::new(producer));
        assert!(self.producers.len() <= PRODUCERS_MAX, "the oldest producer was forgotten");
    }

    /// The log ends at `offset` from now on: each producer is again as it was when its last batch below was appended. (A batch
    /// that reaches above is gone even where a compaction has left nothing of it.) One of
    /// which nothing is left is forgotten: it began above, or the log was cut below what is committed and its earlier batches
    /// are not known any more.
    pub fn truncate(&mut self, offset: i64) {
        if is_planted(Bug::KeepCutProducers) {
            return;
        }
        self.producers.retain(|_, producer| {
            let kept = producer.batches.partition_point(|batch| batch.last_offset() < offset);
            producer.batches.truncate(kept);
            kept > 0
        });
        assert!(self.end_offset() <= offset, "what is cut is forgotten");
    }

    /// One past the last offset of the batches that are remembered; 0 if there are none.
    pub fn end_offset(&self) -> i64 {
        self.producers.values().map(|producer| producer.last().last_offset() + 1).max().unwrap_or(0)
    }

    /// Forgets the producer that was silent for the longest.
    pub fn forget_oldest(&mut self) {
        let oldest = self.producers.iter().min_by_key(|(_, producer)| producer.recorded_ms).map(|(id, _)| *id);
        if let Some(id) = oldest {
            self.producers.remove(&id);
        }
    }

    /// As if every producer had written at this time: after a restart nobody knows how long it took, nor whether the
    /// clock was right before it.
    pub fn refresh(&mut self, now_ms: i64) {
        self.producers.values_mut().for_each(|producer| producer.recorded_ms = now_ms);
    }

    /// Forgets the producers that have been silent for `expiration_ms` (`producer.id.expiration.ms`).
    pub fn expire(&mut self, now_ms: i64, expiration_ms: i64) {
        self.producers.retain(|_, producer| now_ms.saturating_sub(producer.recorded_ms) < expiration_ms);
    }

    /// Appends the state to `out`, for a checkpoint that carries the checksum and the partition's identity.
    pub fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.producers.len() <= PRODUCERS_MAX, "this would be refused when it is read");
        out.push(VERSION);
        out.extend_from_slice(&(self.producers.len() as u32).to_le_bytes());
        for (id, producer) in &self.producers {
            out.extend_from_slice(&id.to_le_bytes());
            out.extend_from_slice(&producer.recorded_ms.to_le_bytes());
            assert!(!producer.batches.is_empty(), "a producer is known by its batches");
            out.push(u8::try_from(producer.batches.len()).expect("few are remembered"));
            for batch in &producer.batches {
                out.extend_from_slice(&batch.base_offset.to_le_bytes());
                out.extend_from_slice(&batch.log_append_time.to_le_bytes());
                out.extend_from_slice(&batch.base_sequence.to_le_bytes());
                out.extend_from_slice(&batch.last_offset_delta.to_le_bytes());
                out.extend_from_slice(&batch.epoch.to_le_bytes());
            }
        }
    }

    /// Reads back what [`ProducerStates::encode`] wrote from the front of `bytes`, and moves past it; also what the version
    /// before wrote. None if the bytes are not such a state.
    pub fn decode(bytes: &mut &[u8]) -> Option<ProducerStates> {
        let rest = &mut *bytes;
        let [version] = take(rest)?;
        let batches_max = match version {
            ONE_EPOCH_VERSION => BATCHES_REMEMBERED,
            VERSION => BATCHES_MAX,
            _ => return None,
        };
        let count = usize::try_from(u32::from_le_bytes(take(rest)?)).ok()?;
        if count > PRODUCERS_MAX {
            return None;
        }
        let mut producers: BTreeMap<i64, Box<Producer>> = BTreeMap::new();
        for _ in 0..count {
            let id = i64::from_le_bytes(take(rest)?);
            let one_epoch = if version == ONE_EPOCH_VERSION { Some(i16::from_le_bytes(take(rest)?)) } else { None };
            let recorded_ms = i64::from_le_bytes(take(rest)?);
            let [count] = take(rest)?;
            if count == 0 || usize::from(count) > batches_max {
                return None;
            }
            let mut batches: Vec<RememberedBatch> = Vec::with_capacity(usize::from(count));
            for _ in 0..count {
                let batch = RememberedBatch {
                    base_offset: i64::from_le_bytes(take(rest)?),
                    log_append_time: i64::from_le_bytes(take(rest)?),
                    base_sequence: i32::from_le_bytes(take(rest)?),
                    last_offset_delta: i32::from_le_bytes(take(rest)?),
                    epoch: one_epoch.map_or_else(|| take(rest).map(i16::from_le_bytes), Some)?,
                };
                let follows = batches.last().is_none_or(|last| last.last_offset() < batch.base_offset);
                if !batch.is_sound() || !follows {
                    return None;
                }
                batches.push(batch);
            }
            let ascending = producers.last_key_value().is_none_or(|(last, _)| *last < id);
            if id < 0 || !ascending {
                return None;
            }
            producers.insert(id, Box::new(Producer { recorded_ms, batches }));
        }
        Some(ProducerStates { producers })
    }
}

fn take<const BYTES: usize>(from: &mut &[u8]) -> Option<[u8; BYTES]> {
    let (taken, rest) = from.split_first_chunk::<BYTES>()?;
    *from = rest;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::{BatchBuilder, assign};
    use crate::testing::{assert_survives_mutation, frozen, testdata};

    fn batch(id: i64, epoch: i16, sequence: i32, records: usize, offset: i64) -> Vec<u8> {
        let mut builder = BatchBuilder::new().producer(id, epoch, sequence);
        for _ in 0..records {
            builder = builder.record(1_000, None, Some(b"v"), &[]);
        }
        let mut bytes = builder.build();
        assign(&mut bytes, offset, 0, None);
        bytes
    }

    fn header(bytes: &[u8]) -> &BatchHeader {
        BatchHeader::read(bytes).unwrap()
    }

    /// Checks and, if it is to be appended, records.
    fn offer(states: &mut ProducerStates, bytes: &[u8]) -> Verdict {
        let verdict = states.check(header(bytes));
        if verdict == Verdict::Append {
            // All before it is committed.
            states.record(header(bytes), 1, header(bytes).base_offset());
        }
        verdict
    }

    #[test]
    fn the_last_five_batches_are_recognised() {
        let mut states = ProducerStates::new();
        for index in 0..8 {
            let bytes = batch(1, 0, index * 2, 2, 100 + i64::from(index) * 2);
            assert_eq!(offer(&mut states, &bytes), Verdict::Append);
        }
        for index in 2..8 {
            let again = batch(1, 0, index * 2, 2, 0);
            let base_offset = 100 + i64::from(index) * 2;
            assert_eq!(
                states.check(header(&again)),
                Verdict::Duplicate { base_offset, last_offset: base_offset + 1, log_append_time: -1 }
            );
        }
        assert_eq!(
            states.check(header(&batch(1, 0, 2, 2, 0))),
            Verdict::OutOfOrderSequence,
            "older than the last five that are committed"
        );
        assert_eq!(
            states.check(header(&batch(1, 0, 14, 1, 0))),
            Verdict::OutOfOrderSequence,
            "the same first sequence, but another batch"
        );
    }

    #[test]
    fn a_duplicate_has_the_time_it_was_given() {
        let mut bytes = batch(1, 0, 0, 3, 10);
        assign(&mut bytes, 10, 0, Some(555));
        let mut states = ProducerStates::new();
        states.record(header(&bytes), 555, 0);
        assert_eq!(
            states.check(header(&batch(1, 0, 0, 3, 0))),
            Verdict::Duplicate { base_offset: 10, last_offset: 12, log_append_time: 555 }
        );
    }

    #[test]
    fn gaps_are_refused_and_sequences_wrap() {
        let mut states = ProducerStates::new();
        let first = batch(1, 0, i32::MAX - 1, 2, 0);
        assert_eq!(offer(&mut states, &first), Verdict::Append, "an unknown producer");
        assert_eq!(offer(&mut states, &batch(1, 0, 1, 1, 2)), Verdict::OutOfOrderSequence);
        assert_eq!(offer(&mut states, &batch(1, 0, 0, 3, 2)), Verdict::Append, "wrapped");
        assert_eq!(offer(&mut states, &batch(1, 0, 4, 1, 5)), Verdict::OutOfOrderSequence);
        assert_eq!(offer(&mut states, &batch(1, 0, 3, 1, 5)), Verdict::Append);
        let across = batch(2, 0, i32::MAX, 3, 6);
        assert_eq!(offer(&mut states, &across), Verdict::Append);
        assert_eq!(offer(&mut states, &batch(2, 0, 2, 1, 9)), Verdict::Append, "a batch may wrap inside");
    }

    #[test]
    fn a_new_epoch_starts_at_zero_and_fences_the_old_one() {
        let mut states = ProducerStates::new();
        offer(&mut states, &batch(1, 3, 0, 5, 0));
        assert_eq!(offer(&mut states, &batch(1, 4, 5, 1, 5)), Verdict::OutOfOrderSequence);
        assert_eq!(
            offer(&mut states, &batch(1, 4, 0, 5, 5)),
            Verdict::Append,
            "not taken for the batch of the old epoch"
        );
        assert_eq!(
            offer(&mut states, &batch(1, 3, 0, 5, 10)),
            Verdict::InvalidProducerEpoch,
            "not answered as a duplicate either"
        );
    }

    #[test]
    fn silent_producers_are_forgotten() {
        let mut states = ProducerStates::new();
        states.record(header(&batch(1, 0, 0, 1, 0)), 1_000, 0);
        states.record(header(&batch(2, 0, 0, 1, 1)), 2_000, 0);
        states.expire(2_999, 2_000);
        assert_eq!(states.len(), 2);
        states.expire(3_000, 2_000);
        assert_eq!(states.len(), 1);
        assert_eq!(states.check(header(&batch(1, 0, 77, 1, 2))), Verdict::Append);
        assert_eq!(states.check(header(&batch(2, 0, 77, 1, 2))), Verdict::OutOfOrderSequence);
    }

    #[test]
    fn the_oldest_goes_when_there_are_too_many() {
        let mut states = ProducerStates::new();
        for id in 0..=PRODUCERS_MAX as i64 {
            let time = if id == 7 { 0 } else { 1 + id };
            states.record(header(&batch(id, 0, 0, 1, id)), time, 0);
        }
        assert_eq!(states.len(), PRODUCERS_MAX);
        assert_eq!(states.check(header(&batch(7, 0, 50, 1, 0))), Verdict::Append);
        assert!(matches!(states.check(header(&batch(0, 0, 0, 1, 0))), Verdict::Duplicate { .. }));
    }

    #[test]
    fn batches_without_a_producer_leave_no_trace() {
        let mut states = ProducerStates::new();
        let bytes = BatchBuilder::new().record(0, None, None, &[]).build();
        assert_eq!(offer(&mut states, &bytes), Verdict::Append);
        assert!(states.is_empty());
    }

    /// What a truncation leaves is what was there before: whatever was appended above, in whichever epoch.
    #[test]
    fn a_truncation_rolls_back_exactly() {
        let (mut states, mut offset) = (ProducerStates::new(), 0);
        let mut before = vec![(0, states.clone())];
        let sent = [(1, 0, 0), (1, 0, 1), (2, 7, 0), (1, 0, 2), (1, 1, 0), (1, 1, 1), (2, 8, 0), (3, 0, 50), (1, 2, 0)];
        for (id, epoch, sequence) in sent {
            assert_eq!(states.check(header(&batch(id, epoch, sequence, 1, 0))), Verdict::Append);
            states.record(header(&batch(id, epoch, sequence, 1, offset)), 1, 2);
            offset += 1;
            before.push((offset, states.clone()));
        }
        for (offset, expected) in before.into_iter().rev() {
            states.truncate(offset);
            for (id, epoch, sequence) in sent {
                let again = batch(id, epoch, sequence, 1, 0);
                assert_eq!(states.check(header(&again)), expected.check(header(&again)), "{id} {epoch} {sequence}");
            }
            assert!(states.views().eq(expected.views()));
        }
        assert!(states.is_empty());
    }

    #[test]
    fn five_committed_batches_stay_when_all_above_are_cut() {
        let mut states = ProducerStates::new();
        for sequence in 0..40 {
            let committed = i64::from(sequence).min(10);
            states.record(header(&batch(1, 0, sequence, 1, i64::from(sequence))), 1, committed);
        }
        states.truncate(10);
        for sequence in 5..10 {
            let again = batch(1, 0, sequence, 1, 0);
            assert!(matches!(states.check(header(&again)), Verdict::Duplicate { .. }), "{sequence}");
        }
        assert_eq!(states.check(header(&batch(1, 0, 10, 1, 0))), Verdict::Append);
        states.truncate(3);
        assert!(states.is_empty(), "below what is committed nothing is known");
    }

    #[test]
    fn what_is_never_committed_is_bounded() {
        let mut states = ProducerStates::new();
        for sequence in 0..=BATCHES_MAX as i32 {
            states.record(header(&batch(1, 0, sequence, 1, i64::from(sequence))), 1, 0);
        }
        assert_eq!(states.producers[&1].batches.len(), BATCHES_MAX);
        assert_eq!(states.end_offset(), BATCHES_MAX as i64 + 1);
        states.truncate(1);
        assert!(states.is_empty(), "the batch before is not remembered");
    }

    /// As many batches of the first producer as the version before kept.
    fn some_states() -> ProducerStates {
        let mut states = ProducerStates::new();
        for sequence in 1..6 {
            states.record(header(&batch(4_000, 2, sequence, 1, i64::from(sequence))), 1_000 + i64::from(sequence), 0);
        }
        let mut stamped = batch(4_001, 0, i32::MAX, 2, 6);
        assign(&mut stamped, 6, 1, Some(1_700_000_000_000));
        states.record(header(&stamped), 1_700_000_000_000, 0);
        states
    }

    fn frozen_states() -> ProducerStates {
        let mut states = some_states();
        states.record(header(&batch(4_000, 3, 0, 4, 8)), 2_000, 3);
        states
    }

    #[test]
    fn encoding_comes_back_and_is_frozen() {
        let states = frozen_states();
        let mut bytes = Vec::new();
        states.encode(&mut bytes);
        frozen("producer-states-v2.bin", &bytes);
        bytes.extend_from_slice(b"after");
        let mut rest = &bytes[..];
        assert_eq!(ProducerStates::decode(&mut rest), Some(states));
        assert_eq!(rest, b"after");
    }

    #[test]
    fn what_was_written_before_truncation_is_read() {
        let bytes = std::fs::read(testdata("producer-states-v1.bin")).expect("it is there");
        let mut rest = &bytes[..];
        assert_eq!(ProducerStates::decode(&mut rest), Some(some_states()));
        assert!(rest.is_empty());
    }

    #[test]
    fn a_state_whose_end_is_no_offset_is_refused() {
        let mut states = ProducerStates::new();
        states.record(header(&batch(1, 0, 0, 2, 5)), 1, 0);
        let mut bytes = Vec::new();
        states.encode(&mut bytes);
        let at = bytes.windows(8).position(|window| window == 5i64.to_le_bytes()).expect("the base offset");
        for (base_offset, read) in [(i64::MAX - 2, true), (i64::MAX - 1, false), (i64::MAX, false)] {
            bytes[at..at + 8].copy_from_slice(&base_offset.to_le_bytes());
            let decoded = ProducerStates::decode(&mut &bytes[..]);
            assert_eq!(decoded.map(|states| states.end_offset()), read.then_some(i64::MAX), "{base_offset}");
        }
    }

    #[test]
    fn decoding_survives_damage() {
        let mut bytes = Vec::new();
        frozen_states().encode(&mut bytes);
        assert_survives_mutation(&bytes, |mut damaged| {
            if let Some(states) = ProducerStates::decode(&mut damaged) {
                // Whatever was accepted must be usable.
                states.check(header(&batch(4_000, 2, 9, 1, 0)));
                states.clone().truncate(4);
                let mut again = Vec::new();
                states.encode(&mut again);
                assert_eq!(ProducerStates::decode(&mut &again[..]), Some(states));
            }
        });
    }
}
