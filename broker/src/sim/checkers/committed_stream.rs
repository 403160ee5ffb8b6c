//! What every node takes for true is a prefix of one stream of records: at the same offset the same.
//!
//! Invariant C5 of the controller; in Kafka all nodes replay one metadata log (KIP-631).

use std::collections::BTreeMap;
use std::sync::Arc;

use millstream_replication::ClusterImage;

#[derive(Debug, Default)]
pub struct OneStream {
    images: BTreeMap<u64, Arc<ClusterImage>>,
}

impl OneStream {
    /// A node says that this is true. Returns what was true before and after it, as far as that is known, if nobody has said
    /// this before.
    pub fn see(&mut self, node: usize, image: &Arc<ClusterImage>) -> Result<Option<Neighbours>, String> {
        let offset = image.offset();
        if let Some(known) = self.images.get(&offset) {
            // Mostly it is compared with its own memory.
            return match Arc::ptr_eq(known, image) || **known == **image {
                true => Ok(None),
                false => Err(format!("at node {} something else is true at offset {offset}", node + 1)),
            };
        }
        let before = self.images.range(..offset).next_back().map(|(_, image)| Arc::clone(image));
        let after = self.images.range(offset..).next().map(|(_, image)| Arc::clone(image));
        self.images.insert(offset, Arc::clone(image));
        Ok(Some(Neighbours { before, after }))
    }
}

/// What is true right before and after an image.
pub struct Neighbours {
    pub before: Option<Arc<ClusterImage>>,
    pub after: Option<Arc<ClusterImage>>,
}

#[cfg(test)]
mod tests {
    use millstream_replication::MetadataRecord;

    use super::*;

    #[test]
    fn another_truth_at_one_offset_is_noticed() {
        let image = |next| {
            let mut image = ClusterImage::new();
            image.replay(&MetadataRecord::ProducerIds { next });
            Arc::new(image)
        };
        let mut checker = OneStream::default();
        assert!(checker.see(0, &image(5)).unwrap().is_some_and(|at| at.before.is_none() && at.after.is_none()));
        assert!(checker.see(1, &image(5)).unwrap().is_none());
        assert!(checker.see(1, &image(6)).is_err());
    }
}
