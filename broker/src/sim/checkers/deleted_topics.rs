//! Nothing of a deleted topic is in the next topic of its name, and nothing that was acknowledged in that one is missing.
//!
//! KIP-516: a topic is its id; one that is created again under the same name has another and begins empty.

use crate::sim::record::{Found, RecordId};

/// Watches a topic that one client deletes and creates again, and writes to; others may write to it at any time.
#[derive(Clone, Debug)]
pub struct NothingDeletedReturns {
    client: u32,
    /// The client's first number in this life.
    first_number: u32,
    /// What another client had written, acknowledged, before the last deletion was asked for.
    others_deleted: Option<u32>,
    /// What was acknowledged to the client in this life.
    acknowledged: Vec<Found>,
}

impl NothingDeletedReturns {
    /// `client` deletes and creates the topic.
    pub fn new(client: u32) -> NothingDeletedReturns {
        NothingDeletedReturns { client, first_number: 0, others_deleted: None, acknowledged: Vec::new() }
    }

    /// The client will ask for the deletion; the last record of another that was acknowledged has this number.
    pub fn will_delete(&mut self, others_last: Option<u32>) {
        self.others_deleted = others_last;
    }

    /// The topic is gone; the client's next record has this number.
    pub fn deleted(&mut self, next_number: u32) {
        self.first_number = next_number;
        self.acknowledged.clear();
    }

    /// A record of the client was acknowledged.
    pub fn acknowledged(&mut self, found: Found) {
        self.acknowledged.push(found);
    }

    /// The topic was read from its start to before offset `next`.
    pub fn read(&self, records: &[Found], next: i64) -> Result<(), String> {
        let is_old = |found: &&Found| match found.id {
            RecordId { client, number } if client == self.client => number < self.first_number,
            RecordId { number, .. } => self.others_deleted.is_some_and(|last| number <= last),
        };
        if let Some(old) = records.iter().find(is_old) {
            return Err(format!("{old:?} was deleted with its topic, and is there again"));
        }
        let is_lost = |found: &&Found| found.offset < next && !records.contains(found);
        match self.acknowledged.iter().find(is_lost) {
            Some(lost) => Err(format!("{lost:?} is lost from a topic just created: {records:?}")),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(offset: i64, client: u32, number: u32) -> Found {
        Found { offset, id: RecordId { client, number } }
    }

    #[test]
    fn what_was_deleted_or_is_missing_is_noticed() {
        let mut checker = NothingDeletedReturns::new(1);
        checker.acknowledged(found(0, 1, 0));
        assert_eq!(checker.read(&[found(0, 1, 0)], 1), Ok(()));
        assert!(checker.read(&[found(0, 2, 0)], 1).is_err(), "lost");
        checker.will_delete(Some(4));
        checker.deleted(1);
        assert_eq!(checker.read(&[found(0, 2, 5), found(1, 1, 1)], 2), Ok(()));
        assert!(checker.read(&[found(0, 1, 0)], 1).is_err(), "its own of the earlier life");
        assert!(checker.read(&[found(0, 2, 4)], 1).is_err(), "another's of the earlier life");
    }
}
