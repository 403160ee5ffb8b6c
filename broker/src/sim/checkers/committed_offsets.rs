//! An offset that a group has committed for a partition never goes back: who asks is told the last one that was
//! acknowledged before, or one that was sent after it.
//!
//! Kafka's protocol guide: OffsetCommit is answered when the commit is in `__consumer_offsets`, which is as durable as any
//! topic. KIP-848: commits of a member that has lost the partition are fenced, so none arrives after its successor's.

use std::collections::BTreeSet;

/// What was committed for one partition of one group.
#[derive(Clone, Debug, Default)]
pub struct CommittedOffsetStays {
    /// The last that was acknowledged; 0 is none.
    acknowledged: i64,
    /// The largest that was sent; 0 is none.
    sent: i64,
    /// Those whose answer was lost with its connection: they may have been on their way still when a later one, by another
    /// connection, had arrived.
    lost: BTreeSet<i64>,
}

impl CommittedOffsetStays {
    /// A commit is sent.
    pub fn sent(&mut self, offset: i64) {
        self.sent = self.sent.max(offset);
    }

    /// A commit was acknowledged.
    pub fn acknowledged(&mut self, offset: i64) {
        self.acknowledged = self.acknowledged.max(offset);
    }

    /// A commit was sent whose answer will not come.
    pub fn lost(&mut self, offset: i64) {
        self.lost.insert(offset);
    }

    /// The largest offset sent.
    pub fn last_sent(&self) -> i64 {
        self.sent
    }

    /// The last offset acknowledged.
    pub fn last_acknowledged(&self) -> i64 {
        self.acknowledged
    }

    /// Somebody was told `offset`, who asked when `acknowledged` was the last one acknowledged.
    pub fn fetched(&self, offset: i64, acknowledged: i64) -> Result<(), String> {
        if (acknowledged..=self.sent).contains(&offset) || self.lost.contains(&offset) {
            return Ok(());
        }
        let sent = self.sent;
        Err(format!("offset {offset} is committed, but {acknowledged} was before, and {sent} is the largest sent"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_that_went_back_is_noticed() {
        let mut checker = CommittedOffsetStays::default();
        assert_eq!(checker.fetched(0, 0), Ok(()));
        checker.sent(5);
        assert_eq!(checker.fetched(5, 0), Ok(()), "sent, not acknowledged");
        checker.acknowledged(5);
        assert_eq!(checker.fetched(5, 5), Ok(()));
        assert!(checker.fetched(4, 5).is_err() && checker.fetched(6, 5).is_err());
        checker.lost(4);
        assert_eq!(checker.fetched(4, 5), Ok(()), "it may have come late");
    }
}
