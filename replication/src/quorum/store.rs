//! What a member has: the entries since its last snapshot, in memory, and all that the committed ones have come to. The crate
//! reads entries here; nothing here waits for a disk.

use std::collections::VecDeque;

use millstream_storage::bug::{Bug, is_planted};
use raft::eraftpb::{self, Entry};
use raft::{GetEntriesContext, RaftState, StorageError};

use super::entry::encoded_bytes;
use super::file::{HardState, Position};
use super::members::Members;
use super::snapshot::{Snapshot, encode_snapshot};
use crate::image::ClusterImage;

/// Entries before a snapshot that are kept for members that are a little behind, at most...
const TRAIL_ENTRIES_MAX: u64 = 4_096;
/// ...and this part of the bytes at which the log is replaced by a snapshot: 1 / 16.
pub(crate) const TRAIL_SHARE: u64 = 16;

/// What a member has.
pub(crate) struct Store {
    /// The entry before the first.
    pub(crate) base: Position,
    pub(crate) entries: VecDeque<Entry>,
    pub(crate) state: HardState,
    /// The last entry that the image and the members know.
    pub(crate) applied: Position,
    pub(crate) image: ClusterImage,
    pub(crate) members: Members,
}

impl Store {
    /// The last entry; the one before the first where there is none.
    pub(crate) fn last(&self) -> Position {
        self.entries.back().map_or(self.base, |entry| Position { index: entry.index, term: entry.term })
    }

    pub(crate) fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        let at = index.checked_sub(self.base.index + 1)?;
        self.entries.get(usize::try_from(at).ok()?).map(|entry| entry.term)
    }

    /// Takes entries, and drops those of before that they replace.
    pub(crate) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(first.index > self.applied.index, "what was applied never changes");
        assert!(first.index <= self.last().index + 1, "entries follow each other");
        let keep = (first.index - self.base.index - 1) as usize;
        if is_planted(Bug::KeepReplacedEntries) && keep < self.entries.len() {
            return;
        }
        self.entries.truncate(keep);
        self.entries.extend(entries.iter().cloned());
    }

    /// Becomes what a snapshot says.
    pub(crate) fn restore(&mut self, snapshot: Snapshot) {
        let Snapshot { index, term, members, image } = snapshot;
        assert!(index > self.applied.index, "a snapshot brings something new");
        self.base = Position { index, term };
        self.applied = self.base;
        self.entries.clear();
        self.members = members;
        self.image = image;
    }

    /// Where the log begins when everything that was applied is in a snapshot, and at most so many bytes are kept beside.
    pub(crate) fn trail(&self, bytes_max: u64) -> Position {
        let mut base = self.applied;
        let mut bytes = 0;
        while base.index > self.base.index && self.applied.index - base.index < TRAIL_ENTRIES_MAX {
            let entry = &self.entries[(base.index - self.base.index - 1) as usize];
            bytes += encoded_bytes(entry) as u64;
            if bytes > bytes_max {
                break;
            }
            base.index -= 1;
            base.term = self.term_at(base.index).expect("it is between the base and the end");
        }
        base
    }

    /// Forgets what lies at or before this entry.
    pub(crate) fn begin_at(&mut self, base: Position) {
        assert!(base.index <= self.applied.index, "only what was applied is forgotten");
        assert_eq!(self.term_at(base.index), Some(base.term), "an entry of the log");
        self.entries.drain(..(base.index - self.base.index) as usize);
        self.base = base;
    }

    /// The entries of these indexes, both included.
    pub(crate) fn between(&self, first: u64, last: u64) -> Vec<Entry> {
        let at = |index: u64| (index.max(self.base.index) - self.base.index) as usize;
        self.entries.range(at(first - 1)..at(last).min(self.entries.len())).cloned().collect()
    }
}

impl raft::Storage for Store {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let HardState { term, vote, commit } = self.state;
        let hard_state = eraftpb::HardState { term, vote, commit, ..Default::default() };
        Ok(RaftState::new(hard_state, self.members.conf_state()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.base.index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        let max = max_size.into().unwrap_or(u64::MAX);
        let (from, to) = ((low - self.base.index - 1) as usize, (high - self.base.index - 1) as usize);
        let mut bytes = 0;
        let mut found = Vec::new();
        for entry in self.entries.range(from..to) {
            bytes += encoded_bytes(entry) as u64;
            // The first, however large it is.
            if bytes > max && !found.is_empty() {
                break;
            }
            found.push(entry.clone());
        }
        Ok(found)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.base.index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        self.term_at(index).ok_or(raft::Error::Store(StorageError::Unavailable))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last().index)
    }

    /// What was applied, with the members of then.
    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<eraftpb::Snapshot> {
        if request_index > self.applied.index {
            return Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let Position { index, term } = self.applied;
        let data = encode_snapshot(index, term, &self.members, &self.image);
        let mut snapshot = eraftpb::Snapshot { data, ..Default::default() };
        let metadata = snapshot.mut_metadata();
        (metadata.index, metadata.term) = (index, term);
        metadata.set_conf_state(self.members.conf_state());
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use raft::Storage as _;

    use super::*;
    use crate::quorum::members::tests::member;

    fn store() -> Store {
        let mut store = Store {
            base: Position { index: 3, term: 1 },
            entries: VecDeque::new(),
            state: HardState::default(),
            applied: Position { index: 3, term: 1 },
            image: ClusterImage::new(),
            members: Members::of_voters([member(1)]),
        };
        store.append(&(4..10).map(|index| entry(index, 2)).collect::<Vec<_>>());
        store
    }

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, ..Default::default() }
    }

    #[test]
    fn entries_replace_those_of_another_term() {
        let mut store = store();
        store.append(&[entry(8, 3)]);
        assert_eq!(store.last(), Position { index: 8, term: 3 });
        assert_eq!(
            (store.term_at(3), store.term_at(7), store.term_at(9), store.term_at(2)),
            (Some(1), Some(2), None, None)
        );
        assert_eq!(store.between(7, 9), [entry(7, 2), entry(8, 3)]);
        assert_eq!(store.between(1, 4), [entry(4, 2)]);
    }

    #[test]
    fn the_crate_is_given_at_least_one_entry_and_no_more_than_it_asked_for() {
        let store = store();
        let indexes = |low, high, max| -> Vec<u64> {
            let found = store.entries(low, high, max, GetEntriesContext::empty(false)).unwrap();
            found.iter().map(|entry| entry.index).collect()
        };
        assert_eq!(indexes(4, 10, None), [4, 5, 6, 7, 8, 9]);
        assert_eq!(indexes(5, 8, Some(0)), [5]);
        assert_eq!(indexes(5, 9, Some(50)), [5, 6]);
        assert!(store.entries(3, 5, None, GetEntriesContext::empty(false)).is_err());
        assert!(store.term(2).is_err() && store.term(10).is_err());
    }

    #[test]
    fn what_was_applied_is_forgotten_but_for_a_trail() {
        let mut store = store();
        store.applied = Position { index: 8, term: 2 };
        assert_eq!(store.trail(1 << 20), Position { index: 3, term: 1 }, "few entries are all kept");
        assert_eq!(store.trail(50), Position { index: 6, term: 2 });
        store.begin_at(Position { index: 6, term: 2 });
        assert_eq!((store.first_index().unwrap(), store.last().index), (7, 9));
        assert_eq!(store.term_at(6), Some(2));
        let snapshot = store.snapshot(0, 1).unwrap();
        assert_eq!((snapshot.get_metadata().index, snapshot.get_metadata().term), (8, 2));
        assert!(store.snapshot(9, 1).is_err());
    }
}
