//! The side of a replica that leads: how far its followers are, what is committed by that, and who is in sync.

use std::time::Duration;

use super::{
    Assignment, CAUGHT_UP_TWICE, Effect, EpochEnd, Event, FollowRequest, Led, Own, RETRY, Registered, StallReason,
};
use crate::broker_ids::BrokerIds;
use crate::controller::{AlterPartition, AlteredPartition, UNKNOWN_BROKER_EPOCH};
use crate::error::ErrorCode;
use crate::rule::{Rule, holds};

/// The durable end and the log start of a follower that has not said them.
const UNKNOWN: i64 = -1;

/// A replica that leads.
#[derive(Clone, Debug)]
pub(super) struct Leader {
    epoch: i32,
    epoch_start: i64,
    /// Where the log started when the epoch did: no leader before this one has promised that it starts later.
    epoch_log_start: i64,
    /// What [`Effect::LowWatermark`] has said last.
    low_watermark: i64,
    partition_epoch: i32,
    /// Who is in sync, as the controller has said last.
    committed: BrokerIds,
    min_insync: usize,
    /// All other replicas.
    followers: Vec<Progress>,
    proposal: Option<Proposal>,
    /// Nothing is proposed before: what was proposed last was refused.
    propose_from: Duration,
}

/// How far a follower is.
#[derive(Clone, Debug)]
struct Progress {
    node_id: i32,
    registered: Option<Registered>,
    /// The process that it was heard of last, or [`UNKNOWN_BROKER_EPOCH`].
    broker_epoch: i64,
    /// By which question it follows, if it does.
    follow_id: Option<u32>,
    /// What that process has said to have durably.
    durable_end: i64,
    /// Where it has said that its log starts, durably.
    log_start: i64,
    /// Since when it has not had everything; it has if there is none. Under load it has hardly ever everything: then since
    /// when it has not had what there was at that time.
    behind_since: Option<Duration>,
    /// The end of the log at a time: who gets there was not behind at that time.
    mark: (i64, Duration),
    has_no_space: bool,
    /// It has left the in-sync set since this leader leads.
    has_left: bool,
    /// When it was caught up for the first time after that, and has not lagged since.
    caught_up: Option<Duration>,
}

#[derive(Clone, Debug)]
struct Proposal {
    asked: AlterPartition,
    state: ProposalState,
    /// Everybody whom a proposal for this partition epoch would make a member: as long as that epoch lasts, one of them may
    /// come true.
    counted: BrokerIds,
    /// It proposes what is committed already, so that what was refused cannot come true any more.
    is_withdrawal: bool,
}

#[derive(Clone, Copy, Debug)]
enum ProposalState {
    Sent,
    /// Nobody has decided: it is sent again.
    RetryAt(Duration),
    /// It was overtaken by something that the image is going to show.
    AwaitsImage,
}

impl Leader {
    pub(super) fn new(now: Duration, own: &Own, assigned: &Assignment) -> Leader {
        let partition = &assigned.partition;
        let followers = partition.replicas.iter().filter(|node_id| **node_id != own.node_id);
        let follower = |node_id: &i32| Progress::new(now, own, assigned.broker(*node_id).copied(), *node_id);
        assert!(partition.isr.contains(&own.node_id), "who leads is in sync: {partition:?}");
        Leader {
            epoch: partition.leader_epoch,
            epoch_start: own.log.end,
            epoch_log_start: own.log.start,
            low_watermark: 0,
            partition_epoch: partition.partition_epoch,
            committed: partition.isr.clone(),
            min_insync: assigned.min_insync,
            followers: followers.map(follower).collect(),
            proposal: None,
            propose_from: now,
        }
    }

    pub(super) fn partition_epoch(&self) -> i32 {
        self.partition_epoch
    }

    /// Below which offset records stay deleted, whoever leads next.
    pub(super) fn low_watermark(&self) -> i64 {
        self.low_watermark
    }

    /// Whether all that it began with is committed.
    pub(super) fn knows_committed_end(&self, own: &Own) -> bool {
        own.high_watermark >= self.epoch_start
    }

    /// Whether enough are in sync for `acks=all`.
    pub(super) fn has_enough(&self) -> bool {
        self.committed.len() >= self.min_insync
    }

    /// Whether there is no other replica, and need not be.
    pub(super) fn is_sole(&self) -> bool {
        self.followers.is_empty() && self.proposal.is_none() && self.has_enough()
    }

    pub(super) fn led(&self, own: &Own) -> Led {
        let mut led = Led {
            replicas: self.followers.len() + 1,
            in_sync: self.committed.len(),
            min_insync: self.min_insync,
            lag: 0,
            lag_largest: 0,
        };
        for follower in self.followers.iter().filter(|follower| follower.durable_end != UNKNOWN) {
            let lacks = u64::try_from(own.log.end - follower.durable_end).expect("what is durable was sent");
            led.lag += lacks;
            led.lag_largest = led.lag_largest.max(lacks);
        }
        led
    }

    /// An image says this, of a partition as it is known, or later; or as it was before, and only of the brokers something new.
    pub(super) fn assigned(&mut self, now: Duration, own: &Own, assigned: &Assignment, is_older: bool) {
        self.min_insync = assigned.min_insync;
        if !is_older {
            // The replicas of a partition may change while its leader stays.
            let replicas = &assigned.partition.replicas;
            self.followers.retain(|follower| replicas.contains(&follower.node_id));
            for node_id in replicas.iter().filter(|node_id| **node_id != own.node_id) {
                if self.follower(*node_id).is_none() {
                    self.followers.push(Progress::new(now, own, assigned.broker(*node_id).copied(), *node_id));
                }
            }
        }
        for follower in &mut self.followers {
            follower.registered = assigned.broker(follower.node_id).copied();
            let registered = follower.registered.map_or(0, |registered| registered.epoch);
            if follower.broker_epoch < registered && holds(Rule::IgnoreOlderProcesses) {
                follower.forget(now);
            }
        }
        let partition = &assigned.partition;
        if !is_older && partition.partition_epoch > self.partition_epoch {
            self.commit(partition.isr.clone(), partition.partition_epoch);
        }
    }

    pub(super) fn handle(&mut self, now: Duration, own: &mut Own, event: Event, out: &mut Vec<Effect>) {
        match event {
            Event::Appended { log_end } => self.appended(now, own, log_end, out),
            Event::Follow { asked, epoch_end, log_start, start_epoch } => {
                self.follow(now, own, asked, epoch_end, (log_start, start_epoch), out);
            }
            Event::Ack { node_id, broker_epoch, follow_id, durable_end, log_start } => {
                self.ack(now, own, (node_id, broker_epoch), follow_id, (durable_end, log_start));
            }
            Event::StreamClosed { node_id } => {
                if let Some(follower) = self.follower(node_id) {
                    // What it has said to have durably it goes on having. It says so again when it follows again.
                    follower.follow_id = None;
                }
            }
            Event::Stalled { node_id, why: StallReason::NoSpace } => {
                if let Some(follower) = self.follower(node_id) {
                    follower.has_no_space = true;
                }
            }
            Event::Resumed { node_id } => {
                if let Some(follower) = self.follower(node_id) {
                    follower.has_no_space = false;
                }
            }
            Event::Altered { partition_epoch, result } => self.altered(now, own, partition_epoch, result),
            Event::Tick => self.retry(now, out),
            // What is for a follower comes too late; a slow disk shows by how far its broker is.
            _ => return,
        }
        self.consider(now, own, out);
    }

    fn follower(&mut self, node_id: i32) -> Option<&mut Progress> {
        self.followers.iter_mut().find(|follower| follower.node_id == node_id)
    }

    fn appended(&mut self, now: Duration, own: &mut Own, log_end: i64, out: &mut Vec<Effect>) {
        own.appended(log_end, self.epoch);
        for follower in &mut self.followers {
            if follower.behind_since.is_none() {
                follower.behind_since = Some(now);
                follower.mark = (log_end, now);
            }
            if follower.follow_id.is_some() {
                out.push(Effect::Send { node_id: follower.node_id });
            }
        }
    }

    fn follow(
        &mut self,
        now: Duration,
        own: &Own,
        asked: FollowRequest,
        epoch_end: EpochEnd,
        (log_start, start_epoch): (i64, i32),
        out: &mut Vec<Effect>,
    ) {
        let FollowRequest { node_id, broker_epoch, follow_id, offset, last_epoch, .. } = asked;
        let Some(follower) = self.follower(node_id) else {
            return out.push(Effect::Refused { node_id, follow_id, error: ErrorCode::NotLeaderOrFollower });
        };
        if broker_epoch < follower.newest_epoch() && holds(Rule::IgnoreOlderProcesses) {
            return out.push(Effect::Refused { node_id, follow_id, error: ErrorCode::StaleBrokerEpoch });
        }
        // Whatever it has said before, it may have cut since.
        follower.forget(now);
        follower.broker_epoch = broker_epoch;
        let is_empty = asked.log_start >= offset || last_epoch < 0;
        // Where this log starts nothing tells any more what was before, but for the epoch that goes on there: who ends in it has
        // what its leader has appended, as this log has had.
        let is_unknown =
            offset == log_start && !is_empty && start_epoch != last_epoch && holds(Rule::DropUnknownBranch);
        if offset < log_start || is_unknown || (is_empty && offset > own.log.end) {
            return out.push(Effect::Refused { node_id, follow_id, error: ErrorCode::OffsetOutOfRange });
        }
        if !is_empty && (epoch_end.epoch < last_epoch || epoch_end.end < offset) {
            let is_known = epoch_end.epoch >= 0 && epoch_end.end >= 0;
            let epoch_end = if is_known { epoch_end } else { EpochEnd { epoch: -1, end: log_start } };
            return out.push(Effect::Diverged { node_id, follow_id, epoch_end });
        }
        assert!(offset <= own.log.end, "no epoch ends above the log: {asked:?}, {epoch_end:?}, {:?}", own.log);
        follower.follow_id = Some(follow_id);
        out.push(Effect::FollowOk { node_id, follow_id, offset });
        if offset < own.log.end {
            out.push(Effect::Send { node_id });
        }
    }

    fn ack(
        &mut self,
        now: Duration,
        own: &Own,
        (node_id, epoch): (i32, i64),
        follow_id: u32,
        (durable_end, log_start): (i64, i64),
    ) {
        let Some(follower) = self.follower(node_id) else { return };
        let is_present = follower.broker_epoch == epoch || !holds(Rule::IgnoreOlderProcesses);
        if !is_present || follower.follow_id != Some(follow_id) || durable_end > own.log.end {
            return;
        }
        if durable_end > follower.durable_end {
            follower.durable_end = durable_end;
            follower.has_no_space = false;
        }
        follower.log_start = follower.log_start.max(log_start);
        if follower.durable_end >= own.log.end {
            follower.behind_since = None;
        } else if follower.durable_end >= follower.mark.0 {
            follower.behind_since = Some(follower.mark.1);
            follower.mark = (own.log.end, now);
        }
    }

    /// As Kafka's `Partition.handleAlterPartitionError` sorts the errors.
    fn altered(&mut self, now: Duration, own: &Own, partition_epoch: i32, result: Result<AlteredPartition, ErrorCode>) {
        let code = match result {
            Ok(altered) => {
                if altered.leader_epoch == self.epoch && altered.partition_epoch > self.partition_epoch {
                    self.commit(altered.isr.into(), altered.partition_epoch);
                }
                return;
            }
            Err(code) => code,
        };
        let committed = self.with_epochs(own, &self.committed);
        let Some(proposal) = &mut self.proposal else { return };
        if proposal.asked.partition_epoch != partition_epoch {
            return;
        }
        match code {
            ErrorCode::IneligibleReplica | ErrorCode::OperationNotAttempted => {
                self.propose_from = now + RETRY;
                if !holds(Rule::CountRefused) {
                    self.proposal = None;
                } else {
                    // Somebody who is in sync is fenced, if this is refused, too: the image is going to show that.
                    let at = if proposal.is_withdrawal { now + RETRY } else { now };
                    proposal.state = ProposalState::RetryAt(at);
                    (proposal.asked.isr, proposal.is_withdrawal) = (committed, true);
                }
            }
            ErrorCode::FencedLeaderEpoch
            | ErrorCode::InvalidUpdateVersion
            | ErrorCode::InvalidRequest
            | ErrorCode::NewLeaderElected
            | ErrorCode::UnknownTopicId
            | ErrorCode::UnknownTopicOrPartition => proposal.state = ProposalState::AwaitsImage,
            _ => proposal.state = ProposalState::RetryAt(now + RETRY),
        }
    }

    fn retry(&mut self, now: Duration, out: &mut Vec<Effect>) {
        if let Some(proposal) = &mut self.proposal
            && matches!(proposal.state, ProposalState::RetryAt(at) if at <= now)
        {
            proposal.state = ProposalState::Sent;
            out.push(Effect::Propose(proposal.asked.clone()));
        }
    }

    /// The controller has said who is in sync.
    fn commit(&mut self, isr: BrokerIds, partition_epoch: i32) {
        assert!(partition_epoch > self.partition_epoch, "{partition_epoch} after {}", self.partition_epoch);
        for follower in &mut self.followers {
            let (was, is) = (self.committed.contains(&follower.node_id), isr.contains(&follower.node_id));
            if was && !is {
                (follower.has_left, follower.caught_up) = (true, None);
            }
        }
        (self.committed, self.partition_epoch, self.proposal) = (isr, partition_epoch, None);
    }

    /// What follows from what is known now.
    pub(super) fn consider(&mut self, now: Duration, own: &mut Own, out: &mut Vec<Effect>) {
        assert!(self.committed.contains(&own.node_id), "who leads is in sync: {self:?}");
        self.advance(own, out);
        self.advance_low_watermark(own, out);
        let needed = self.needed(own);
        for follower in &mut self.followers {
            if follower.lags(now, own) {
                // It would have to leave at once: where too few are in sync the high watermark stands still, and who comes
                // with a long backlog has everything below it long before it has everything.
                follower.caught_up = None;
            } else if follower.caught_up.is_none() && follower.is_caught_up(needed) {
                follower.caught_up = Some(now);
            }
        }
        self.retry(now, out);
        if self.proposal.is_some() || now < self.propose_from {
            return;
        }
        let lagging: Vec<i32> = self.in_sync().filter(|follower| follower.lags(now, own)).map(|f| f.node_id).collect();
        let joining = |follower: &&Progress| {
            self.joins_at(follower, own).is_some_and(|at| at <= now) && !self.committed.contains(&follower.node_id)
        };
        let joining: Vec<i32> = self.followers.iter().filter(joining).map(|follower| follower.node_id).collect();
        let isr: BrokerIds = if !lagging.is_empty() {
            self.committed.iter().copied().filter(|node_id| !lagging.contains(node_id)).collect()
        } else if !joining.is_empty() {
            self.committed.iter().copied().chain(joining).collect()
        } else {
            return;
        };
        let (leader_epoch, partition_epoch) = (self.epoch, self.partition_epoch);
        let asked = AlterPartition { leader_epoch, partition_epoch, isr: self.with_epochs(own, &isr) };
        out.push(Effect::Propose(asked.clone()));
        let state = ProposalState::Sent;
        self.proposal = Some(Proposal { asked, state, counted: isr, is_withdrawal: false });
    }

    fn with_epochs(&self, own: &Own, isr: &BrokerIds) -> Vec<(i32, i64)> {
        let epoch = |node_id: i32| {
            let follower = self.followers.iter().find(|follower| follower.node_id == node_id);
            follower.map_or(own.broker_epoch, |follower| follower.broker_epoch)
        };
        isr.iter().map(|node_id| (*node_id, epoch(*node_id))).collect()
    }

    fn in_sync(&self) -> impl Iterator<Item = &Progress> {
        self.followers.iter().filter(|follower| self.committed.contains(&follower.node_id))
    }

    /// When a follower may join the in-sync set, if it may at all as things are.
    fn joins_at(&self, follower: &Progress, own: &Own) -> Option<Duration> {
        let registered = follower.registered?;
        let may = follower.follow_id.is_some()
            && registered.is_usable
            && registered.epoch == follower.broker_epoch
            && follower.is_caught_up(self.needed(own));
        let first = follower.caught_up?;
        may.then_some(if follower.has_left { first + CAUGHT_UP_TWICE } else { first })
    }

    /// Who is in sync, or may become so by what was proposed.
    fn counted(&self) -> impl Iterator<Item = &Progress> {
        let proposed = self.proposal.as_ref().map(|proposal| &proposal.counted);
        self.followers.iter().filter(move |follower| {
            let is_proposed = proposed.is_some_and(|proposed| proposed.contains(&follower.node_id));
            let is_committed = self.committed.contains(&follower.node_id)
                && (holds(Rule::CountLeaving) || proposed.is_none() || is_proposed);
            is_committed || (is_proposed && holds(Rule::CountProposed))
        })
    }

    /// The high watermark: what everybody has durably who counts.
    fn advance(&self, own: &mut Own, out: &mut Vec<Effect>) {
        if !self.has_enough() && holds(Rule::HoldBelowMinInsync) {
            return;
        }
        let everybody = self.counted().map(|follower| follower.durable_end).fold(own.log.durable_end, i64::min);
        own.raise(if holds(Rule::CountFollowers) { everybody } else { own.log.durable_end }, out);
    }

    /// The low watermark: what everybody has deleted durably who counts. (In Kafka everybody whose broker is alive; who is not in
    /// sync is not elected, and joins no earlier than when it has deleted as much.)
    fn advance_low_watermark(&mut self, own: &Own, out: &mut Vec<Effect>) {
        let everybody = self.counted().map(|follower| follower.log_start).fold(own.log.start, i64::min);
        let low_watermark = if holds(Rule::CountLogStarts) { everybody } else { own.log.start };
        if low_watermark > self.low_watermark {
            self.low_watermark = low_watermark;
            out.push(Effect::LowWatermark(low_watermark));
        }
    }

    /// What a follower needs to join the in-sync set.
    fn needed(&self, own: &Own) -> Needed {
        let epoch_start = if holds(Rule::JoinAtEpochStart) { self.epoch_start } else { 0 };
        let log_start = self.low_watermark.max(self.epoch_log_start);
        Needed {
            durable_end: own.high_watermark.max(epoch_start),
            log_start: if holds(Rule::JoinAtLogStart) { log_start } else { UNKNOWN },
        }
    }

    /// When something follows from time alone: a proposal is sent again, somebody lags too long or has been caught up for
    /// long enough.
    pub(super) fn next_deadline(&self, own: &Own) -> Option<Duration> {
        match &self.proposal {
            Some(Proposal { state: ProposalState::RetryAt(at), .. }) => return Some(*at),
            Some(_) => return None,
            None => {}
        }
        let lagging = self.in_sync().filter_map(|follower| follower.lags_from(own));
        let others = self.followers.iter().filter(|follower| !self.committed.contains(&follower.node_id));
        let joining = others.filter_map(|follower| self.joins_at(follower, own));
        lagging.chain(joining).min().map(|at| at.max(self.propose_from))
    }
}

/// What a follower that joins the in-sync set has at least, durably.
#[derive(Clone, Copy, Debug)]
struct Needed {
    /// All that may be committed: the high watermark that this leader knows may be behind the one before it, but that one
    /// cannot have gone past where this one's epoch starts.
    durable_end: i64,
    /// As little as clients were promised to stay deleted, by this leader or by those before it.
    log_start: i64,
}

impl Progress {
    /// Nothing was heard of it yet.
    fn new(now: Duration, own: &Own, registered: Option<Registered>, node_id: i32) -> Progress {
        Progress {
            node_id,
            registered,
            broker_epoch: UNKNOWN_BROKER_EPOCH,
            follow_id: None,
            durable_end: UNKNOWN,
            log_start: UNKNOWN,
            behind_since: Some(now),
            mark: (own.log.end, now),
            has_no_space: false,
            has_left: false,
            caught_up: None,
        }
    }

    /// What it has said counts no more: it is another process now, or asks anew.
    fn forget(&mut self, now: Duration) {
        (self.follow_id, self.durable_end, self.log_start) = (None, UNKNOWN, UNKNOWN);
        self.behind_since.get_or_insert(now);
        (self.caught_up, self.has_no_space) = (None, false);
    }

    /// The newest process of its broker that was heard of.
    fn newest_epoch(&self) -> i64 {
        self.registered.map_or(UNKNOWN_BROKER_EPOCH, |registered| registered.epoch).max(self.broker_epoch)
    }

    /// Whether it has everything that may be committed, and has deleted what was promised.
    fn is_caught_up(&self, needed: Needed) -> bool {
        self.durable_end >= needed.durable_end && self.log_start >= needed.log_start
    }

    fn lags_from(&self, own: &Own) -> Option<Duration> {
        let by_time = self.behind_since.map(|since| since.saturating_add(own.lag_time_max));
        if self.has_no_space { Some(Duration::ZERO) } else { by_time }
    }

    fn lags(&self, now: Duration, own: &Own) -> bool {
        self.lags_from(own).is_some_and(|at| at <= now)
    }
}
