//! The partitions this shard owns: how far they are committed, and who waits for that.
//!
//! A partition's [`Replica`] decides: who leads, what is committed, who is in sync. It is there from when this process is
//! registered: before that nobody knows what it leads. The high watermark is the offset below which every in-sync replica has
//! everything durably. Consumers see nothing above it, and `acks=all` waits for it; `acks=1` and `acks=0` wait for what is
//! durable at the leader.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use millstream_replication::ErrorCode;
use millstream_replication::replica::Replica;
use millstream_storage::PartitionKey;
use millstream_storage::shard_log::LogId;

use super::tally::Counted;
use crate::group::WriteId;
use crate::shard::event::{RequestId, ShardIndex};

/// Who is told that an append is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiter {
    /// A client's append: its place among the waiting appends, and the index of the result there.
    Append { place: u32, result: u32 },
    /// A coordinator of groups: its write.
    Group { log: LogId, write: WriteId },
}

/// What an append waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// It is durable here, where the partition is led: `acks` 0 and 1.
    Durable,
    /// It is committed: `acks=all`.
    Committed,
}

/// Bytes that are appended and not committed yet.
#[derive(Clone, Copy, Debug)]
struct Uncommitted {
    /// One past the last offset.
    end_offset: i64,
    /// `Partition::appended_bytes` when they were appended.
    appended_bytes: u64,
    until: Until,
    /// `None`: it was told.
    waiter: Option<Waiter>,
}

/// Who wants to know when a partition has more to read.
#[derive(Clone, Copy, Debug)]
pub struct Watcher {
    /// The session's shard.
    pub from: ShardIndex,
    /// The request.
    pub request: RequestId,
    /// The partition's place in the request.
    pub slot: u32,
    /// Wake at this many committed bytes.
    pub committed_bytes: u64,
    /// Wake when the log start offset is no longer this one.
    pub log_start_offset: i64,
}

/// A partition.
#[derive(Debug)]
pub struct Partition {
    /// Its name.
    pub key: PartitionKey,
    /// What this process is to it, since it is registered.
    pub replica: Option<Replica>,
    /// `cleanup.policy` contains `delete`: records may be deleted.
    pub cleanup_delete: bool,
    /// When the replica wants to be asked, as [`super::replicas::Replicas`] has it in its order.
    pub deadline: Option<Duration>,
    /// What [`super::tally::Tally`] has counted of it.
    pub counted: Counted,
    high_watermark: i64,
    /// Bytes appended since the log was opened.
    appended_bytes: u64,
    /// Those of them below the high watermark.
    committed_bytes: u64,
    uncommitted: VecDeque<Uncommitted>,
    /// So many of them, from the front, are durable here.
    durable: usize,
    watchers: Vec<Watcher>,
}

impl Partition {
    /// The epoch in which this node leads, if it does.
    pub fn leader_epoch(&self) -> Option<i32> {
        self.replica.as_ref().and_then(Replica::leads)
    }

    /// Whether this node leads it.
    pub fn is_led(&self) -> bool {
        self.leader_epoch().is_some()
    }

    /// Takes out who waits: this node leads no more, or anew, or holds the partition no more. What was appended may still
    /// be committed.
    pub fn dismiss(&mut self, waiting: &mut Vec<Waiter>, woken: &mut Vec<Watcher>) {
        waiting.extend(self.uncommitted.iter_mut().filter_map(|uncommitted| uncommitted.waiter.take()));
        woken.append(&mut self.watchers);
    }

    /// One past the last offset that consumers may read. Without transactions also the last stable offset.
    pub fn high_watermark(&self) -> i64 {
        self.high_watermark
    }

    /// Bytes committed since the log was opened.
    pub fn committed_bytes(&self) -> u64 {
        self.committed_bytes
    }

    /// Whether a producer may append (KIP-966: with `acks=all` only while enough replicas are in sync).
    pub fn may_append(&self, until: Until) -> Result<(), ErrorCode> {
        match &self.replica {
            Some(replica) => replica.may_append(until == Until::Committed),
            None => Err(ErrorCode::NotLeaderOrFollower),
        }
    }

    /// Batches up to `end_offset` were appended: `bytes` of them, none for a duplicate, while the log is durable up to
    /// `durable_end`. Returns whether what the waiter waits for is so already; if not, it is told when it is.
    pub fn appended(
        &mut self,
        end_offset: i64,
        bytes: usize,
        durable_end: i64,
        (until, waiter): (Until, Waiter),
    ) -> bool {
        self.appended_bytes += bytes as u64;
        if end_offset <= self.high_watermark {
            assert_eq!(bytes, 0, "what is appended lies above the high watermark");
            return true;
        }
        if until == Until::Durable && end_offset <= durable_end {
            assert_eq!(bytes, 0, "what is appended lies above the durable end");
            return true;
        }
        // A duplicate may wait for a batch that is not the last.
        if let Some(last) = self.uncommitted.back() {
            assert!(bytes == 0 || end_offset > last.end_offset, "what is appended follows what was appended");
        }
        let appended_bytes = self.appended_bytes;
        self.uncommitted.push_back(Uncommitted { end_offset, appended_bytes, until, waiter: Some(waiter) });
        false
    }

    /// The log is durable here up to an offset: takes out who waited for that.
    pub fn durable(&mut self, end: i64, released: &mut Vec<Waiter>) {
        while let Some(next) = self.uncommitted.get_mut(self.durable)
            && next.end_offset <= end
        {
            if next.until == Until::Durable {
                released.extend(next.waiter.take());
            }
            self.durable += 1;
        }
    }

    /// The log is committed up to `high_watermark`, which is the least durable end of the in-sync replicas: takes out who
    /// waited for that.
    pub fn advance(&mut self, high_watermark: i64, committed: &mut Vec<Waiter>, woken: &mut Vec<Watcher>) {
        assert!(high_watermark >= self.high_watermark, "what was committed stays so");
        let has_moved = high_watermark > std::mem::replace(&mut self.high_watermark, high_watermark);
        let committed_bytes = self.committed_bytes;
        while let Some(front) = self.uncommitted.front()
            && front.end_offset <= high_watermark
        {
            assert!(front.appended_bytes >= self.committed_bytes, "bytes are committed in the order of their appends");
            self.committed_bytes = front.appended_bytes;
            committed.extend(front.waiter);
            self.uncommitted.pop_front();
            self.durable = self.durable.saturating_sub(1);
        }
        assert!(self.committed_bytes <= self.appended_bytes, "what is committed was appended");
        // What was appended while another led is not counted: whoever watches looks for itself.
        let is_uncounted = has_moved && self.committed_bytes == committed_bytes;
        let committed_bytes = self.committed_bytes;
        self.wake(woken, |watcher| is_uncounted || committed_bytes >= watcher.committed_bytes);
    }

    /// The log is cut: what lies at or above an offset is not there any more, and it goes on at another, up to which it may be
    /// committed. Nobody waits for it.
    pub fn cut(&mut self, offset: i64, begin_at: i64) {
        self.high_watermark = self.high_watermark.min(begin_at);
        assert!(self.uncommitted.iter().all(|cut| cut.waiter.is_none()), "a follower has nobody who waits");
        // Duplicates stand behind larger offsets than theirs.
        let is_kept = |uncommitted: &Uncommitted| uncommitted.end_offset <= offset;
        self.durable = self.uncommitted.range(..self.durable).filter(|uncommitted| is_kept(uncommitted)).count();
        self.uncommitted.retain(is_kept);
    }

    /// The log start offset moved.
    pub fn log_start_moved(&mut self, log_start_offset: i64, woken: &mut Vec<Watcher>) {
        self.wake(woken, |watcher| watcher.log_start_offset != log_start_offset);
    }

    /// Watches the partition, unless there is more to read already, or nothing here any more: then `false`.
    pub fn watch(&mut self, watcher: Watcher, log_start_offset: i64) -> bool {
        let has_more = self.committed_bytes >= watcher.committed_bytes;
        if !self.is_led() || has_more || watcher.log_start_offset != log_start_offset {
            return false;
        }
        self.watchers.push(watcher);
        true
    }

    /// Forgets the watches of a request.
    pub fn unwatch(&mut self, from: ShardIndex, request: RequestId) {
        self.watchers.retain(|watcher| watcher.request != request || watcher.from != from);
    }

    fn wake(&mut self, woken: &mut Vec<Watcher>, is_due: impl Fn(&Watcher) -> bool) {
        if !self.watchers.is_empty() {
            woken.extend(self.watchers.extract_if(.., |watcher| is_due(watcher)));
        }
    }
}

/// All partitions of the shard, by the place of their logs.
#[derive(Debug, Default)]
pub struct Partitions {
    by_key: HashMap<PartitionKey, LogId>,
    by_log: Vec<Option<Partition>>,
}

impl Partitions {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.by_key.len()
    }

    /// The partitions in some places, from one on, and whether these places are the last.
    pub fn places(&self, from: usize, count: usize) -> (impl Iterator<Item = (LogId, &Partition)>, bool) {
        let end = from.saturating_add(count).min(self.by_log.len());
        let places = (from..end).filter_map(|place| {
            let partition = self.by_log[place].as_ref()?;
            Some((LogId(u32::try_from(place).expect("places are 32 bits wide")), partition))
        });
        (places, end == self.by_log.len())
    }

    /// The place of a partition, if it is here.
    pub fn find(&self, key: PartitionKey) -> Option<LogId> {
        self.by_key.get(&key).copied()
    }

    /// The partition at a place, if it is still here.
    pub fn get_mut(&mut self, log: LogId) -> Option<&mut Partition> {
        self.by_log.get_mut(log.0 as usize)?.as_mut()
    }

    /// Finds a partition.
    pub fn find_mut(&mut self, key: PartitionKey) -> Option<(LogId, &mut Partition)> {
        let log = self.find(key)?;
        let partition = self.by_log[log.0 as usize].as_mut().expect("both tables have the same partitions");
        Some((log, partition))
    }

    /// Finds a partition that this node leads, and checks the leader epoch a client believes in, unless it is -1
    /// (KIP-320).
    pub fn leader(
        &mut self,
        key: PartitionKey,
        current_leader_epoch: i32,
    ) -> Result<(LogId, &mut Partition), ErrorCode> {
        // A session knows partitions from the same metadata as their owner, a moment earlier or later: both pass.
        let (log, partition) = self.find_mut(key).ok_or(ErrorCode::NotLeaderOrFollower)?;
        let Some(leader_epoch) = partition.leader_epoch() else { return Err(ErrorCode::NotLeaderOrFollower) };
        if current_leader_epoch >= 0 {
            if current_leader_epoch < leader_epoch {
                return Err(ErrorCode::FencedLeaderEpoch);
            }
            if current_leader_epoch > leader_epoch {
                return Err(ErrorCode::UnknownLeaderEpoch);
            }
        }
        Ok((log, partition))
    }

    /// The partition of a log, which is opened unless it is open; then its log is committed up to `committed`.
    pub fn open(&mut self, log: LogId, key: PartitionKey, committed: i64) -> &mut Partition {
        let place = log.0 as usize;
        if self.by_log.len() <= place {
            self.by_log.resize_with(place + 1, || None);
        }
        let partition = self.by_log[place].get_or_insert_with(|| {
            let previous = self.by_key.insert(key, log);
            assert!(previous.is_none(), "a partition has one log");
            Partition {
                key,
                replica: None,
                cleanup_delete: true,
                deadline: None,
                counted: Counted::default(),
                high_watermark: committed,
                appended_bytes: 0,
                committed_bytes: 0,
                uncommitted: VecDeque::new(),
                durable: 0,
                watchers: Vec::new(),
            }
        });
        assert_eq!(partition.key, key, "a log is that of one partition");
        partition
    }

    /// Forgets a partition for which nobody waits.
    pub fn close(&mut self, log: LogId) {
        let Some(partition) = self.by_log[log.0 as usize].take() else { return };
        let known = self.by_key.remove(&partition.key);
        assert_eq!(known, Some(log), "both tables have the same partitions");
        assert!(partition.watchers.is_empty(), "who watched was told");
    }
}

#[cfg(test)]
mod tests {
    use millstream_storage::TopicId;

    use super::*;
    use crate::shard::event::ConnectionId;

    #[test]
    fn who_watches_is_woken_by_what_was_appended_while_another_led() {
        let mut partitions = Partitions::default();
        let key = PartitionKey { topic_id: TopicId([1; 16]), partition: 0 };
        let partition = partitions.open(LogId(0), key, 10);
        let request = RequestId { connection: ConnectionId(1), sequence: 0 };
        let watcher = Watcher { from: 0, request, slot: 0, committed_bytes: 1, log_start_offset: 0 };
        partition.watchers.push(watcher);
        let mut woken = Vec::new();
        partition.advance(10, &mut Vec::new(), &mut woken);
        assert_eq!(woken.len(), 0, "nothing more is committed");
        partition.advance(12, &mut Vec::new(), &mut woken);
        assert_eq!(woken.len(), 1);
        // What was appended here is counted: who wants more than there is waits on.
        partition.watchers.push(Watcher { committed_bytes: 100, ..watcher });
        let waiter = Waiter::Append { place: 0, result: 0 };
        assert!(!partition.appended(13, 99, 12, (Until::Committed, waiter)));
        partition.advance(13, &mut Vec::new(), &mut woken);
        assert_eq!(woken.len(), 1);
    }

    #[test]
    fn what_is_cut_is_gone_also_where_duplicates_stand_behind_it() {
        let mut partitions = Partitions::default();
        let key = PartitionKey { topic_id: TopicId([1; 16]), partition: 0 };
        let partition = partitions.open(LogId(0), key, 0);
        let waiter = Waiter::Append { place: 0, result: 0 };
        for (end_offset, bytes) in [(10, 1), (20, 1), (30, 1), (40, 1), (20, 0), (40, 0)] {
            assert!(!partition.appended(end_offset, bytes, 0, (Until::Committed, waiter)));
        }
        partition.durable(30, &mut Vec::new());
        let mut dismissed = Vec::new();
        partition.dismiss(&mut dismissed, &mut Vec::new());
        assert_eq!(dismissed.len(), 6);
        partition.cut(25, 25);
        let ends: Vec<i64> = partition.uncommitted.iter().map(|uncommitted| uncommitted.end_offset).collect();
        assert_eq!((ends, partition.durable), (vec![10, 20, 20], 2));
        // It leads again, with a shorter log: who waits for the end of that is told when it is committed.
        assert!(!partition.appended(26, 1, 25, (Until::Committed, waiter)));
        let mut committed = Vec::new();
        partition.advance(26, &mut committed, &mut Vec::new());
        assert_eq!(committed, [waiter]);
        // A cut of what was committed is a loss, or the leader's log starts within a batch: what is below is committed again.
        partition.cut(0, 22);
        assert_eq!(partition.high_watermark(), 22);
        partition.advance(24, &mut committed, &mut Vec::new());
        assert_eq!(partition.high_watermark(), 24);
    }
}
