//! What of a member is written, one operation at a time, and what follows when it is durable.

use millstream_storage::bug::{Bug, is_planted};
use millstream_storage::{DiskError, DiskOp, DiskReply};
use raft::eraftpb::{Entry, Message};

use super::Quorum;
use super::disk::NextFile;
use super::entry::encoded_bytes;
use super::file::{HardState, Position};
use super::output::Output;
use super::snapshot::encode_snapshot;
use super::store::TRAIL_SHARE;

/// Entries of one frame, in bytes; more only when one alone is larger.
const FRAME_BYTES_MAX: usize = 8 * 1024 * 1024;
/// A write for which there was no space is tried again after so many ticks.
pub(super) const NO_SPACE_TICKS: u64 = 20;

/// A frame, or a snapshot, that is to be written, and what is said when it is durable.
#[derive(Default)]
pub(super) struct Pending {
    pub entries: Vec<Entry>,
    pub bytes: usize,
    /// A vote or a term has to be written, with or without entries.
    pub must_write: bool,
    /// A snapshot from the leader takes the place of the log.
    pub installs: bool,
    /// The crate is told that all up to this number is durable.
    pub number: u64,
    pub messages: Vec<Message>,
}

impl Pending {
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && !self.must_write && !self.installs
    }
}

/// The disk operation under way.
pub(super) enum Operation {
    /// Space, for a decision that waits for it or for the frame that is to be written.
    Allocate { bytes: u64, for_decision: bool },
    /// A frame. When it is durable the crate is told so of this number.
    Frame { bytes: u64, state: HardState, entries: Vec<Entry>, number: Option<u64>, messages: Vec<Message> },
    /// The file that follows a snapshot, then the snapshot.
    BeginFile { next: NextFile, snapshot: DiskOp, durable: (u64, HardState), installed: Option<Installed> },
    /// The snapshot, then the removal of the file before. With it what the file holds is durable.
    Snapshot { next: NextFile, durable: (u64, HardState), installed: Option<Installed> },
    /// The removal of the file before a snapshot.
    RemoveFile,
}

/// A snapshot from the leader: what is said when it is durable.
pub(super) struct Installed {
    number: u64,
    messages: Vec<Message>,
}

impl Quorum {
    /// A disk operation has ended. A full disk is survived; after any other failure nothing may be promised.
    pub fn disk(&mut self, result: Result<DiskReply, DiskError>) {
        let operation = self.operation.take().expect("what ends was under way");
        let has_room = match result {
            Ok(_) => true,
            Err(DiskError::NoSpace) => false,
            Err(error) => return self.fail(format!("the metadata cannot be written: {error}")),
        };
        match operation {
            Operation::Allocate { bytes, for_decision } => {
                if has_room {
                    self.file.allocated(bytes);
                }
                if for_decision {
                    self.wants_space = None;
                    self.outputs.push(Output::Reserved { is_there: has_room });
                } else if !has_room && !self.pending.installs {
                    // Into what was kept for it.
                    self.write_frame();
                }
            }
            Operation::Frame { bytes, state, entries, number, messages } if has_room => {
                self.file.written(bytes);
                if let Some(first) = entries.first() {
                    let last = first.index + entries.len() as u64 - 1;
                    self.durable.0 = last;
                }
                self.durable.1 = state;
                if let Some(number) = number {
                    self.raft.on_persist_ready(number);
                }
                messages.iter().for_each(|message| self.send(message));
            }
            Operation::Frame { entries, number, messages, .. } => {
                // It is tried again, with what has come meanwhile. What has come may replace a part of it.
                let later = std::mem::take(&mut self.pending);
                let keep = later
                    .entries
                    .first()
                    .map_or(usize::MAX, |later| entries.iter().take_while(|entry| entry.index < later.index).count());
                // What a snapshot takes the place of is not written at all.
                let earlier = entries.into_iter().take(if later.installs { 0 } else { keep });
                let entries: Vec<Entry> = earlier.chain(later.entries).collect();
                self.pending = Pending {
                    bytes: entries.iter().map(encoded_bytes).sum(),
                    entries,
                    must_write: true,
                    installs: later.installs,
                    number: later.number.max(number.unwrap_or_default()),
                    messages: messages.into_iter().chain(later.messages).collect(),
                };
                self.paused_until = self.ticks + NO_SPACE_TICKS;
            }
            Operation::BeginFile { next, snapshot, durable, installed } if has_room => {
                self.start(Operation::Snapshot { next, durable, installed }, snapshot);
            }
            Operation::Snapshot { next, durable, installed } if has_room => {
                let remove = self.file.replaced(&next);
                self.durable = durable;
                if let Some(Installed { number, messages }) = installed {
                    self.raft.on_persist_ready(number);
                    // Only what is durable counts as applied.
                    self.raft.advance_apply_to(next.snapshot_index());
                    messages.iter().for_each(|message| self.send(message));
                }
                self.start(Operation::RemoveFile, remove);
            }
            Operation::BeginFile { installed, .. } | Operation::Snapshot { installed, .. } => {
                // The log goes on as it was; one from the leader is tried again.
                if let Some(Installed { number, messages }) = installed {
                    self.pending.installs = true;
                    self.pending.number = self.pending.number.max(number);
                    self.pending.messages.splice(0..0, messages);
                    self.paused_until = self.ticks + NO_SPACE_TICKS;
                }
            }
            // The old file is only in the way: what is left of it is removed at the next start.
            Operation::RemoveFile => {}
        }
        self.go_on();
    }

    /// Whether something is being written that was promised nowhere yet.
    pub(super) fn is_writing(&self) -> bool {
        match &self.operation {
            Some(Operation::Frame { .. }) => true,
            Some(Operation::BeginFile { installed, .. } | Operation::Snapshot { installed, .. }) => installed.is_some(),
            Some(Operation::Allocate { .. } | Operation::RemoveFile) | None => false,
        }
    }

    /// Whether a snapshot from the leader is on its way to the disk: until it is there nobody is asked for votes, for the
    /// crate would look for entries that the snapshot has taken the place of.
    pub(super) fn is_installing(&self) -> bool {
        self.pending.installs
            || matches!(
                &self.operation,
                Some(Operation::BeginFile { installed: Some(_), .. } | Operation::Snapshot { installed: Some(_), .. })
            )
    }

    /// Bytes of the frame that is being written.
    pub(super) fn under_way(&self) -> u64 {
        match &self.operation {
            Some(Operation::Frame { bytes, .. }) => *bytes,
            _ => 0,
        }
    }

    // ---- The disk ----

    fn start(&mut self, operation: Operation, op: DiskOp) {
        assert!(self.operation.replace(operation).is_none(), "one operation at a time");
        self.outputs.push(Output::Disk(op));
    }

    pub(super) fn next_operation(&mut self) {
        if self.operation.is_some() {
            return;
        }
        let is_paused = self.paused_until > self.ticks;
        if self.pending.installs && !is_paused {
            self.write_installed();
        } else if let Some(bytes) = self.wants_space {
            match self.file.allocate(bytes) {
                Some(op) => self.allocate(op, true),
                None => {
                    self.wants_space = None;
                    self.outputs.push(Output::Reserved { is_there: true });
                    self.next_operation();
                }
            }
        } else if !self.pending.is_empty() && !is_paused {
            match self.file.allocate(self.pending.bytes.min(FRAME_BYTES_MAX) as u64) {
                Some(op) => self.allocate(op, false),
                None => self.write_frame(),
            }
        } else if !self.pending.installs
            && self.file.wants_snapshot()
            && self.applied().index > self.file.snapshot_index()
        {
            self.write_snapshot();
        }
    }

    fn allocate(&mut self, op: DiskOp, for_decision: bool) {
        let DiskOp::Allocate { bytes, .. } = op else { panic!("space is wanted, not {op:?}") };
        self.start(Operation::Allocate { bytes, for_decision }, op);
    }

    fn write_frame(&mut self) {
        assert!(!self.pending.installs, "a snapshot takes the place of the log before anything is written behind it");
        let Pending { entries, messages, number, .. } = std::mem::take(&mut self.pending);
        let mut bytes = 0;
        let count = entries
            .iter()
            .take_while(|entry| {
                bytes += encoded_bytes(entry);
                bytes <= FRAME_BYTES_MAX
            })
            .count()
            .max(1)
            .min(entries.len());
        let (now, later) = entries.split_at(count);
        let (now, later) = (now.to_vec(), later.to_vec());
        let last = now.last().map_or(self.durable.0, |entry| entry.index);
        let mut state = self.raft.store().state;
        // Only what the file holds can be said to be committed in it.
        state.commit = state.commit.min(last).max(self.durable.1.commit);
        if is_planted(Bug::ForgetVote) {
            state.vote = 0;
        }
        let (op, bytes) = self.file.frame(state, &now);
        let (number, messages) = if later.is_empty() {
            (Some(number), messages)
        } else {
            let bytes = later.iter().map(encoded_bytes).sum();
            self.pending = Pending { entries: later, bytes, must_write: true, installs: false, number, messages };
            (None, Vec::new())
        };
        self.start(Operation::Frame { bytes, state, entries: now, number, messages }, op);
    }

    /// What was applied takes the place of the log up to there.
    fn write_snapshot(&mut self) {
        self.file.tries_snapshot();
        let (durable_last, durable) = self.durable;
        let store = self.raft.mut_store();
        let base = store.trail(self.file.log_bytes_max() / TRAIL_SHARE);
        store.begin_at(base);
        let Position { index, term } = store.applied;
        let snapshot = encode_snapshot(index, term, &store.members, &store.image);
        // Entries that others are about to replace are not committed: they can go.
        let replaced_from = self.pending.entries.first().map_or(u64::MAX, |entry| entry.index);
        let last = durable_last.min(replaced_from - 1).max(index);
        let entries = store.between(base.index + 1, last);
        let state = HardState { commit: index.max(durable.commit.min(last)), ..durable };
        let (ops, next) = self.file.replace(index, base, state, &entries, snapshot);
        let [begin, snapshot] = ops;
        self.start(Operation::BeginFile { next, snapshot, durable: (last, state), installed: None }, begin);
    }

    /// The leader's snapshot takes the place of everything.
    fn write_installed(&mut self) {
        let Pending { messages, number, .. } = std::mem::take(&mut self.pending);
        let store = self.raft.store();
        let Position { index, term } = store.applied;
        assert_eq!(store.base, store.applied, "nothing is applied behind a snapshot that is not durable");
        let snapshot = encode_snapshot(index, term, &store.members, &store.image);
        // All that has come behind it, also what an attempt that found no space was to write.
        let last = store.last().index;
        let entries = store.between(index + 1, last);
        let state = HardState { commit: index, ..store.state };
        let (ops, next) = self.file.replace(index, store.base, state, &entries, snapshot);
        let [begin, snapshot] = ops;
        let installed = Some(Installed { number, messages });
        self.start(Operation::BeginFile { next, snapshot, durable: (last, state), installed }, begin);
    }
}
