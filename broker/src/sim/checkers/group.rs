//! The checkers of one consumer group, which its members share.

use std::collections::{BTreeMap, BTreeSet};

use super::assignments::OneMemberAPartition;
use super::committed_offsets::CommittedOffsetStays;

/// Something that a member learnt.
#[derive(Clone, Debug)]
pub enum GroupFinding {
    /// It reads these partitions, unless it is not heard of until then.
    Reads { client: u32, partitions: BTreeSet<usize>, until_us: u64 },
    /// A commit was acknowledged.
    Committed { partition: usize, offset: i64 },
    /// This was committed when it asked, and when it did so, `acknowledged` was.
    Fetched { partition: usize, offset: i64, acknowledged: i64 },
}

#[derive(Clone, Debug, Default)]
pub struct GroupChecker {
    /// The time.
    pub now_us: u64,
    assignments: OneMemberAPartition,
    committed: BTreeMap<usize, CommittedOffsetStays>,
    /// Times that a member was told what to read.
    told: usize,
    /// Commits acknowledged.
    commits: usize,
}

impl GroupChecker {
    /// A member stops reading: of its own will, or because it was killed.
    pub fn stop(&mut self, client: u32) {
        self.assignments.stop(client);
    }

    /// A member reads no more than this from now on.
    pub fn keep_only(&mut self, client: u32, partitions: &BTreeSet<usize>) {
        self.assignments.keep_only(client, partitions);
    }

    /// The offset to commit next for a partition, by who is at `position`.
    pub fn commit(&mut self, partition: usize, position: i64) -> i64 {
        self.committed.entry(partition).or_default().sent(position + 1);
        position + 1
    }

    /// A commit was sent whose answer will not come.
    pub fn lose(&mut self, partition: usize, offset: i64) {
        self.committed.entry(partition).or_default().lost(offset);
    }

    /// The last offset acknowledged for a partition.
    pub fn acknowledged(&self, partition: usize) -> i64 {
        self.committed.get(&partition).map_or(0, CommittedOffsetStays::last_acknowledged)
    }

    /// How often members were told what to read, and how many commits were acknowledged.
    pub fn counts(&self) -> (usize, usize) {
        (self.told, self.commits)
    }

    /// Takes what a member learnt.
    pub fn see(&mut self, finding: GroupFinding) -> Result<(), String> {
        let result = match finding {
            GroupFinding::Reads { client, partitions, until_us } => {
                self.told += 1;
                self.assignments.reads(self.now_us, client, partitions, until_us)
            }
            GroupFinding::Committed { partition, offset } => {
                self.commits += 1;
                self.committed.entry(partition).or_default().acknowledged(offset);
                Ok(())
            }
            GroupFinding::Fetched { partition, offset, acknowledged } => {
                let committed = self.committed.entry(partition).or_default();
                committed.fetched(offset, acknowledged).map_err(|error| format!("partition {partition}: {error}"))
            }
        };
        result.map_err(|error| format!("group: {error}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_members_learn_reaches_both_checkers_and_is_counted() {
        let mut checker = GroupChecker::default();
        let reads = |client| GroupFinding::Reads { client, partitions: [0].into(), until_us: 10 };
        assert_eq!(checker.see(reads(1)), Ok(()));
        assert!(checker.see(reads(2)).is_err());
        let offset = checker.commit(0, 4);
        assert_eq!(checker.see(GroupFinding::Committed { partition: 0, offset }), Ok(()));
        let acknowledged = checker.acknowledged(0);
        let fetched = |offset| GroupFinding::Fetched { partition: 0, offset, acknowledged };
        assert_eq!(checker.see(fetched(5)), Ok(()));
        assert!(checker.see(fetched(4)).is_err());
        checker.lose(0, 4);
        assert_eq!(checker.see(fetched(4)), Ok(()));
        assert_eq!(checker.counts(), (2, 1));
    }
}
