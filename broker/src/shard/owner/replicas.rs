//! The replicas that this shard holds: their logs, what is known of each partition, and the disk operations that they
//! ask for in a turn.

use millstream_storage::shard_log::{LogId, Ops};
use millstream_storage::{DiskOp, ShardLog};

use super::partition::{Partitions, Waiter, Watcher};
use super::reader::Readers;
use crate::shard::event::DiskToken;

/// The replicas of a shard.
pub struct Replicas {
    /// Their logs.
    pub log: ShardLog,
    /// What is known of them beside.
    pub partitions: Partitions,
    /// Reads of logs that wait for the disk.
    pub readers: Readers,
    /// What the logs want of the disk, in this turn so far.
    pub ops: Ops,
    /// What is wanted of the disk, in this turn so far, before `ops`.
    operations: Vec<(DiskToken, DiskOp)>,
}

impl Replicas {
    /// Recovered logs, of partitions that are not open yet.
    pub fn new(log: ShardLog) -> Replicas {
        Replicas {
            log,
            partitions: Partitions::default(),
            readers: Readers::default(),
            ops: Ops::new(),
            operations: Vec::new(),
        }
    }

    /// More of a log is durable on this node: takes out who waited for what that commits.
    pub fn durable(&mut self, log: LogId, committed: &mut Vec<Waiter>, woken: &mut Vec<Watcher>) {
        if let Some(partition) = self.partitions.get_mut(log) {
            partition.advance(self.log.committed(log), committed, woken);
            let log_end = self.log.log_end(log);
            assert!(partition.high_watermark() <= log_end, "what is committed is in the log, which ends at {log_end}");
        }
    }

    /// A log begins at another offset: takes out who wanted to know.
    pub fn log_start_moved(&mut self, log: LogId, offset: i64, woken: &mut Vec<Watcher>) {
        if let Some(partition) = self.partitions.get_mut(log) {
            partition.log_start_moved(offset, woken);
        }
    }

    /// Reads a file for groups that are being loaded.
    pub fn read_for_groups(&mut self, number: u64, read: DiskOp) {
        self.operations.extend(self.ops.drain(..).map(|(token, op)| (DiskToken::Log(token), op)));
        self.operations.push((DiskToken::Groups(number), read));
    }

    /// Takes what is wanted of the disk, in its order.
    pub fn take_operations(&mut self) -> impl Iterator<Item = (DiskToken, DiskOp)> + '_ {
        let of_log = self.ops.drain(..).map(|(token, op)| (DiskToken::Log(token), op));
        self.operations.drain(..).chain(of_log)
    }

    /// Nothing is wanted of the disk any more.
    pub fn drop_operations(&mut self) {
        self.operations.clear();
        self.ops.clear();
    }
}
