//! The partitions this shard owns: who leads them, how far they are committed, and who waits for that.
//!
//! The high watermark is the offset below which every in-sync replica has everything durably. Consumers see nothing
//! above it, and `acks=all` waits for it. This node's own part of it is the durable end of the log.

use std::collections::{HashMap, VecDeque};

use millstream_replication::{ClusterImage, ErrorCode};
use millstream_storage::PartitionKey;
use millstream_storage::shard_log::LogId;

use crate::group::WriteId;
use crate::shard::event::{RequestId, ShardIndex};
use crate::shard::options::ShardOptions;

/// What this node is to a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It leads.
    Leader {
        /// Since when.
        leader_epoch: i32,
        /// Broker ids of the replicas in sync, this node's among them.
        in_sync_replicas: Vec<i32>,
    },
    /// It holds a replica, or what was one.
    Follower,
}

impl Role {
    /// What the process of these options is to a partition. It leads what it leads as the process that is registered: what
    /// its broker led before it started is not led by anybody.
    pub fn of(options: &ShardOptions, image: &ClusterImage, state: &millstream_replication::Partition) -> Role {
        let is_registered =
            || image.broker(options.node_id).is_some_and(|broker| broker.incarnation == options.incarnation);
        if state.leader != options.node_id || !is_registered() {
            return Role::Follower;
        }
        Role::Leader { leader_epoch: state.leader_epoch, in_sync_replicas: state.isr.to_vec() }
    }

    /// The epoch in which it leads, if it does.
    pub fn leader_epoch(&self) -> Option<i32> {
        match self {
            Role::Leader { leader_epoch, .. } => Some(*leader_epoch),
            Role::Follower => None,
        }
    }
}

/// Who is told that an append is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waiter {
    /// A client's append: its place among the waiting appends, and the index of the result there.
    Append { place: u32, result: u32 },
    /// A coordinator of groups: its write.
    Group { log: LogId, write: WriteId },
}

/// Bytes that are appended and not committed yet.
#[derive(Clone, Copy, Debug)]
struct Uncommitted {
    /// One past the last offset.
    end_offset: i64,
    /// `Partition::appended_bytes` when they were appended.
    appended_bytes: u64,
    /// `None`: it was told that this node leads no more.
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
    role: Role,
    /// `min.insync.replicas`
    pub min_insync_replicas: i32,
    /// `cleanup.policy` contains `delete`: records may be deleted.
    pub cleanup_delete: bool,
    high_watermark: i64,
    /// Bytes appended since the log was opened.
    appended_bytes: u64,
    /// Those of them below the high watermark.
    committed_bytes: u64,
    uncommitted: VecDeque<Uncommitted>,
    watchers: Vec<Watcher>,
}

impl Partition {
    /// What this node is to it.
    pub fn role(&self) -> &Role {
        &self.role
    }

    /// This node is something else to it from now on.
    pub fn set_role(&mut self, role: Role) {
        if let (Role::Leader { leader_epoch: before, .. }, Role::Leader { leader_epoch, .. }) = (&self.role, &role) {
            assert!(leader_epoch >= before, "leader epochs do not go back");
        }
        self.role = role;
    }

    /// Whether this node leads it.
    pub fn is_led(&self) -> bool {
        self.role.leader_epoch().is_some()
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

    /// Whether enough replicas are in sync for `acks=all`.
    pub fn has_enough_replicas(&self) -> bool {
        match &self.role {
            Role::Leader { in_sync_replicas, .. } => {
                in_sync_replicas.len() as i64 >= i64::from(self.min_insync_replicas)
            }
            Role::Follower => false,
        }
    }

    /// Batches up to `end_offset` were appended: `bytes` of them, none for a duplicate. Returns whether they are
    /// committed already; if not, `waiter` is told when they are.
    pub fn appended(&mut self, end_offset: i64, bytes: usize, waiter: Waiter) -> bool {
        self.appended_bytes += bytes as u64;
        if end_offset <= self.high_watermark {
            assert_eq!(bytes, 0, "what is appended lies above the high watermark");
            return true;
        }
        // A duplicate may wait for a batch that is not the last.
        if let Some(last) = self.uncommitted.back() {
            assert!(bytes == 0 || end_offset > last.end_offset, "what is appended follows what was appended");
        }
        let appended_bytes = self.appended_bytes;
        self.uncommitted.push_back(Uncommitted { end_offset, appended_bytes, waiter: Some(waiter) });
        false
    }

    /// The log is committed up to `high_watermark`, which is the least durable end of the in-sync replicas: takes out who
    /// waited for that.
    pub fn advance(&mut self, high_watermark: i64, committed: &mut Vec<Waiter>, woken: &mut Vec<Watcher>) {
        assert!(high_watermark >= self.high_watermark, "what was committed stays so");
        self.high_watermark = high_watermark;
        while let Some(front) = self.uncommitted.front()
            && front.end_offset <= high_watermark
        {
            assert!(front.appended_bytes >= self.committed_bytes, "bytes are committed in the order of their appends");
            self.committed_bytes = front.appended_bytes;
            committed.extend(front.waiter);
            self.uncommitted.pop_front();
        }
        assert!(self.committed_bytes <= self.appended_bytes, "what is committed was appended");
        let committed_bytes = self.committed_bytes;
        self.wake(woken, |watcher| committed_bytes >= watcher.committed_bytes);
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
        let Role::Leader { leader_epoch, .. } = partition.role else { return Err(ErrorCode::NotLeaderOrFollower) };
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
                role: Role::Follower,
                min_insync_replicas: 1,
                cleanup_delete: true,
                high_watermark: committed,
                appended_bytes: 0,
                committed_bytes: 0,
                uncommitted: VecDeque::new(),
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
