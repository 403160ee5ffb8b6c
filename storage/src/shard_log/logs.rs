//! The partition logs of a shard: which there are, and which of them want something.

use std::collections::{BTreeMap, VecDeque};

use super::LogId;
use crate::PartitionKey;
use crate::partition_log::PartitionLog;

/// The partition logs of a shard, and the queues that name them.
#[derive(Default)]
pub(super) struct Logs {
    /// In the order of their ids; a partition that is removed leaves its place free.
    logs: Vec<Option<PartitionLog>>,
    free: Vec<u32>,
    /// Places of logs that are gone; the queues may still name them.
    gone: Vec<u32>,
    by_key: BTreeMap<PartitionKey, LogId>,
    /// Logs with something for the next commit group, oldest first.
    dirty: VecDeque<LogId>,
    /// Logs whose segments want write-back, sync or closing.
    write_back: VecDeque<LogId>,
    /// Logs with a block of their tail that may be evicted, each as often as it has one.
    evictable: VecDeque<LogId>,
    /// Memory of all tails.
    tail_bytes: usize,
    /// Idempotent producers remembered, over all partitions.
    producers: usize,
}

impl Logs {
    /// Adds a partition's log.
    pub fn insert(&mut self, partition: PartitionLog) -> LogId {
        let key = partition.key;
        self.producers += partition.producers.len();
        self.tail_bytes += partition.tail.capacity();
        let id = match self.free.pop() {
            Some(index) => {
                let before = self.logs[index as usize].replace(partition);
                assert!(before.is_none(), "a free place is empty");
                LogId(index)
            }
            None => {
                self.logs.push(Some(partition));
                LogId((self.logs.len() - 1) as u32)
            }
        };
        let before = self.by_key.insert(key, id);
        assert!(before.is_none(), "a partition has one log");
        id
    }

    /// A partition's log. The caller holds an id that is live.
    pub fn get(&self, log: LogId) -> &PartitionLog {
        self.logs[log.0 as usize].as_ref().expect("the caller holds a live LogId")
    }

    /// The same, to be changed.
    pub fn get_mut(&mut self, log: LogId) -> &mut PartitionLog {
        self.logs[log.0 as usize].as_mut().expect("the caller holds a live LogId")
    }

    /// A log that may have been removed.
    pub fn find_mut(&mut self, log: LogId) -> Option<&mut PartitionLog> {
        self.logs[log.0 as usize].as_mut()
    }

    /// Whether a log is there.
    pub fn is_live(&self, log: LogId) -> bool {
        self.logs[log.0 as usize].is_some()
    }

    /// The log of a partition, if it is here and not being removed.
    pub fn find(&self, key: PartitionKey) -> Option<LogId> {
        self.by_key.get(&key).copied()
    }

    /// The partitions that are here and not being removed, in the order of their keys.
    pub fn partitions(&self) -> &BTreeMap<PartitionKey, LogId> {
        &self.by_key
    }

    /// The first log at this place or behind it.
    pub fn next_live(&self, from: usize) -> Option<LogId> {
        let index = (from..self.logs.len()).find(|&index| self.logs[index].is_some())?;
        Some(LogId(index as u32))
    }

    /// Places of logs, free ones among them.
    pub fn places(&self) -> usize {
        self.logs.len()
    }

    /// A partition is not to be found any more; its log stays until nothing is under way for it.
    pub fn forget_key(&mut self, log: LogId) {
        let key = self.get(log).key;
        let known = self.by_key.remove(&key);
        assert_eq!(known, Some(log), "a partition is removed once");
    }

    /// Takes a log out whose partition is being removed, if nothing is under way for it.
    pub fn take_removed(&mut self, log: LogId) -> Option<PartitionLog> {
        let place = &mut self.logs[log.0 as usize];
        let partition = place.take_if(|partition| partition.removing && partition.is_idle())?;
        self.shrink_tails(partition.tail.capacity());
        self.forget_producers(partition.producers.len());
        self.gone.push(log.0);
        Some(partition)
    }

    /// Whether logs are gone that the queues may still name.
    pub fn has_gone(&self) -> bool {
        !self.gone.is_empty()
    }

    /// Takes the logs that are gone out of the queues, all at once: a topic may have thousands of them. Only then are
    /// their places used again.
    pub fn forget_gone(&mut self) {
        let logs = &self.logs;
        let is_live = |log: &LogId| logs[log.0 as usize].is_some();
        self.dirty.retain(is_live);
        self.write_back.retain(is_live);
        self.evictable.retain(is_live);
        self.free.append(&mut self.gone);
    }

    /// A log has something for the next commit group.
    pub fn mark_dirty(&mut self, log: LogId) {
        let partition = self.get_mut(log);
        if !std::mem::replace(&mut partition.is_dirty, true) {
            self.dirty.push_back(log);
        }
    }

    /// How many logs have something for the next commit group.
    pub fn dirty(&self) -> usize {
        self.dirty.len()
    }

    /// The log that has waited for the next commit group for the longest.
    pub fn next_dirty(&mut self) -> Option<LogId> {
        self.dirty.pop_front()
    }

    /// A log that was next still has something for a commit group.
    pub fn stays_dirty(&mut self, log: LogId) {
        assert!(self.get(log).is_dirty || self.get(log).removing, "it has something for a commit group");
        self.dirty.push_back(log);
    }

    /// A log's segments may want write-back, sync or closing.
    pub fn enqueue(&mut self, log: LogId) {
        let partition = self.get_mut(log);
        if !std::mem::replace(&mut partition.is_queued, true) {
            self.write_back.push_back(log);
        }
    }

    /// How many logs' segments may want something.
    pub fn queued(&self) -> usize {
        self.write_back.len()
    }

    /// The log whose segments have waited for the longest.
    pub fn next_queued(&mut self) -> Option<LogId> {
        let log = self.write_back.pop_front()?;
        let partition = self.get_mut(log);
        assert!(partition.is_queued, "what is in the queue is marked");
        partition.is_queued = false;
        Some(log)
    }

    /// Lists the blocks of a log's tail that have become evictable.
    pub fn note_evictable(&mut self, log: LogId) {
        let evictable = self.get_mut(log).take_evictable();
        self.evictable.extend(std::iter::repeat_n(log, evictable));
    }

    /// The log whose block is evicted next.
    pub fn next_evictable(&mut self) -> Option<LogId> {
        self.evictable.pop_front()
    }

    /// Memory of all tails, in bytes.
    pub fn tail_bytes(&self) -> usize {
        self.tail_bytes
    }

    /// A tail has taken more memory.
    pub fn grow_tails(&mut self, bytes: usize) {
        self.tail_bytes += bytes;
    }

    /// A tail has given memory back.
    pub fn shrink_tails(&mut self, bytes: usize) {
        assert!(bytes <= self.tail_bytes, "no tail gives back what it did not take");
        self.tail_bytes -= bytes;
    }

    /// Idempotent producers remembered, over all partitions.
    pub fn producers(&self) -> usize {
        self.producers
    }

    /// A partition remembers one more.
    pub fn remember_producer(&mut self) {
        self.producers += 1;
    }

    /// A partition has forgotten some.
    pub fn forget_producers(&mut self, count: usize) {
        assert!(count <= self.producers, "only what was remembered is forgotten");
        self.producers -= count;
    }
}
