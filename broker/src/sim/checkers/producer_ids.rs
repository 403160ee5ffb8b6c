//! A producer id is handed out once, whatever happens in between.
//!
//! KIP-98: a broker tells producers apart by their ids alone. KIP-730: ids come from blocks that the metadata log has given
//! away, so that a restart loses some and repeats none.

use std::collections::BTreeSet;

#[derive(Clone, Debug, Default)]
pub struct ProducerIdsAreUnique {
    ids: BTreeSet<i64>,
}

impl ProducerIdsAreUnique {
    /// A client got this id.
    pub fn see(&mut self, id: i64) -> Result<(), String> {
        if self.ids.insert(id) { Ok(()) } else { Err(format!("producer id {id} was handed out twice")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_given_to_two_is_noticed() {
        let mut checker = ProducerIdsAreUnique::default();
        assert_eq!((checker.see(1), checker.see(2)), (Ok(()), Ok(())));
        assert!(checker.see(1).is_err());
    }
}
