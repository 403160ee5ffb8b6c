//! The owner's side of surveys: what is asked of each partition is at hand, so that a round is answered at once.

use millstream_replication::{ErrorCode, Replica};

use super::replicas::Replicas;
use crate::shard::message::{Finding, Message, Subject, SurveyCall, SurveyDone};
use crate::shard::turn::Turn;

/// Answers a round of a survey.
pub fn answer(turn: &mut Turn<'_>, replicas: &mut Replicas, call: SurveyCall) {
    let SurveyCall { from, request, subject, items } = call;
    let mut find = |key| match subject {
        // Of every replica that is here, whoever leads.
        Subject::Size => match replicas.partitions.find(key) {
            Some(log) => {
                let replica = replicas.partitions.get_mut(log).and_then(|partition| partition.replica.as_ref());
                let behind = replica.and_then(Replica::behind_committed);
                Finding::Size { bytes: replicas.log.log_bytes(log), behind }
            }
            None => Finding::Error(ErrorCode::NotLeaderOrFollower),
        },
        Subject::Producers => match replicas.partitions.leader(key, -1) {
            Ok((log, _)) => Finding::Producers(replicas.log.producers(log)),
            Err(error) => Finding::Error(error),
        },
    };
    let findings = items.iter().map(|&(slot, key)| (slot, find(key))).collect();
    turn.tell(from, Message::Surveyed(SurveyDone { request, findings }));
}
