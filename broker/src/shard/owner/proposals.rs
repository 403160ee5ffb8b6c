//! What the leaders here propose to the controller: who is to be in sync (AlterPartition). One request is under way at a time;
//! it takes all that was proposed meanwhile.

use std::collections::BTreeMap;

use millstream_replication::ErrorCode;
use millstream_replication::controller::{AlterPartition, AlteredPartition, PARTITIONS_PER_REQUEST_MAX};
use millstream_storage::PartitionKey;

use crate::shard::message::{Altered, Message};
use crate::shard::turn::Turn;

/// Proposals that are not answered yet. A replica has one at most, so that there are no more than partitions.
#[derive(Debug, Default)]
pub struct Proposals {
    waiting: BTreeMap<PartitionKey, AlterPartition>,
    /// Those of the request under way, with the partition epochs that they rest on; none if nothing is under way.
    asked: Vec<(PartitionKey, i32)>,
}

impl Proposals {
    /// A replica proposes.
    pub fn add(&mut self, key: PartitionKey, asked: AlterPartition) {
        self.waiting.insert(key, asked);
    }

    /// Sends what waits, at most [`PARTITIONS_PER_REQUEST_MAX`], unless a request is under way.
    pub fn send(&mut self, turn: &mut Turn<'_>) {
        if self.waiting.is_empty() || !self.asked.is_empty() {
            return;
        }
        let mut request = Vec::new();
        while request.len() < PARTITIONS_PER_REQUEST_MAX
            && let Some((key, asked)) = self.waiting.pop_first()
        {
            self.asked.push((key, asked.partition_epoch));
            request.push((key, asked));
        }
        turn.tell(turn.options.index, Message::Propose(request));
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.waiting.len() + self.asked.len()
    }

    /// The request under way is answered: what each of its proposals has come to, with the partition epoch that it rested on.
    pub fn answered(&mut self, outcomes: Altered) -> Vec<(PartitionKey, i32, Result<AlteredPartition, ErrorCode>)> {
        let asked = std::mem::take(&mut self.asked);
        let mut answers = BTreeMap::new();
        let otherwise = match outcomes {
            Ok(outcomes) => {
                answers.extend(outcomes);
                ErrorCode::UnknownServerError
            }
            Err(error) => error.code,
        };
        let mut result = |key| answers.remove(&key).map_or(Err(otherwise), |answer| answer.map_err(|error| error.code));
        asked.into_iter().map(|(key, partition_epoch)| (key, partition_epoch, result(key))).collect()
    }
}
