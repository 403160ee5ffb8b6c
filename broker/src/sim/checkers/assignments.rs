//! No partition is with two members of a group at a time, as the members see it.
//!
//! KIP-848: a partition is given to a member only when the one that had it has confirmed that it gave it up, or its session
//! is over. The classic protocol promises the same between two generations (Kafka's protocol guide, "Group membership").

use std::collections::{BTreeMap, BTreeSet};

/// What one member may read, and until when it may believe so without being heard of.
#[derive(Clone, Debug, Default)]
struct Claim {
    partitions: BTreeSet<usize>,
    until_us: u64,
}

/// What each client of a group believes that it may read.
#[derive(Clone, Debug, Default)]
pub struct OneMemberAPartition {
    claims: BTreeMap<u32, Claim>,
}

impl OneMemberAPartition {
    /// A member reads these partitions from now on, unless it is not heard of until then.
    pub fn reads(
        &mut self,
        now_us: u64,
        client: u32,
        partitions: BTreeSet<usize>,
        until_us: u64,
    ) -> Result<(), String> {
        self.claims.insert(client, Claim { partitions, until_us });
        let mut holders: BTreeMap<usize, u32> = BTreeMap::new();
        for (client, claim) in self.claims.iter().filter(|(_, claim)| claim.until_us > now_us) {
            for partition in &claim.partitions {
                if let Some(other) = holders.insert(*partition, *client) {
                    return Err(format!("partition {partition} is with members {other} and {client}"));
                }
            }
        }
        Ok(())
    }

    /// A member reads no more than this from now on.
    pub fn keep_only(&mut self, client: u32, partitions: &BTreeSet<usize>) {
        if let Some(claim) = self.claims.get_mut(&client) {
            claim.partitions.retain(|partition| partitions.contains(partition));
        }
    }

    /// A member reads nothing from now on: of its own will, or because it was killed.
    pub fn stop(&mut self, client: u32) {
        self.claims.remove(&client);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_with_two_members_is_noticed() {
        let mut checker = OneMemberAPartition::default();
        let partitions = |client: u32| BTreeSet::from([0, client as usize]);
        assert_eq!(checker.reads(0, 1, partitions(1), 10), Ok(()));
        assert!(checker.reads(0, 2, partitions(2), 20).is_err());
        assert_eq!(checker.reads(10, 2, partitions(2), 20), Ok(()), "the first one's time is over");
        assert!(checker.reads(10, 3, partitions(3), 20).is_err());
        checker.keep_only(2, &BTreeSet::from([2]));
        assert_eq!(checker.reads(10, 3, partitions(3), 20), Ok(()), "given up");
        checker.stop(3);
        assert_eq!(checker.reads(10, 4, partitions(4), 20), Ok(()), "stopped");
    }
}
