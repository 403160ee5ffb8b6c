//! In one term one node decides.
//!
//! Raft, "Election safety" (invariant R1): at most one leader can be elected in a given term.

use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub struct OneControllerATerm {
    terms: BTreeMap<u64, usize>,
}

impl OneControllerATerm {
    /// Terms in which somebody has decided.
    pub fn terms(&self) -> usize {
        self.terms.len()
    }

    /// A node decides.
    pub fn see(&mut self, node: usize, term: u64) -> Result<(), String> {
        match self.terms.insert(term, node).filter(|other| *other != node) {
            Some(other) => Err(format!("nodes {} and {} decide in term {term}", other + 1, node + 1)),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_in_one_term_are_noticed() {
        let mut checker = OneControllerATerm::default();
        assert_eq!((checker.see(0, 1), checker.see(0, 1), checker.see(1, 2)), (Ok(()), Ok(()), Ok(())));
        assert!(checker.see(0, 2).is_err());
        assert_eq!(checker.terms(), 2);
    }
}
