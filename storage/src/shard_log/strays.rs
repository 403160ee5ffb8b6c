//! Partitions that recovery has set aside because the cluster image of the start did not know them: taken back when a
//! later one does, removed when the controller has confirmed that they are gone.

use super::{LogConfig, LogId, ShardLog};
use crate::PartitionKey;
use crate::partition_log::PartitionLog;

impl ShardLog {
    /// The partitions that are set aside, in order.
    pub fn strays(&self) -> impl Iterator<Item = PartitionKey> {
        self.strays.keys().copied()
    }

    /// The image has reached the offset at which the controller committed this process's registration: what it does not
    /// know now is gone or somebody else's, not too new for it. Removes the partitions set aside of which `is_hosted`
    /// denies that this node has them, in small steps and when there is time. Returns how many they are.
    pub fn remove_confirmed(&mut self, is_hosted: impl Fn(PartitionKey) -> bool) -> usize {
        let before = self.strays.len();
        let (removals, now) = (&mut self.removals, self.clock);
        self.strays.retain(|key, stray| {
            let is_hosted = is_hosted(*key);
            if !is_hosted {
                // What a stop keeps from being removed is set aside at the next start as well.
                removals.add_leftover(now, stray.directory.clone());
            }
            is_hosted
        });
        before - self.strays.len()
    }

    /// Takes back a partition that is set aside, with all its records: the image of the start was older than it. It stays
    /// where it lies until the next start.
    pub(super) fn take_back(&mut self, key: PartitionKey, config: &LogConfig) -> Option<LogId> {
        let stray = self.strays.remove(&key)?;
        // Only a removal makes one incomplete, and that was confirmed. The next start refuses it with words; to begin it
        // anew would be to lose it.
        let state = stray.state.unwrap_or_else(|| {
            panic!("{} holds partition {} of a topic that exists, but not all of it", stray.directory, key.partition)
        });
        let id = self.logs.insert(PartitionLog::new(&stray.directory, config.clone(), &state));
        if state.segments.len() > 1 {
            self.logs.enqueue(id);
        }
        Some(id)
    }
}
