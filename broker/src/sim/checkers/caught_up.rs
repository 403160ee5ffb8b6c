//! A broker that is not fenced has applied its own registration, on every shard.
//!
//! KIP-631: a broker is unfenced when it has caught up with the metadata; until then it would answer for partitions of which
//! it does not know yet that it has them.

use millstream_replication::ClusterImage;

/// This is true, while the broker of this number runs as this process and its shards have applied so much.
pub fn is_caught_up(image: &ClusterImage, node_id: i32, (incarnation, applied): ([u8; 16], u64)) -> Result<(), String> {
    match image.broker(node_id).filter(|broker| !broker.is_fenced && broker.incarnation == incarnation) {
        Some(broker) if broker.epoch > applied as i64 => {
            Err(format!("broker {node_id} of epoch {} is unfenced, and has applied offset {applied}", broker.epoch))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use millstream_replication::{Broker, MetadataRecord};

    use super::*;

    #[test]
    fn who_is_unfenced_too_early_is_noticed() {
        let image = |is_fenced| {
            let mut image = ClusterImage::new();
            let broker = Broker { node_id: 1, epoch: 7, incarnation: [1; 16], is_fenced, ..Broker::default() };
            image.replay(&MetadataRecord::Broker(broker));
            image
        };
        assert_eq!(is_caught_up(&image(true), 1, ([1; 16], 6)), Ok(()), "it is fenced");
        assert_eq!(is_caught_up(&image(false), 1, ([2; 16], 6)), Ok(()), "it is another process");
        assert_eq!(is_caught_up(&image(false), 1, ([1; 16], 7)), Ok(()));
        assert!(is_caught_up(&image(false), 1, ([1; 16], 6)).is_err());
    }
}
