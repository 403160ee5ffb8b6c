//! What members say to each other: `docs/quorum-protocol.md`. Read by a codec of ours, and judged before the crate that
//! agrees on entries sees it: that crate ends the process over what it holds to be impossible.

use bytes::Bytes;
use raft::eraftpb::{self, ConfState, Message, MessageType};

use super::entry::{INDEX_MAX, decode_entry, encode_entry};
use super::members::MemberId;
use super::snapshot::{Snapshot, decode_snapshot};
use super::store::Store;
use crate::reader::Reader;

/// Kinds of messages: their numbers on the wire.
const KINDS: [(u8, MessageType); 10] = [
    (1, MessageType::MsgAppend),
    (2, MessageType::MsgAppendResponse),
    (3, MessageType::MsgRequestVote),
    (4, MessageType::MsgRequestVoteResponse),
    (5, MessageType::MsgRequestPreVote),
    (6, MessageType::MsgRequestPreVoteResponse),
    (7, MessageType::MsgHeartbeat),
    (8, MessageType::MsgHeartbeatResponse),
    (9, MessageType::MsgSnapshot),
    (10, MessageType::MsgTimeoutNow),
];

const REJECTS: u8 = 1;
const IS_TRANSFER: u8 = 2;

/// How the crate marks a vote that a leader asked for when it handed over.
const TRANSFER: &[u8] = b"CampaignTransfer";

/// A message that could be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Incoming {
    pub(crate) message: Message,
    /// What its snapshot says, if it brings one.
    pub(crate) snapshot: Option<Snapshot>,
}

/// Kinds that carry a question whether their sender still leads, by its number, or the answer to it.
const CONFIRMING: [MessageType; 2] = [MessageType::MsgHeartbeat, MessageType::MsgHeartbeatResponse];

/// A message's bytes. The crate makes only kinds that have a number.
pub(crate) fn encode_message(message: &Message) -> Bytes {
    let kind = message.get_msg_type();
    let (number, _) = KINDS.iter().find(|(_, known)| *known == kind).expect("a kind that goes from member to member");
    let mut bytes = vec![*number];
    let transfer = if message.context.as_ref() == TRANSFER { IS_TRANSFER } else { 0 };
    bytes.push(transfer | if message.reject { REJECTS } else { 0 });
    let question = if CONFIRMING.contains(&kind) { <[u8; 8]>::try_from(message.context.as_ref()).ok() } else { None };
    let numbers = [
        message.from,
        message.to,
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.commit_term,
        message.reject_hint,
        question.map_or(0, u64::from_le_bytes),
    ];
    numbers.iter().for_each(|number| bytes.extend(number.to_le_bytes()));
    bytes.extend(u32::try_from(message.entries.len()).expect("messages are bounded").to_le_bytes());
    for entry in message.get_entries() {
        encode_entry(entry, &mut bytes);
    }
    if kind == MessageType::MsgSnapshot {
        bytes.extend(&message.get_snapshot().data);
    }
    bytes.into()
}

/// Reads a message. Its entries and its snapshot can be read, too; memory follows the bytes that are there.
pub fn decode_message(bytes: &[u8]) -> Result<Incoming, String> {
    let mut reader = Reader::new(bytes);
    let number = reader.byte()?;
    let (_, kind) = KINDS
        .iter()
        .find(|(known, _)| *known == number)
        .ok_or_else(|| format!("kind {number} of a message is not known to this version of Millstream"))?;
    let flags = reader.byte()?;
    if flags & !(REJECTS | IS_TRANSFER) != 0 {
        return Err(format!("flags {flags:#x} of a message are not known to this version of Millstream"));
    }
    let mut message = Message {
        from: reader.u64()?,
        to: reader.u64()?,
        term: reader.u64()?,
        log_term: reader.u64()?,
        index: reader.u64()?,
        commit: reader.u64()?,
        commit_term: reader.u64()?,
        reject_hint: reader.u64()?,
        reject: flags & REJECTS != 0,
        ..Default::default()
    };
    message.set_msg_type(*kind);
    let question = reader.u64()?;
    match (question, flags & IS_TRANSFER != 0) {
        (0, false) => {}
        (0, true) => message.context = Bytes::from_static(TRANSFER),
        (_, false) if CONFIRMING.contains(kind) => message.context = Bytes::copy_from_slice(&question.to_le_bytes()),
        _ => return Err(format!("question {question} in a message of kind {number}, with the flags {flags:#x}")),
    }
    let mut entries = Vec::new();
    for _ in 0..reader.u32()? {
        entries.push(decode_entry(&mut reader)?);
    }
    message.set_entries(entries.into());
    let mut snapshot = None;
    if *kind == MessageType::MsgSnapshot {
        let data = reader.rest();
        let found = decode_snapshot("snapshot", data).map_err(|corrupt| corrupt.why)?;
        let theirs = message.mut_snapshot();
        theirs.data = Bytes::copy_from_slice(data);
        let metadata = theirs.mut_metadata();
        (metadata.index, metadata.term) = (found.index, found.term);
        metadata.set_conf_state(found.members.conf_state());
        snapshot = Some(found);
    } else if !reader.rest().is_empty() {
        return Err(format!("{} bytes follow a message", reader.rest().len()));
    }
    Ok(Incoming { message, snapshot })
}

/// What a member has, and is.
#[derive(Clone, Copy)]
pub(crate) struct View<'a> {
    pub(crate) store: &'a Store,
    /// The index of the last entry of its log.
    pub(crate) last: u64,
    pub(crate) is_leader: bool,
}

/// Whether a message may be given to the crate of this member, which has `store`, and came from the member `from`. What a
/// member that follows the rules sends always may, however late it comes, or is of no use any more.
pub(crate) fn judge(incoming: &Incoming, from: MemberId, me: MemberId, view: View<'_>) -> Result<(), String> {
    let Incoming { message, .. } = incoming;
    let View { store, last, is_leader } = view;
    if MemberId(message.from) != from || MemberId(message.to) != me || from == me || from.0 == 0 {
        return Err(format!("it says {:x} to {:x}, and came from {from} to {me}", message.from, message.to));
    }
    let numbers = [message.log_term, message.index, message.commit, message.commit_term, message.reject_hint];
    if !(1..=INDEX_MAX).contains(&message.term) || numbers.iter().any(|number| *number > INDEX_MAX) {
        return Err(format!("a number beyond all bounds: term {}, {numbers:?}", message.term));
    }
    if message.term < store.state.term {
        // From a term that is over. The crate says so to the sender, or passes over it.
        return Ok(());
    }
    let kind = message.get_msg_type();
    let is_vote = matches!(kind, MessageType::MsgRequestVote | MessageType::MsgRequestPreVote);
    if message.context.as_ref() == TRANSFER && kind != MessageType::MsgRequestVote {
        return Err("only a vote is part of a hand-over".into());
    }
    if kind != MessageType::MsgAppend && !message.entries.is_empty() {
        return Err(format!("{} entries in a message that has none", message.entries.len()));
    }
    match kind {
        MessageType::MsgAppend => judge_append(message),
        // What this member does not have cannot be committed here, nor can another one have it from here.
        MessageType::MsgHeartbeat if message.commit > last => {
            Err(format!("index {} is said to be committed here, where the log ends at {last}", message.commit))
        }
        // Only a leader takes it for anything; one that lost the end of its log in a crash does not lead any more.
        MessageType::MsgAppendResponse if is_leader && !message.reject && message.index > last => {
            Err(format!("index {} is acknowledged, where the log ends at {last}", message.index))
        }
        MessageType::MsgSnapshot => judge_snapshot(incoming, me, store),
        _ if is_vote && message.log_term > message.term => {
            Err(format!("a log that ends in term {} in a vote of term {}", message.log_term, message.term))
        }
        _ => Ok(()),
    }
}

fn judge_append(message: &Message) -> Result<(), String> {
    let (mut index, mut term) = (message.index, message.log_term);
    // No entry is of term 0: what the crate has of an index where nothing is.
    if term > message.term || (term == 0 && index > 0) {
        return Err(format!("a log that is at ({index}, {term}) in a message of term {}", message.term));
    }
    for entry in message.get_entries() {
        if entry.index != index + 1 || entry.term < term || entry.term > message.term {
            return Err(format!(
                "the entry ({}, {}) follows ({index}, {term}) in a message of term {}",
                entry.index, entry.term, message.term
            ));
        }
        (index, term) = (entry.index, entry.term);
    }
    Ok(())
}

fn judge_snapshot(incoming: &Incoming, me: MemberId, store: &Store) -> Result<(), String> {
    let Some(snapshot) = &incoming.snapshot else { return Err("a snapshot is missing".into()) };
    if snapshot.term > incoming.message.term {
        return Err(format!("a snapshot of term {} in a message of term {}", snapshot.term, incoming.message.term));
    }
    if snapshot.members.get(me).is_none() {
        return Err("a snapshot in which this member is none".into());
    }
    if store.image.cluster().is_some() && snapshot.image.cluster() != store.image.cluster() {
        return Err("a snapshot of another cluster".into());
    }
    if snapshot.index > store.applied.index && snapshot.image.offset() < store.image.offset() {
        return Err(format!("a snapshot at offset {}, before {}", snapshot.image.offset(), store.image.offset()));
    }
    Ok(())
}

/// Whether the crate's view of the members is ours.
pub(crate) fn is_same(left: &ConfState, right: &ConfState) -> bool {
    let sorted = |ids: &[u64]| {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids
    };
    sorted(&left.voters) == sorted(&right.voters)
        && sorted(&left.learners) == sorted(&right.learners)
        && left.voters_outgoing.is_empty()
        && right.voters_outgoing.is_empty()
}

/// The snapshot that a message or a Ready of the crate brings, as it was judged.
pub(crate) fn snapshot_of(snapshot: &eraftpb::Snapshot) -> Result<Snapshot, String> {
    decode_snapshot("snapshot", &snapshot.data).map_err(|corrupt| corrupt.why)
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use millstream_storage::random::Random;

    use super::*;
    use crate::image::ClusterImage;
    use crate::log::samples::{frozen, one_of_each};
    use crate::quorum::entry::encode_records;
    use crate::quorum::file::{HardState, Position};
    use crate::quorum::members::Members;
    use crate::quorum::members::tests::member;
    use crate::quorum::snapshot::encode_snapshot;

    fn message(kind: MessageType) -> Message {
        let mut message = Message {
            from: member(2).id.0,
            to: member(1).id.0,
            term: 5,
            log_term: 4,
            index: 20,
            commit: 18,
            commit_term: 4,
            reject_hint: 19,
            ..Default::default()
        };
        message.set_msg_type(kind);
        match kind {
            MessageType::MsgAppend => {
                let data = encode_records(9, &one_of_each()).into();
                let entry = eraftpb::Entry { index: 21, term: 5, data, ..Default::default() };
                message.set_entries(vec![entry, eraftpb::Entry { index: 22, term: 5, ..Default::default() }].into());
            }
            MessageType::MsgSnapshot => {
                let mut image = ClusterImage::new();
                one_of_each().iter().for_each(|record| image.replay(record));
                let members = Members::of_voters([member(1), member(2)]);
                let snapshot = message.mut_snapshot();
                snapshot.data = encode_snapshot(30, 5, &members, &image);
                (snapshot.mut_metadata().index, snapshot.mut_metadata().term) = (30, 5);
                snapshot.mut_metadata().set_conf_state(members.conf_state());
            }
            MessageType::MsgRequestVote => message.context = Bytes::from_static(TRANSFER),
            MessageType::MsgAppendResponse => message.reject = true,
            kind if CONFIRMING.contains(&kind) => message.context = Bytes::copy_from_slice(&7u64.to_le_bytes()),
            _ => {}
        }
        message
    }

    fn store() -> Store {
        Store {
            base: Position { index: 25, term: 4 },
            entries: VecDeque::new(),
            state: HardState { term: 4, ..HardState::default() },
            applied: Position { index: 25, term: 4 },
            image: ClusterImage::new(),
            members: Members::of_voters([member(1), member(2)]),
        }
    }

    fn judged(message: &Message) -> Result<(), String> {
        let incoming = decode_message(&encode_message(message)).expect("it can be read");
        let view = View { store: &store(), last: 25, is_leader: true };
        judge(&incoming, member(2).id, member(1).id, view)
    }

    #[test]
    fn messages_are_read_as_they_were_written() {
        for (_, kind) in KINDS {
            let bytes = encode_message(&message(kind));
            assert_eq!(decode_message(&bytes).expect("it can be read").message, message(kind));
            for length in 0..bytes.len() {
                assert!(decode_message(&bytes[..length]).is_err(), "{kind:?} {length}");
            }
            assert_eq!(judged(&message(kind)), Ok(()), "{kind:?}");
        }
    }

    #[test]
    fn messages_have_the_bytes_they_always_had() {
        // Entries and snapshots, which follow, have frozen bytes of their own.
        const FIELDS_BYTES: usize = 78;
        let fields = |(_, kind): &(u8, MessageType)| encode_message(&message(*kind)).slice(..FIELDS_BYTES);
        let all: Vec<u8> = KINDS.iter().flat_map(fields).collect();
        frozen("quorum-messages-v2.bin", &all);
    }

    #[test]
    fn only_heartbeats_and_their_answers_carry_a_question() {
        const QUESTION: usize = 66;
        for (number, kind) in KINDS {
            let mut bytes = encode_message(&message(kind)).to_vec();
            bytes[QUESTION..QUESTION + 8].copy_from_slice(&9u64.to_le_bytes());
            let context = decode_message(&bytes).map(|incoming| incoming.message.context.to_vec());
            match number {
                7 | 8 => assert_eq!(context, Ok(9u64.to_le_bytes().to_vec())),
                _ => assert!(context.is_err(), "{kind:?}"),
            }
            // A heartbeat that asks nothing, and one that would be two things.
            bytes[QUESTION..QUESTION + 8].fill(0);
            bytes[1] = 0;
            assert!(decode_message(&bytes).is_ok_and(|incoming| incoming.message.context.is_empty()), "{kind:?}");
            bytes[QUESTION] = 1;
            bytes[1] = IS_TRANSFER;
            assert!(decode_message(&bytes).is_err(), "{kind:?}");
        }
    }

    #[test]
    fn what_the_crate_holds_to_be_impossible_does_not_reach_it() {
        let refused = |kind, change: &dyn Fn(&mut Message)| {
            let mut message = message(kind);
            change(&mut message);
            judged(&message).expect_err("it is refused")
        };
        refused(MessageType::MsgHeartbeat, &|message| message.commit = 26);
        refused(MessageType::MsgHeartbeat, &|message| message.term = 0);
        refused(MessageType::MsgHeartbeat, &|message| message.term = u64::MAX);
        refused(MessageType::MsgHeartbeat, &|message| message.from = 3);
        refused(MessageType::MsgHeartbeat, &|message| message.to = 3);
        refused(MessageType::MsgHeartbeat, &|message| message.context = Bytes::from_static(TRANSFER));
        refused(MessageType::MsgAppendResponse, &|message| (message.reject, message.index) = (false, 26));
        refused(MessageType::MsgAppend, &|message| message.index = 19);
        // Found by fuzzing.
        refused(MessageType::MsgAppend, &|message| message.log_term = 0);
        refused(MessageType::MsgAppend, &|message| message.mut_entries()[1].term = 4);
        refused(MessageType::MsgAppend, &|message| message.mut_entries()[1].term = 6);
        refused(MessageType::MsgRequestVote, &|message| message.log_term = 6);
        refused(MessageType::MsgSnapshot, &|message| message.term = 4);

        // Late, and therefore of no use, is not wrong.
        let mut late = message(MessageType::MsgAppendResponse);
        (late.reject, late.index, late.term) = (false, 26, 3);
        assert_eq!(judged(&late), Ok(()));
    }

    #[test]
    fn hostile_bytes_are_refused_or_are_a_message() {
        let mut random = Random::new(3);
        for (_, kind) in KINDS {
            let sound = encode_message(&message(kind));
            for _ in 0..3_000 {
                let mut bytes = sound.to_vec();
                for _ in 0..=random.below(3) {
                    let at = random.index(bytes.len());
                    bytes[at] = random.next() as u8;
                }
                if let Ok(incoming) = decode_message(&bytes) {
                    assert_eq!(encode_message(&incoming.message), bytes);
                }
            }
        }
    }
}
