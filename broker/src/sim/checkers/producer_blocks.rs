//! The blocks of producer ids that nodes are given have no id in common.
//!
//! Invariant C4 of the controller. KIP-730: a block belongs to one broker.

use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub struct BlocksAreDisjoint {
    /// The end of each block, by its first id.
    blocks: BTreeMap<i64, i64>,
}

impl BlocksAreDisjoint {
    /// A shard of some node is given so many ids from this one on.
    pub fn see(&mut self, first: i64, count: i64) -> Result<(), String> {
        let end = first + count;
        let before = self.blocks.range(..end).next_back().filter(|(_, end)| **end > first);
        if let Some((other, other_end)) = before {
            return Err(format!("producer ids {first}..{end} are given away, and so were {other}..{other_end}"));
        }
        self.blocks.insert(first, end);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_overlap_are_noticed() {
        let mut checker = BlocksAreDisjoint::default();
        assert_eq!((checker.see(10, 10), checker.see(0, 10), checker.see(20, 1)), (Ok(()), Ok(()), Ok(())));
        for (first, count) in [(0, 10), (19, 1), (5, 100), (20, 5)] {
            assert!(checker.see(first, count).is_err(), "{first}");
        }
    }
}
