//! The owner's side of surveys: what is asked of each partition is at hand, so that a round is answered at once.

use super::replicas::Replicas;
use crate::shard::message::{Finding, Message, Subject, SurveyCall, SurveyDone};
use crate::shard::turn::Turn;

/// Answers a round of a survey.
pub fn answer(turn: &mut Turn<'_>, replicas: &mut Replicas, call: SurveyCall) {
    let SurveyCall { from, request, subject, items } = call;
    let mut find = |key| match (replicas.partitions.leader(key, -1), subject) {
        (Err(error), _) => Finding::Error(error),
        (Ok((log, _)), Subject::Size) => Finding::Size(replicas.log.log_bytes(log)),
        (Ok((log, _)), Subject::Producers) => Finding::Producers(replicas.log.producers(log)),
    };
    let findings = items.iter().map(|&(slot, key)| (slot, find(key))).collect();
    turn.tell(from, Message::Surveyed(SurveyDone { request, findings }));
}
