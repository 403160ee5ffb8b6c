//! A replica of a partition: who leads, who is in sync, what is committed, and where a follower's log is to be cut. Kafka's
//! `Partition` and `AbstractFetcherThread`, with a stream of ours between leader and follower instead of fetches.
//!
//! Pure: [`Replica::handle`] is told what has happened and adds what is to be done; time comes with it. There is no log in
//! it. Its host has one beside each log, tells it where that ends and what is durable, looks epochs up for it
//! ([`millstream_storage::epochs::LeaderEpochs`]), and does what it says. The host
//!
//! * gives [`Event::Assigned`] when the partition's record, or the broker of one of its replicas, has changed;
//! * notes the epoch of [`Effect::BecomeLeader`] in the log's epochs before anything is appended in it, and drops at
//!   [`Effect::BecomeFollower`] those that start at the log's end: nothing was appended in them, and others may come before;
//! * asks [`Replica::may_append`] before an append of a producer, [`Replica::accepts`] before one of the leader;
//! * calls [`Replica::handle`] with [`Event::Tick`] at [`Replica::next_deadline`]: none while nobody lags;
//! * gives nothing of a log that is being cut between [`Effect::Restart`] and [`Event::Restarted`];
//! * sends no range of offsets to a follower that spans an epoch: what follows the end of one is a section of its own, even if
//!   compaction has left nothing there ([`Event::Skip`]).
//!
//! `docs/2026-11-28-replica.md` explains the rules, and how the model shows that each is needed.

mod follower;
mod leader;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::time::Duration;

use crate::controller::{AlterPartition, AlteredPartition};
use crate::error::ErrorCode;
use crate::record::{NO_LEADER, Partition};
use crate::rule::{Rule, holds};
use follower::Follower;
use leader::Leader;

/// How long a replica waits before it asks again what was refused for now: a proposal, or to follow.
pub const RETRY: Duration = Duration::from_millis(100);

/// The same where a disk is full or a file cannot be read: what is sent meanwhile is thrown away.
pub const STORAGE_RETRY: Duration = Duration::from_secs(1);

/// Who has left the in-sync set is to be caught up twice, so far apart, before it joins again: or it comes and goes.
pub const CAUGHT_UP_TWICE: Duration = Duration::from_millis(500);

/// How many replicas have to be in sync for `acks=all`: `min.insync.replicas`, but no more than there are, as in Kafka.
pub fn effective_min_insync(configured: i32, replication_factor: usize) -> usize {
    usize::try_from(configured).unwrap_or(0).clamp(1, replication_factor.max(1))
}

/// Where a leader epoch ends in a log: [`millstream_storage::epochs::LeaderEpochs::end_offset`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EpochEnd {
    /// The largest epoch that the log knows at or below the one that was asked for; -1: none.
    pub epoch: i32,
    /// The offset after its last record; -1: unknown.
    pub end: i64,
}

/// What a replica has to know of its log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Log {
    /// The first offset that may be read, durably: what lies below was deleted.
    pub start: i64,
    /// The offset after the last record.
    pub end: i64,
    /// The offset up to which everything is durable; at most `end`.
    pub durable_end: i64,
    /// The leader epoch of its last record, or of the last range that it has skipped; -1 where it is empty.
    pub last_epoch: i32,
}

/// A broker that has a replica of the partition, as the image knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registered {
    /// Its number.
    pub node_id: i32,
    /// The epoch of its registration.
    pub epoch: i64,
    /// It is not fenced and not about to stop.
    pub is_usable: bool,
}

/// What an image says of the partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The partition.
    pub partition: Partition,
    /// Those of its replicas that are registered.
    pub brokers: Vec<Registered>,
    /// [`effective_min_insync`] of its topic.
    pub min_insync: usize,
}

impl Assignment {
    fn broker(&self, node_id: i32) -> Option<&Registered> {
        self.brokers.iter().find(|broker| broker.node_id == node_id)
    }
}

/// A follower wants to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FollowRequest {
    /// Its broker.
    pub node_id: i32,
    /// That of its process.
    pub broker_epoch: i64,
    /// Names the question: the answer names it, too.
    pub follow_id: u32,
    /// The leader epoch that it knows.
    pub leader_epoch: i32,
    /// The offset after its last record.
    pub offset: i64,
    /// The epoch of its last record; -1: it has none.
    pub last_epoch: i32,
    /// Where its log starts.
    pub log_start: i64,
}

/// Why a follower does not take more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StallReason {
    /// Its disk is full: it leaves the in-sync set at once.
    NoSpace,
    /// Its disk is slow: it leaves when it lags for too long, like everybody.
    SlowDisk,
}

/// What happens to a replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// An image says this. It may have been said before, and older than what the controller has answered.
    Assigned(Assignment),
    /// It leads, and records of producers were appended.
    Appended {
        /// The offset after the last record.
        log_end: i64,
    },
    /// Its log is durable up to here.
    Durable {
        /// An offset.
        end: i64,
    },
    /// Its log starts here, durably: what lies below was deleted.
    LogStart {
        /// An offset, not above what is committed.
        start: i64,
    },
    /// A follower asks to follow.
    Follow {
        /// What it says.
        asked: FollowRequest,
        /// Where the last epoch of the follower ends in this log, looked up by the host.
        epoch_end: EpochEnd,
        /// Where this log starts; where that lies within a batch, the offset at which that begins.
        log_start: i64,
        /// The epoch with which this log starts, looked up by the host; -1: it is not known.
        start_epoch: i32,
    },
    /// A follower has this durably.
    Ack {
        /// Its broker.
        node_id: i32,
        /// That of its process.
        broker_epoch: i64,
        /// The [`FollowRequest::follow_id`] by which it follows.
        follow_id: u32,
        /// An offset.
        durable_end: i64,
        /// Where its log starts, durably; not above `durable_end`.
        log_start: i64,
    },
    /// A follower does not take more for now.
    Stalled {
        /// Its broker.
        node_id: i32,
        /// Why.
        why: StallReason,
    },
    /// A follower takes more again. (Or it follows anew, or says that it has more.)
    Resumed {
        /// Its broker.
        node_id: i32,
    },
    /// The stream to a broker is open: whoever follows it asks.
    StreamOpen {
        /// The broker.
        node_id: i32,
    },
    /// The stream to or from a broker is closed.
    StreamClosed {
        /// The broker.
        node_id: i32,
    },
    /// The controller has answered a proposal, or nobody has.
    Altered {
        /// The partition epoch of the proposal.
        partition_epoch: i32,
        /// What the partition is now, or the error.
        result: Result<AlteredPartition, ErrorCode>,
    },
    /// The leader sends from now on.
    FollowOk {
        /// Of the question.
        follow_id: u32,
        /// Names what the leader sends by this answer.
        handle: u32,
        /// That of the leader.
        high_watermark: i64,
        /// That of the leader.
        log_start: i64,
    },
    /// The leader has something else from some offset on.
    Diverged {
        /// Of the question.
        follow_id: u32,
        /// Where the epoch of the question ends at the leader.
        epoch_end: EpochEnd,
        /// Where the epoch of `epoch_end` ends in this log, looked up by the host.
        own: EpochEnd,
    },
    /// The leader does not let it follow.
    Refused {
        /// Of the question.
        follow_id: u32,
        /// Why.
        error: ErrorCode,
        /// Where the leader's log starts.
        log_start: i64,
        /// Where it ends; -1: it is not known.
        log_end: i64,
    },
    /// What the leader has sent is appended: [`Replica::accepts`] was true.
    Accepted {
        /// The offset after the last record.
        log_end: i64,
        /// The epoch of the last record.
        last_epoch: i32,
        /// That of the leader, when it sent this.
        high_watermark: i64,
    },
    /// Nothing is left at the leader between the end of this log and an offset.
    Skip {
        /// As of the answer by which it is sent.
        handle: u32,
        /// An offset, not above the end of the epoch.
        to: i64,
        /// The epoch that was there.
        epoch: i32,
        /// That of the leader.
        high_watermark: i64,
    },
    /// What has changed at the leader without a record.
    Marks {
        /// As of the answer by which it is sent.
        handle: u32,
        /// That of the leader.
        high_watermark: i64,
        /// That of the leader.
        log_start: i64,
    },
    /// The log is as [`Effect::Restart`] wanted it, durably.
    Restarted {
        /// Where it starts.
        log_start: i64,
        /// The offset after the last record: at most that at which it was to begin.
        log_end: i64,
        /// The epoch of the last record; -1: there is none.
        last_epoch: i32,
    },
    /// [`Replica::next_deadline`] has come.
    Tick,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// It leads from now on.
    BecomeLeader {
        /// The epoch.
        epoch: i32,
        /// The end of the log, where the epoch starts: the host notes it in the log's epochs.
        epoch_start: i64,
    },
    /// It follows from now on: the host drops epochs that start at the end of the log.
    BecomeFollower {
        /// The broker that leads.
        leader: i32,
        /// The epoch.
        epoch: i32,
    },
    /// It leads no more: whoever waits is told so.
    LoseLeadership {
        /// The epoch in which it led.
        epoch: i32,
    },
    /// Tells a follower that it is sent what it lacks.
    FollowOk {
        /// The follower.
        node_id: i32,
        /// Of its question.
        follow_id: u32,
        /// From this offset on.
        offset: i64,
    },
    /// Tells a follower where to cut.
    Diverged {
        /// The follower.
        node_id: i32,
        /// Of its question.
        follow_id: u32,
        /// Where the epoch of its question ends here.
        epoch_end: EpochEnd,
    },
    /// Tells a follower that it cannot follow.
    Refused {
        /// The follower.
        node_id: i32,
        /// Of its question.
        follow_id: u32,
        /// OFFSET_OUT_OF_RANGE: it is to begin anew where the leader's log starts. Others: not here, or not now.
        error: ErrorCode,
    },
    /// There is something to send to a follower.
    Send {
        /// The follower.
        node_id: i32,
    },
    /// The high watermark has moved: what is below is committed. Consumers may read it, `acks=all` is done.
    HighWatermark(i64),
    /// It leads, and the logs of all in sync start here or later, durably: what is below stays deleted, whoever leads next
    /// (KIP-107).
    LowWatermark(i64),
    /// It leads, and its log is durable up to here: `acks=1` is done. Not where that is the high watermark anyway, as it is the
    /// only replica.
    DurableEnd(i64),
    /// The controller is to be asked. At most one of a partition is under way; it is answered by [`Event::Altered`].
    Propose(AlterPartition),
    /// The leader is to be asked. Without a stream to it nothing happens until [`Event::StreamOpen`].
    Follow {
        /// The broker that leads.
        leader: i32,
        /// Names the question.
        follow_id: u32,
        /// The epoch in which it leads.
        leader_epoch: i32,
        /// The offset after the last record.
        offset: i64,
        /// The epoch of the last record; -1: there is none.
        last_epoch: i32,
    },
    /// Tells the leader what is durable.
    Ack {
        /// The broker that leads.
        leader: i32,
        /// The question by which it follows.
        follow_id: u32,
        /// An offset.
        durable_end: i64,
        /// Where its log starts, durably.
        log_start: i64,
    },
    /// The log's restart: records at and above `keep_below` go, the next one has the offset `begin_at`. It is a barrier.
    Restart {
        /// An offset; 0: nothing is kept.
        keep_below: i64,
        /// An offset.
        begin_at: i64,
        /// The epoch of what is skipped between the two, to be noted from `keep_below` on.
        skipped_epoch: Option<i32>,
    },
    /// What is below may be deleted, as the leader has done.
    LogStart(i64),
    /// Committed records are cut: an unclean election has given them up.
    Lost {
        /// The first offset that is cut.
        from: i64,
        /// The high watermark.
        to: i64,
    },
}

/// What a leader knows of its partition: for who wants to look at it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Led {
    /// How many replicas it has.
    pub replicas: usize,
    /// How many of them are in sync, as the controller has said last.
    pub in_sync: usize,
    /// How many have to be for `acks=all`: [`effective_min_insync`].
    pub min_insync: usize,
    /// Records that followers do not have durably, over all that have said what they have since this leader leads.
    pub lag: u64,
    /// Those that the one of them lacks which lacks most.
    pub lag_largest: u64,
}

/// What leader and follower share.
#[derive(Clone, Debug)]
struct Own {
    node_id: i32,
    broker_epoch: i64,
    lag_time_max: Duration,
    log: Log,
    high_watermark: i64,
}

impl Own {
    /// Records were appended in an epoch.
    fn appended(&mut self, log_end: i64, epoch: i32) {
        assert!(log_end > self.log.end, "records were appended: {log_end}, {:?}", self.log);
        (self.log.end, self.log.last_epoch) = (log_end, epoch);
    }

    /// The log is durable up to an offset. Whether that is more than it was.
    fn durable(&mut self, end: i64) -> bool {
        assert!(end <= self.log.end, "what is durable was appended: {end}, {:?}", self.log);
        let is_more = end > self.log.durable_end;
        self.log.durable_end = self.log.durable_end.max(end);
        is_more
    }

    fn raise(&mut self, high_watermark: i64, out: &mut Vec<Effect>) {
        if high_watermark > self.high_watermark {
            assert!(high_watermark <= self.log.durable_end, "what is committed is durable: {high_watermark}, {self:?}");
            self.high_watermark = high_watermark;
            out.push(Effect::HighWatermark(high_watermark));
        }
    }
}

#[derive(Clone, Debug)]
enum Role {
    /// Nobody leads, or this broker has no replica.
    Idle,
    Leader(Box<Leader>),
    Follower(Follower),
}

/// A replica of a partition.
#[derive(Clone, Debug)]
pub struct Replica {
    own: Own,
    /// The newest that are known; -1: none.
    leader_epoch: i32,
    partition_epoch: i32,
    role: Role,
    /// It leads, it is the only replica, and that is enough. What it appends is committed when it is durable, and nothing else
    /// has to be looked at for that: most replicas of a broker that is alone are not in the cache when they are wanted.
    is_sole: bool,
    /// What was assigned while the log is being cut.
    waiting: Option<Assignment>,
    follow_ids: u32,
}

impl Replica {
    /// A replica of a process of the broker `node_id` that was registered with `broker_epoch`. `high_watermark` is one that
    /// was seen before, or 0; the end of the log is none. `lag_time_max` is `replica.lag.time.max.ms`.
    pub fn new(node_id: i32, broker_epoch: i64, lag_time_max: Duration, log: Log, high_watermark: i64) -> Replica {
        assert!(log.durable_end <= log.end && log.start <= log.durable_end, "{log:?}");
        let high_watermark = high_watermark.min(log.durable_end);
        let own = Own { node_id, broker_epoch, lag_time_max, log, high_watermark };
        Replica {
            own,
            leader_epoch: -1,
            partition_epoch: -1,
            role: Role::Idle,
            is_sole: false,
            waiting: None,
            follow_ids: 0,
        }
    }

    /// Everything below is committed: consumers may read it, here too where it follows (KIP-392).
    pub fn high_watermark(&self) -> i64 {
        self.own.high_watermark
    }

    /// The registration of whose process it is.
    pub fn broker_epoch(&self) -> i64 {
        self.own.broker_epoch
    }

    /// What it knows of its log.
    pub fn log(&self) -> Log {
        self.own.log
    }

    /// The newest epoch of a leader that it knows; -1: none.
    pub fn leader_epoch(&self) -> i32 {
        self.leader_epoch
    }

    /// The epoch in which it leads, if it does.
    pub fn leads(&self) -> Option<i32> {
        matches!(self.role, Role::Leader(_)).then_some(self.leader_epoch)
    }

    /// Who is in sync and how far followers are, if it leads.
    pub fn led(&self) -> Option<Led> {
        match &self.role {
            Role::Leader(leader) => Some(leader.led(&self.own)),
            _ => None,
        }
    }

    /// Below which offset records stay deleted whoever leads next, if it leads: [`Effect::LowWatermark`].
    pub fn low_watermark(&self) -> Option<i64> {
        match &self.role {
            Role::Leader(leader) => Some(leader.low_watermark()),
            _ => None,
        }
    }

    /// How many committed records its log lacks, as far as it knows: what its leader has said to be committed, and is not
    /// appended here. None while it follows nobody.
    pub fn behind_committed(&self) -> Option<u64> {
        match &self.role {
            Role::Idle => None,
            Role::Leader(_) => Some(0),
            Role::Follower(follower) => {
                let behind = follower.high_watermark()?.saturating_sub(self.own.log.end);
                Some(u64::try_from(behind).unwrap_or(0))
            }
        }
    }

    /// Whether it leads and knows where what is committed ends: a leader that is new may lag behind the one before it until
    /// what it began with is committed (KIP-207).
    pub fn knows_committed_end(&self) -> bool {
        matches!(&self.role, Role::Leader(leader) if leader.knows_committed_end(&self.own))
    }

    /// Whether a producer's records may be appended: NOT_LEADER_OR_FOLLOWER, or NOT_ENOUGH_REPLICAS with `acks=all`.
    pub fn may_append(&self, is_acks_all: bool) -> Result<(), ErrorCode> {
        match &self.role {
            _ if self.is_sole => Ok(()),
            Role::Leader(leader) if is_acks_all && !leader.has_enough() => Err(ErrorCode::NotEnoughReplicas),
            Role::Leader(_) => Ok(()),
            _ => Err(ErrorCode::NotLeaderOrFollower),
        }
    }

    /// What becomes of a producer that waits with `acks=all` for what it has appended in `epoch` up to the offset `end`. None:
    /// it waits on.
    pub fn acknowledged(&self, epoch: i32, end: i64) -> Option<Result<(), ErrorCode>> {
        match &self.role {
            Role::Leader(leader) if self.leader_epoch == epoch => match end <= self.own.high_watermark {
                true if leader.has_enough() => Some(Ok(())),
                true => Some(Err(ErrorCode::NotEnoughReplicasAfterAppend)),
                false => None,
            },
            _ => Some(Err(ErrorCode::NotLeaderOrFollower)),
        }
    }

    /// Whether what the leader has sent is to be appended: it belongs to the newest answer, and continues this log.
    pub fn accepts(&self, handle: u32, base_offset: i64) -> bool {
        match &self.role {
            Role::Follower(follower) => follower.is_sent(handle) && base_offset == self.own.log.end,
            _ => false,
        }
    }

    /// When [`Event::Tick`] is wanted.
    pub fn next_deadline(&self) -> Option<Duration> {
        match &self.role {
            _ if self.is_sole => None,
            Role::Idle => None,
            Role::Leader(leader) => leader.next_deadline(&self.own),
            Role::Follower(follower) => follower.next_deadline(),
        }
    }

    /// Whether it waits for [`Event::Restarted`].
    fn is_restarting(&self) -> bool {
        matches!(&self.role, Role::Follower(follower) if follower.is_restarting())
    }

    /// Takes what has happened at `now`, adds what is to be done. Returns whether [`Replica::led`] and
    /// [`Replica::next_deadline`] may say something else than before.
    pub fn handle(&mut self, now: Duration, event: Event, out: &mut Vec<Effect>) -> bool {
        match event {
            Event::Appended { log_end } if self.is_sole => {
                self.own.appended(log_end, self.leader_epoch);
                return false;
            }
            Event::Durable { end } if self.is_sole => {
                // Who waits for it to be durable has it by that, too.
                if self.own.durable(end) {
                    self.own.raise(end, out);
                }
                return false;
            }
            Event::Assigned(assigned) if self.is_restarting() => self.waiting = Some(assigned),
            Event::Assigned(assigned) => self.assigned(now, assigned, out),
            Event::Durable { end } => self.durable(now, end, out),
            Event::LogStart { start } => self.log_start(now, start, out),
            Event::Follow { asked, .. } if self.leads() != Some(asked.leader_epoch) => {
                let error = match asked.leader_epoch {
                    theirs if theirs < self.leader_epoch => ErrorCode::FencedLeaderEpoch,
                    theirs if theirs > self.leader_epoch => ErrorCode::UnknownLeaderEpoch,
                    _ => ErrorCode::NotLeaderOrFollower,
                };
                let FollowRequest { node_id, follow_id, .. } = asked;
                out.push(Effect::Refused { node_id, follow_id, error });
            }
            Event::Restarted { log_start, log_end, last_epoch } => {
                let log = Log { start: log_start, end: log_end, durable_end: log_end, last_epoch };
                self.restarted(now, log, out)
            }
            event => match &mut self.role {
                Role::Idle => {}
                Role::Leader(leader) => leader.handle(now, &mut self.own, event, out),
                Role::Follower(follower) => follower.handle(now, &mut self.own, &mut self.follow_ids, event, out),
            },
        }
        self.is_sole = false;
        if let Role::Leader(leader) = &self.role {
            self.partition_epoch = leader.partition_epoch();
            self.is_sole = leader.is_sole();
        }
        assert!(self.own.high_watermark <= self.own.log.durable_end, "what is committed is durable: {:?}", self.own);
        true
    }

    fn durable(&mut self, now: Duration, end: i64, out: &mut Vec<Effect>) {
        if !self.own.durable(end) {
            return;
        }
        match &mut self.role {
            Role::Idle => {}
            Role::Leader(leader) => {
                out.push(Effect::DurableEnd(end));
                leader.consider(now, &mut self.own, out);
            }
            Role::Follower(follower) => follower.durable(&mut self.own, out),
        }
    }

    fn log_start(&mut self, now: Duration, start: i64, out: &mut Vec<Effect>) {
        let log = &mut self.own.log;
        assert!(start <= log.durable_end, "only what is committed is deleted, and that is durable: {start}, {log:?}");
        if start <= log.start {
            return;
        }
        log.start = start;
        match &mut self.role {
            Role::Idle => {}
            Role::Leader(leader) => leader.consider(now, &mut self.own, out),
            Role::Follower(follower) => follower.ack(&self.own, out),
        }
    }

    fn restarted(&mut self, now: Duration, log: Log, out: &mut Vec<Effect>) {
        assert!(self.is_restarting(), "only what was cut begins again");
        // The log may have kept less than it was asked to, of what was not durable: nothing that was committed.
        assert!(self.own.high_watermark <= log.end, "what is committed is kept: {:?}, {log:?}", self.own);
        self.own.log = log;
        let Role::Follower(follower) = &mut self.role else { unreachable!("only a follower's log is cut") };
        follower.restarted();
        if let Some(assigned) = self.waiting.take() {
            self.assigned(now, assigned, out);
        }
        if let Role::Follower(follower) = &mut self.role {
            follower.go_on(&self.own, &mut self.follow_ids, out);
        }
    }

    fn assigned(&mut self, now: Duration, assigned: Assignment, out: &mut Vec<Effect>) {
        let me = self.own.node_id;
        match assigned.broker(me) {
            // The log is another than that of the process before: it may not go on where that one stopped.
            Some(registered) if registered.epoch < self.own.broker_epoch && holds(Rule::AwaitOwnRegistration) => return,
            None if self.leader_epoch < 0 => return,
            _ => {}
        }
        let Partition { leader, leader_epoch, partition_epoch, .. } = assigned.partition;
        let is_older = leader_epoch < self.leader_epoch || partition_epoch < self.partition_epoch;
        let has_replaced = assigned.broker(me).is_some_and(|registered| registered.epoch > self.own.broker_epoch);
        let is_mine = assigned.partition.replicas.contains(&me) && !has_replaced;
        if leader_epoch > self.leader_epoch || !is_mine {
            if let Some(epoch) = self.leads() {
                out.push(Effect::LoseLeadership { epoch });
            }
            self.role = Role::Idle;
            self.leader_epoch = self.leader_epoch.max(leader_epoch);
            self.partition_epoch = self.partition_epoch.max(partition_epoch);
            if !is_mine || leader == NO_LEADER {
                return;
            }
            if leader == me {
                let leads = Leader::new(now, &self.own, &assigned);
                out.push(Effect::BecomeLeader { epoch: leader_epoch, epoch_start: self.own.log.end });
                self.role = Role::Leader(Box::new(leads));
            } else {
                out.push(Effect::BecomeFollower { leader, epoch: leader_epoch });
                self.role = Role::Follower(Follower::new(leader, leader_epoch));
            }
        }
        match &mut self.role {
            Role::Leader(leader) => {
                leader.assigned(now, &self.own, &assigned, is_older);
                leader.consider(now, &mut self.own, out);
            }
            Role::Follower(follower) => {
                self.partition_epoch = self.partition_epoch.max(partition_epoch);
                follower.begin(&mut self.own, &mut self.follow_ids, out);
            }
            Role::Idle => self.partition_epoch = self.partition_epoch.max(partition_epoch),
        }
    }
}
