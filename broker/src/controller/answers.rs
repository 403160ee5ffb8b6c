//! Answers that wait until every shard of the process has applied what they are about.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use millstream_replication::{ApiError, ControllerResponse, ErrorCode};
use millstream_storage::bug::{Bug, is_planted};

use super::Asker;

/// Answers that were not given yet.
#[derive(Debug, Default)]
pub(super) struct Answers {
    /// By the offset that all shards have to have applied first, in the order in which they came.
    waiting: BTreeMap<(u64, u64), (Asker, ControllerResponse)>,
    /// Until when each of them may wait, in this order; also of some that do not any more.
    until: VecDeque<(Duration, (u64, u64))>,
    /// How many there were.
    count: u64,
}

impl Answers {
    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The answer is to be given when every shard knows what is true at this offset, or then.
    pub(super) fn push(&mut self, offset: u64, until: Duration, asker: Asker, response: ControllerResponse) {
        self.count += 1;
        let place = (offset, self.count);
        self.waiting.insert(place, (asker, response));
        self.until.push_back((until, place));
    }

    /// Takes the next answer that is to be given when all shards have applied this offset: one whose records are applied, else
    /// one that has waited for too long. What another node has decided may not come here, as when this node's disk is full.
    pub(super) fn next(&mut self, applied: u64, now: Duration) -> Option<(Asker, ControllerResponse)> {
        if let Some(first) = self.waiting.first_entry()
            && (first.key().0 <= applied || is_planted(Bug::AnswerBeforeApplied))
        {
            return Some(first.remove());
        }
        while let Some((until, place)) = self.until.front()
            && (*until <= now || !self.waiting.contains_key(place))
        {
            let late = self.waiting.remove(place);
            self.until.pop_front();
            if let Some((asker, response)) = late {
                let why = "it was decided, and this node does not know of it yet; try again";
                return Some((asker, response.refused(&ApiError::new(ErrorCode::RequestTimedOut, why))));
            }
        }
        None
    }

    /// When one of them has waited for too long.
    pub(super) fn next_deadline(&self) -> Option<Duration> {
        self.until.front().map(|(until, _)| *until)
    }
}
