//! The side of a replica that follows: it asks the leader, cuts what the leader does not have, and appends what it is sent.

use std::time::Duration;

use super::{Effect, EpochEnd, Event, Own, RETRY, STORAGE_RETRY};
use crate::error::ErrorCode;
use crate::rule::{Rule, holds};

/// A replica that follows.
#[derive(Clone, Debug)]
pub(super) struct Follower {
    leader: i32,
    epoch: i32,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    /// It has not asked yet.
    New,
    /// It has asked, and takes an answer to that only.
    Asking { follow_id: u32 },
    /// It was refused, or its stream is closed: it asks again then, or when a stream is open.
    Waiting { until: Option<Duration> },
    /// It is sent what it lacks.
    Following { follow_id: u32, handle: u32, high_watermark: i64, log_start: i64 },
    /// Its log is being cut.
    Restarting,
    /// Its log was cut, and it has not asked again yet.
    Cut,
}

impl Follower {
    pub(super) fn new(leader: i32, epoch: i32) -> Follower {
        Follower { leader, epoch, state: State::New }
    }

    pub(super) fn is_restarting(&self) -> bool {
        matches!(self.state, State::Restarting)
    }

    /// Whether this is what is sent by the newest answer.
    pub(super) fn is_sent(&self, sent: u32) -> bool {
        matches!(self.state, State::Following { handle, .. } if handle == sent)
    }

    /// What the leader has said to be committed, while it sends what is lacking.
    pub(super) fn high_watermark(&self) -> Option<i64> {
        match self.state {
            State::Following { high_watermark, .. } => Some(high_watermark),
            _ => None,
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Duration> {
        match self.state {
            State::Waiting { until } => until,
            _ => None,
        }
    }

    /// Asks the leader for the first time.
    pub(super) fn begin(&mut self, own: &mut Own, ids: &mut u32, out: &mut Vec<Effect>) {
        if !matches!(self.state, State::New) {
            return;
        }
        if !holds(Rule::TruncateByEpoch) && own.high_watermark < own.log.end {
            return self.restart(own, (own.high_watermark, own.high_watermark), own.high_watermark, None, out);
        }
        self.ask(own, ids, out);
    }

    /// Its log is cut.
    pub(super) fn restarted(&mut self) {
        self.state = State::Cut;
    }

    /// Asks the leader again, if its log was cut and it follows the same leader.
    pub(super) fn go_on(&mut self, own: &Own, ids: &mut u32, out: &mut Vec<Effect>) {
        if matches!(self.state, State::Cut) {
            self.ask(own, ids, out);
        }
    }

    /// Asks the leader: what it has answered before counts no more.
    pub(super) fn ask(&mut self, own: &Own, ids: &mut u32, out: &mut Vec<Effect>) {
        *ids = ids.wrapping_add(1);
        let follow_id = *ids;
        self.state = State::Asking { follow_id };
        let (leader, leader_epoch, log) = (self.leader, self.epoch, own.log);
        out.push(Effect::Follow { leader, follow_id, leader_epoch, offset: log.end, last_epoch: log.last_epoch });
    }

    pub(super) fn handle(&mut self, now: Duration, own: &mut Own, ids: &mut u32, event: Event, out: &mut Vec<Effect>) {
        match event {
            Event::StreamOpen { node_id } if node_id == self.leader && !self.is_restarting() => {
                self.ask(own, ids, out);
            }
            Event::StreamClosed { node_id } if node_id == self.leader && !self.is_restarting() => {
                self.state = State::Waiting { until: None };
            }
            Event::Tick => match self.state {
                State::Waiting { until: Some(until) } if until <= now => self.ask(own, ids, out),
                _ => {}
            },
            Event::FollowOk { follow_id, handle, high_watermark, log_start } if self.has_asked(follow_id) => {
                self.state = State::Following { follow_id, handle, high_watermark, log_start };
                self.durable(own, out);
            }
            Event::Diverged { follow_id, epoch_end, own: mine } if self.has_asked(follow_id) => {
                self.diverged(own, epoch_end, mine, out);
            }
            // The leader may have deleted what it was about to send.
            Event::Refused { follow_id, error, log_start, log_end }
                if self.has_asked(follow_id) || self.follows_by(follow_id) =>
            {
                match error {
                    // What this log holds the leader has, too, or has deleted it: it may lack only what it ends before.
                    ErrorCode::OffsetOutOfRange => self.restart(own, (0, log_start), log_end, None, out),
                    ErrorCode::KafkaStorageError => self.state = State::Waiting { until: Some(now + STORAGE_RETRY) },
                    _ => self.state = State::Waiting { until: Some(now + RETRY) },
                }
            }
            Event::Accepted { log_end, last_epoch, high_watermark } => {
                let log = &mut own.log;
                assert!(log_end > log.end && last_epoch >= log.last_epoch, "{log:?}, then {log_end} of {last_epoch}");
                assert!(
                    last_epoch <= self.epoch,
                    "nothing is newer than the epoch of the leader: {self:?}, {last_epoch}"
                );
                (log.end, log.last_epoch) = (log_end, last_epoch);
                self.heard(own, high_watermark, out);
                if !holds(Rule::AckWhenDurable) {
                    self.ack_to(own, log_end, out);
                }
            }
            Event::Skip { handle, to, epoch, high_watermark }
                if self.is_sent(handle) && to > own.log.end && epoch <= self.epoch =>
            {
                self.heard(own, high_watermark, out);
                let epoch = holds(Rule::EpochOfSkipped).then_some(epoch);
                self.restart(own, (own.log.end, to), to, epoch, out);
            }
            Event::Marks { handle, high_watermark, log_start } if self.is_sent(handle) => {
                if let State::Following { log_start: heard, .. } = &mut self.state {
                    *heard = log_start.max(*heard);
                }
                self.heard(own, high_watermark, out);
            }
            // What is for a leader, or not for what it is doing now.
            _ => {}
        }
    }

    /// More is durable, or the leader is to be told for the first time.
    pub(super) fn durable(&mut self, own: &mut Own, out: &mut Vec<Effect>) {
        self.ack(own, out);
        self.advance(own, out);
    }

    /// Tells the leader what is durable.
    pub(super) fn ack(&self, own: &Own, out: &mut Vec<Effect>) {
        self.ack_to(own, own.log.durable_end, out);
    }

    fn ack_to(&self, own: &Own, durable_end: i64, out: &mut Vec<Effect>) {
        if let State::Following { follow_id, .. } = self.state {
            out.push(Effect::Ack { leader: self.leader, follow_id, durable_end, log_start: own.log.start });
        }
    }

    /// The leader has said what is committed.
    fn heard(&mut self, own: &mut Own, theirs: i64, out: &mut Vec<Effect>) {
        if let State::Following { high_watermark, .. } = &mut self.state {
            *high_watermark = theirs.max(*high_watermark);
        }
        self.advance(own, out);
    }

    /// Of what the leader has said, as much is committed here as is durable, and as much deleted as is committed: the rest
    /// follows when it is.
    fn advance(&self, own: &mut Own, out: &mut Vec<Effect>) {
        let State::Following { high_watermark, log_start, .. } = self.state else { return };
        own.raise(high_watermark.min(own.log.durable_end), out);
        let start = log_start.min(own.high_watermark);
        if start > own.log.start {
            out.push(Effect::LogStart(start));
        }
    }

    /// Whether it waits for the answer to this question.
    fn has_asked(&self, asked: u32) -> bool {
        matches!(self.state, State::Asking { follow_id } if follow_id == asked || !holds(Rule::MatchAnswers))
    }

    fn follows_by(&self, asked: u32) -> bool {
        matches!(self.state, State::Following { follow_id, .. } if follow_id == asked)
    }

    /// Cuts what the leader does not have: above the end of the epoch that both know, or of the smaller one that only the
    /// leader knows. It asks again then, until nothing is left to be cut.
    fn diverged(&mut self, own: &mut Own, theirs: EpochEnd, mine: EpochEnd, out: &mut Vec<Effect>) {
        let common = if mine.end < 0 { theirs.end } else { theirs.end.min(mine.end) };
        let cut = if holds(Rule::CutWhereEpochEnds) { common } else { own.high_watermark }.min(own.log.end).max(0);
        self.restart(own, (cut, cut), cut, None, out);
    }

    /// What is committed and lies at or above `begin_at` and `theirs` is lost: the leader does not have it.
    fn restart(
        &mut self,
        own: &mut Own,
        (keep, begin_at): (i64, i64),
        theirs: i64,
        skipped: Option<i32>,
        out: &mut Vec<Effect>,
    ) {
        let is_reset = keep == 0;
        let (from, to) = (begin_at.max(theirs), own.high_watermark);
        if from < to {
            out.push(Effect::Lost { from, to });
        }
        own.high_watermark = own.high_watermark.min(begin_at);
        self.state = State::Restarting;
        let durable_end = own.log.durable_end;
        own.log.durable_end = if is_reset { begin_at.min(durable_end) } else { keep.min(durable_end) };
        assert!(own.high_watermark <= own.log.durable_end, "what is committed is kept: {own:?}");
        out.push(Effect::Restart { keep_below: keep, begin_at, skipped_epoch: skipped });
    }
}
