//! What must hold of a consumer group, as its members see it: no partition is with two of them at a time, and a committed
//! offset does not go back.

use std::collections::{BTreeMap, BTreeSet};

/// What one member may read, and until when it may believe so without being heard of.
#[derive(Clone, Debug, Default)]
struct Claim {
    partitions: BTreeSet<usize>,
    until_us: u64,
}

/// What was committed for a partition.
#[derive(Clone, Debug, Default)]
struct Committed {
    /// The last that was acknowledged.
    acknowledged: i64,
    /// The largest that was sent.
    sent: i64,
    /// Those whose answer was lost with its connection: they may have arrived late, but not after another member had the
    /// partition.
    lost: BTreeSet<i64>,
}

/// The checker, which the members share.
#[derive(Clone, Debug, Default)]
pub struct GroupChecker {
    /// The time.
    pub now_us: u64,
    claims: BTreeMap<u32, Claim>,
    committed: BTreeMap<usize, Committed>,
    /// Times that a member was told what to read.
    told: usize,
    /// Commits acknowledged.
    commits: usize,
}

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

impl GroupChecker {
    /// A member stops reading: of its own will, or because it was killed.
    pub fn stop(&mut self, client: u32) {
        self.claims.remove(&client);
    }

    /// A member reads no more than this from now on.
    pub fn keep_only(&mut self, client: u32, partitions: &BTreeSet<usize>) {
        if let Some(claim) = self.claims.get_mut(&client) {
            claim.partitions.retain(|partition| partitions.contains(partition));
        }
    }

    /// The offset to commit next for a partition, by who is at `position`.
    pub fn commit(&mut self, partition: usize, position: i64) -> i64 {
        let committed = self.committed.entry(partition).or_default();
        committed.sent = committed.sent.max(position + 1);
        position + 1
    }

    /// A commit was sent whose answer will not come.
    pub fn lose(&mut self, partition: usize, offset: i64) {
        self.committed.entry(partition).or_default().lost.insert(offset);
    }

    /// The last offset acknowledged for a partition.
    pub fn acknowledged(&self, partition: usize) -> i64 {
        self.committed.get(&partition).map_or(0, |committed| committed.acknowledged)
    }

    /// How often members were told what to read, and how many commits were acknowledged.
    pub fn counts(&self) -> (usize, usize) {
        (self.told, self.commits)
    }

    /// Takes what a member learnt.
    pub fn see(&mut self, finding: GroupFinding) -> Result<(), String> {
        match finding {
            GroupFinding::Reads { client, partitions, until_us } => {
                self.told += 1;
                self.claims.insert(client, Claim { partitions, until_us });
                self.check_claims()
            }
            GroupFinding::Committed { partition, offset } => {
                self.commits += 1;
                let committed = self.committed.entry(partition).or_default();
                committed.acknowledged = committed.acknowledged.max(offset);
                Ok(())
            }
            GroupFinding::Fetched { partition, offset, acknowledged } => {
                let Committed { sent, lost, .. } = self.committed.entry(partition).or_default();
                if (acknowledged..=*sent).contains(&offset) || lost.contains(&offset) {
                    return Ok(());
                }
                Err(format!("group: partition {partition}: {offset} is committed, but {acknowledged} was before"))
            }
        }
    }

    fn check_claims(&self) -> Result<(), String> {
        let mut holders: BTreeMap<usize, u32> = BTreeMap::new();
        for (client, claim) in self.claims.iter().filter(|(_, claim)| claim.until_us > self.now_us) {
            for partition in &claim.partitions {
                if let Some(other) = holders.insert(*partition, *client) {
                    return Err(format!("group: partition {partition} is with members {other} and {client}"));
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_with_two_members_is_noticed_and_a_commit_that_went_back() {
        let mut checker = GroupChecker::default();
        let reads =
            |client, until_us| GroupFinding::Reads { client, partitions: [0, client as usize].into(), until_us };
        assert_eq!(checker.see(reads(1, 10)), Ok(()));
        assert!(checker.see(reads(2, 20)).is_err());
        checker.now_us = 10;
        assert_eq!(checker.see(reads(2, 20)), Ok(()));
        checker.stop(2);
        assert_eq!(checker.see(reads(3, 20)), Ok(()));

        let offset = checker.commit(0, 4);
        assert_eq!(checker.see(GroupFinding::Committed { partition: 0, offset }), Ok(()));
        let fetched = |offset| GroupFinding::Fetched { partition: 0, offset, acknowledged: 5 };
        assert_eq!(checker.see(fetched(5)), Ok(()));
        assert!(checker.see(fetched(4)).is_err() && checker.see(fetched(6)).is_err());
        assert_eq!(checker.counts(), (4, 1));
    }
}
