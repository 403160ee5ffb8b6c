//! The disk operations of a shard's log that are under way: what each is for, and which of them wait for another try
//! because the disk was full.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::{LogId, Ops};
use crate::disk::{DiskOp, DiskToken};
use crate::walk::Walk;

/// How long an operation that found the disk full waits before it is tried again.
const NO_SPACE_RETRY: Duration = Duration::from_millis(250);

/// What an operation under way is for.
#[derive(Debug)]
pub(super) enum Purpose {
    /// Writing a commit group to the journal.
    Group,
    /// Writing bytes of a commit group straight to their segment. They begin at `from`.
    Extent { log: LogId, segment: i64, from: u64, to: u64, remainder: Vec<u8> },
    /// Writing bytes to their segment that are durable in the journal.
    WriteBack { log: LogId, segment: i64, to: u64, remainder: Vec<u8> },
    /// Reading what the first write after a restart repeats.
    LoadRemainder { log: LogId, segment: i64 },
    /// Syncing a segment up to a position.
    Sync { log: LogId, segment: i64, to: u64 },
    /// Creating the directory of a partition.
    CreateDirectory { log: LogId },
    /// Reserving space for a segment, so much in all.
    Allocate { log: LogId, segment: i64, bytes: u64 },
    /// Filling the journal with zeros ahead of its use.
    Fill,
    /// Giving a segment that is being closed its exact length.
    CloseTruncate { log: LogId, segment: i64 },
    /// Writing the index of a segment that is being closed.
    CloseIndex { log: LogId, segment: i64 },
    /// Reading what a fetch or a lookup by time asked for.
    Walk(Box<Walk>),
    /// Publishing a checkpoint.
    Checkpoint,
    /// Removing a file or a directory, of a log that is there if it is a file.
    Remove { log: Option<LogId> },
    /// A step of a compaction.
    Compact { log: LogId },
}

impl Purpose {
    /// Whether it can be tried again when the disk was full: the journal is preallocated, reads need no room, and a
    /// compaction begins anew.
    fn is_retried(&self) -> bool {
        !matches!(
            self,
            Purpose::Group | Purpose::Fill | Purpose::Walk(_) | Purpose::LoadRemainder { .. } | Purpose::Compact { .. }
        )
    }

    /// What failed, for the operator: of operations that can be tried again `op` is known.
    pub fn describe_failure(&self, op: Option<&DiskOp>) -> String {
        match (self, op) {
            (Purpose::Group | Purpose::Fill, _) => "writing the journal failed".to_string(),
            (_, Some(DiskOp::Write { path, .. })) => format!("writing {path} failed"),
            (_, Some(DiskOp::Sync { path })) => format!("syncing {path} failed"),
            (_, Some(DiskOp::Allocate { path, .. })) => format!("reserving space for {path} failed"),
            (_, Some(DiskOp::Replace { path, .. })) => format!("replacing {path} failed"),
            (_, Some(DiskOp::Truncate { path, .. })) => format!("truncating {path} failed"),
            (_, Some(DiskOp::CreateDirectory { path })) => format!("creating {path} failed"),
            (_, Some(DiskOp::Remove { path })) => format!("removing {path} failed"),
            _ => "a disk operation failed".to_string(),
        }
    }
}

/// The operations under way.
#[derive(Debug, Default)]
pub(super) struct Operations {
    /// With the operation itself if it may have to be tried again.
    under_way: HashMap<DiskToken, (Purpose, Option<DiskOp>)>,
    last_token: u64,
    /// When to try again, and what; oldest first.
    retries: VecDeque<(Duration, DiskToken)>,
}

impl Operations {
    /// Begins an operation.
    pub fn submit(&mut self, purpose: Purpose, op: DiskOp, ops: &mut Ops) {
        self.last_token += 1;
        let token = DiskToken(self.last_token);
        let kept = purpose.is_retried().then(|| op.clone());
        let known = self.under_way.insert(token, (purpose, kept));
        assert!(known.is_none(), "a token names one operation");
        ops.push((token, op));
    }

    /// An operation has ended: what it was for, and the operation itself if it may be tried again.
    pub fn take(&mut self, token: DiskToken) -> (Purpose, Option<DiskOp>) {
        self.under_way.remove(&token).expect("every token is answered once")
    }

    /// An operation that has ended is to be tried again, under the same token.
    pub fn try_later(&mut self, now: Duration, token: DiskToken, purpose: Purpose, op: DiskOp) {
        let known = self.under_way.insert(token, (purpose, Some(op)));
        assert!(known.is_none(), "it has just ended");
        self.retries.push_back((now + NO_SPACE_RETRY, token));
    }

    /// Begins again what is due.
    pub fn retry(&mut self, now: Duration, ops: &mut Ops) {
        while let Some(&(_, token)) = self.retries.front().filter(|(at, _)| *at <= now) {
            self.retries.pop_front();
            let op = self.under_way.get(&token).and_then(|(_, op)| op.clone()).expect("kept for this");
            ops.push((token, op));
        }
    }

    /// When to try again next.
    pub fn next_retry(&self) -> Option<Duration> {
        self.retries.front().map(|&(at, _)| at)
    }

    /// How many are at the disk, without those that wait for another try.
    pub fn at_disk(&self) -> usize {
        assert!(self.under_way.len() >= self.retries.len(), "what is tried again is under way");
        self.under_way.len() - self.retries.len()
    }
}
