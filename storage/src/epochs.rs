//! The leader epoch cache of one partition: which leader epoch wrote from which offset on (KIP-101, KIP-279, KIP-320).
//! Kafka's `LeaderEpochFileCache`; here it is kept in the checkpoint.
//!
//! Followers and consumers compare what they have read with what a leader of some epoch wrote, to notice that records
//! were truncated: truncating by anything else loses data.

/// Epochs remembered in one partition. Above it the oldest is forgotten, which makes a question about it answer with the
/// offset where the oldest remembered one begins.
pub const EPOCHS_MAX: usize = 4_096;

const VERSION: u8 = 1;

/// "Unknown", for an epoch and for an offset.
pub const UNKNOWN: (i32, i64) = (-1, -1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Epoch {
    epoch: i32,
    start_offset: i64,
}

/// The leader epochs of one partition's log; epochs and start offsets ascend strictly.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LeaderEpochs {
    entries: Vec<Epoch>,
    /// An epoch that is led here and of which no batch is in the log yet: a last entry that is not kept on the disk, because a
    /// leader that starts again does so in another epoch.
    led: Option<Epoch>,
}

impl LeaderEpochs {
    /// No epoch is known.
    pub fn new() -> LeaderEpochs {
        LeaderEpochs::default()
    }

    /// This node leads in `epoch` from now on, and the log ends at `log_end`. Returns where the epoch starts: questions about
    /// it and about those before it are answered by that though no batch has it yet, or a follower of a leader that was
    /// followed by another before it wrote anything would be told of a history that is not this log's (KIP-101, KIP-279).
    pub fn lead(&mut self, epoch: i32, log_end: i64) -> i64 {
        assert!(
            epoch >= self.latest() && epoch >= 0 && log_end >= 0,
            "an epoch that is led does not lie before another"
        );
        match self.entries.last().filter(|last| last.epoch == epoch) {
            Some(last) => {
                self.led = None;
                last.start_offset
            }
            None => {
                self.led = Some(Epoch { epoch, start_offset: log_end });
                log_end
            }
        }
    }

    /// This node follows from now on: an epoch in which it led and appended nothing is not its log's, and others may come
    /// before it.
    pub fn follow(&mut self) {
        self.led = None;
    }

    /// Offsets from `start_offset` on, where the log ends, are left out: they were `epoch`'s. Does nothing if that is known, or
    /// is -1.
    pub fn skip(&mut self, epoch: i32, start_offset: i64) {
        if epoch > self.latest() {
            self.assign(epoch, start_offset);
        }
    }

    /// A leader of `epoch` appends from `start_offset` on. Does nothing if the epoch is the latest already; an entry that
    /// contradicts it (a higher epoch, or one that begins at or after the offset) is dropped.
    pub fn assign(&mut self, epoch: i32, start_offset: i64) {
        if epoch < 0 || start_offset < 0 {
            return;
        }
        self.led = None;
        if self.entries.last().is_some_and(|last| last.epoch == epoch && last.start_offset <= start_offset) {
            return;
        }
        while self.entries.last().is_some_and(|last| last.epoch >= epoch || last.start_offset >= start_offset) {
            self.entries.pop();
        }
        if self.entries.len() >= EPOCHS_MAX {
            self.entries.remove(0);
        }
        self.entries.push(Epoch { epoch, start_offset });
        assert!(self.entries.len() <= EPOCHS_MAX, "the oldest epoch was forgotten");
        assert!(self.ends_in_order(), "epochs and start offsets ascend: {self:?}");
    }

    /// Whether the latest epoch follows the one before it.
    fn ends_in_order(&self) -> bool {
        let [.., before, latest] = &self.entries[..] else { return true };
        before.epoch < latest.epoch && before.start_offset < latest.start_offset
    }

    /// The latest epoch of a batch, or -1.
    pub fn latest(&self) -> i32 {
        self.entries.last().map_or(UNKNOWN.0, |last| last.epoch)
    }

    /// The largest epoch at or below `epoch` and the offset at which it ended, where the log ends at `log_end`.
    /// [`UNKNOWN`] for an epoch above the latest, that which is led here included. For one below all that are remembered, the epoch itself and where
    /// the oldest remembered one begins, as Kafka answers.
    pub fn end_offset(&self, epoch: i32, log_end: i64) -> (i32, i64) {
        if epoch < 0 {
            return UNKNOWN;
        }
        if self.led.map_or(self.latest(), |led| led.epoch) == epoch {
            return (epoch, log_end);
        }
        let higher = self.entries.partition_point(|entry| entry.epoch <= epoch);
        let led = self.led.as_ref().filter(|led| led.epoch > epoch);
        let Some(next) = self.entries.get(higher).or(led) else {
            return UNKNOWN;
        };
        match higher.checked_sub(1).and_then(|floor| self.entries.get(floor)) {
            Some(floor) => (floor.epoch, next.start_offset),
            None => (epoch, next.start_offset),
        }
    }

    /// The epoch that wrote `offset`, or -1. The caller knows that the offset lies in the log.
    pub fn epoch_of(&self, offset: i64) -> i32 {
        let after = self.entries.partition_point(|entry| entry.start_offset <= offset);
        after.checked_sub(1).and_then(|index| self.entries.get(index)).map_or(UNKNOWN.0, |entry| entry.epoch)
    }

    /// The epoch that wrote `offset`, or -1, and the offsets from which on and before which it wrote, where the log ends at
    /// `log_end`. The caller knows that the offset lies in the log.
    pub fn range_of(&self, offset: i64, log_end: i64) -> (i32, i64, i64) {
        let after = self.entries.partition_point(|entry| entry.start_offset <= offset);
        let end = self.entries.get(after).map_or(log_end, |next| next.start_offset);
        match after.checked_sub(1).and_then(|index| self.entries.get(index)) {
            Some(entry) => (entry.epoch, entry.start_offset, end),
            None => (UNKNOWN.0, 0, end),
        }
    }

    /// The log now ends at `offset`: epochs that began there or later are gone, and nothing is led.
    pub fn truncate_end(&mut self, offset: i64) {
        self.led = None;
        let kept = self.entries.partition_point(|entry| entry.start_offset < offset);
        self.entries.truncate(kept);
    }

    /// The log now starts at `offset`: epochs that ended there or earlier are gone, and the one that spans it starts
    /// there.
    pub fn truncate_start(&mut self, offset: i64) {
        let begun = self.entries.partition_point(|entry| entry.start_offset <= offset);
        let Some(spanning) = begun.checked_sub(1) else {
            return;
        };
        self.entries.drain(..spanning);
        if let Some(first) = self.entries.first_mut() {
            first.start_offset = offset;
        }
        assert!(self.entries.get(1).is_none_or(|next| offset < next.start_offset), "start offsets ascend: {self:?}");
    }

    /// Appends the epochs to `out`, for a checkpoint that carries the checksum and the partition's identity.
    pub fn encode(&self, out: &mut Vec<u8>) {
        assert!(self.entries.len() <= EPOCHS_MAX && self.ends_in_order(), "this would be refused when it is read");
        out.push(VERSION);
        out.extend_from_slice(&(self.entries.len() as u32).to_le_bytes());
        for entry in &self.entries {
            out.extend_from_slice(&entry.epoch.to_le_bytes());
            out.extend_from_slice(&entry.start_offset.to_le_bytes());
        }
    }

    /// Reads back what [`LeaderEpochs::encode`] wrote from the front of `bytes`, and moves past it. None if the bytes
    /// are not such epochs.
    pub fn decode(bytes: &mut &[u8]) -> Option<LeaderEpochs> {
        let (head, mut rest) = bytes.split_first_chunk::<5>()?;
        let [version, count @ ..] = *head;
        let count = usize::try_from(u32::from_le_bytes(count)).ok()?;
        if version != VERSION || count > EPOCHS_MAX {
            return None;
        }
        let mut entries: Vec<Epoch> = Vec::new();
        for _ in 0..count {
            let (epoch, after) = rest.split_first_chunk::<4>()?;
            let (start_offset, after) = after.split_first_chunk::<8>()?;
            rest = after;
            let entry = Epoch { epoch: i32::from_le_bytes(*epoch), start_offset: i64::from_le_bytes(*start_offset) };
            let ascends =
                entries.last().is_none_or(|last| last.epoch < entry.epoch && last.start_offset < entry.start_offset);
            if entry.epoch < 0 || entry.start_offset < 0 || !ascends {
                return None;
            }
            entries.push(entry);
        }
        *bytes = rest;
        Some(LeaderEpochs { entries, led: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_survives_mutation, frozen};

    fn epochs(entries: &[(i32, i64)]) -> LeaderEpochs {
        let mut epochs = LeaderEpochs::new();
        for (epoch, start_offset) in entries {
            epochs.assign(*epoch, *start_offset);
        }
        epochs
    }

    #[test]
    fn end_offsets_are_those_of_the_next_epoch() {
        let epochs = epochs(&[(2, 10), (4, 30), (7, 50)]);
        assert_eq!(epochs.latest(), 7);
        assert_eq!(epochs.end_offset(7, 99), (7, 99));
        assert_eq!(epochs.end_offset(4, 99), (4, 50));
        assert_eq!(epochs.end_offset(6, 99), (4, 50));
        assert_eq!(epochs.end_offset(3, 99), (2, 30));
        assert_eq!(epochs.end_offset(1, 99), (1, 10), "older than all");
        assert_eq!(epochs.end_offset(8, 99), UNKNOWN, "newer than all");
        assert_eq!(epochs.end_offset(-1, 99), UNKNOWN);
        assert_eq!(epochs.range_of(9, 99), (-1, 0, 10));
        assert_eq!(epochs.range_of(10, 99), (2, 10, 30));
        assert_eq!(epochs.range_of(49, 99), (4, 30, 50));
        assert_eq!(epochs.range_of(98, 99), (7, 50, 99));
        assert_eq!(LeaderEpochs::new().end_offset(0, 99), UNKNOWN);
        assert_eq!(LeaderEpochs::new().latest(), -1);
    }

    /// KIP-101's case of elections that follow each other before anything is written.
    #[test]
    fn an_epoch_without_a_record_has_a_start() {
        let mut epochs = epochs(&[(2, 10), (4, 30)]);
        assert_eq!(epochs.lead(4, 50), 30, "it has begun already");
        assert_eq!(epochs.lead(7, 50), 50);
        assert_eq!(epochs.latest(), 4, "of a batch");
        assert_eq!(epochs.end_offset(7, 50), (7, 50));
        assert_eq!(epochs.end_offset(5, 50), (4, 50), "one that another leader had, and nobody here");
        assert_eq!(epochs.end_offset(4, 50), (4, 50));
        assert_eq!(epochs.end_offset(2, 50), (2, 30));
        assert_eq!(epochs.end_offset(8, 50), UNKNOWN);
        let mut bytes = Vec::new();
        epochs.encode(&mut bytes);
        assert_eq!(LeaderEpochs::decode(&mut &bytes[..]).map(|epochs| epochs.end_offset(7, 50)), Some(UNKNOWN));
        assert_eq!(epochs.lead(9, 50), 50, "the next leads before the first has written");
        assert_eq!(epochs.end_offset(7, 50), (4, 50));
        epochs.assign(9, 50);
        assert_eq!(epochs.end_offset(9, 60), (9, 60));
        assert_eq!(epochs.lead(11, 60), 60);
        epochs.truncate_end(60);
        assert_eq!(epochs.end_offset(11, 60), UNKNOWN, "who is cut leads no more");

        let mut empty = LeaderEpochs::new();
        assert_eq!(empty.lead(3, 0), 0);
        assert_eq!((empty.end_offset(3, 0), empty.end_offset(1, 0)), ((3, 0), (1, 0)));
    }

    #[test]
    fn epochs_of_offsets() {
        let epochs = epochs(&[(2, 10), (4, 30)]);
        assert_eq!([9, 10, 29, 30, 99].map(|offset| epochs.epoch_of(offset)), [-1, 2, 2, 4, 4]);
    }

    #[test]
    fn an_epoch_is_noted_once() {
        let mut epochs = epochs(&[(2, 10), (2, 20)]);
        assert_eq!(epochs.end_offset(2, 30), (2, 30));
        epochs.assign(-1, 40);
        epochs.assign(3, 20);
        assert_eq!(epochs.end_offset(2, 30), (2, 20));
    }

    #[test]
    fn contradicted_entries_are_dropped() {
        assert_eq!(epochs(&[(2, 10), (4, 30), (5, 30)]), epochs(&[(2, 10), (5, 30)]), "an epoch that wrote nothing");
        assert_eq!(epochs(&[(2, 10), (6, 30), (5, 40)]), epochs(&[(2, 10), (5, 40)]));
        assert_eq!(epochs(&[(2, 10), (2, 5)]), epochs(&[(2, 5)]));
    }

    #[test]
    fn truncation_at_both_ends() {
        let all = [(2, 10), (4, 30), (7, 50)];
        let mut end = epochs(&all);
        end.truncate_end(51);
        assert_eq!(end, epochs(&all));
        end.truncate_end(50);
        assert_eq!(end, epochs(&all[..2]));
        end.truncate_end(0);
        assert_eq!(end, LeaderEpochs::new());

        let mut start = epochs(&all);
        start.truncate_start(5);
        assert_eq!(start, epochs(&all));
        start.truncate_start(29);
        assert_eq!(start, epochs(&[(2, 29), (4, 30), (7, 50)]));
        start.truncate_start(30);
        assert_eq!(start, epochs(&[(4, 30), (7, 50)]));
        start.truncate_start(1_000);
        assert_eq!(start, epochs(&[(7, 1_000)]));
    }

    #[test]
    fn the_oldest_goes_when_there_are_too_many() {
        let mut epochs = LeaderEpochs::new();
        for epoch in 0..=EPOCHS_MAX as i32 {
            epochs.assign(epoch, i64::from(epoch) * 10);
        }
        assert_eq!(epochs.entries.len(), EPOCHS_MAX);
        assert_eq!(epochs.end_offset(0, i64::MAX), (0, 10));
    }

    #[test]
    fn encoding_comes_back_and_is_frozen() {
        let epochs = epochs(&[(0, 0), (3, 1_000), (9, 1 << 40)]);
        let mut bytes = Vec::new();
        epochs.encode(&mut bytes);
        frozen("leader-epochs-v1.bin", &bytes);
        bytes.extend_from_slice(b"after");
        let mut rest = &bytes[..];
        assert_eq!(LeaderEpochs::decode(&mut rest), Some(epochs));
        assert_eq!(rest, b"after");
    }

    #[test]
    fn decoding_survives_damage() {
        let mut bytes = Vec::new();
        epochs(&[(0, 0), (3, 1_000), (9, 1 << 40)]).encode(&mut bytes);
        assert_survives_mutation(&bytes, |mut damaged| {
            if let Some(epochs) = LeaderEpochs::decode(&mut damaged) {
                epochs.end_offset(3, 2_000);
                let mut again = Vec::new();
                epochs.encode(&mut again);
                assert_eq!(LeaderEpochs::decode(&mut &again[..]), Some(epochs));
            }
        });
    }
}
