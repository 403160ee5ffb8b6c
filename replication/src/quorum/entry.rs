//! Entries of the quorum's log: `docs/metadata-format.md`, "Entries". The same bytes on disk and between nodes.
//!
//! The crate that agrees on them knows an entry as a type and two pieces of bytes, one of which it reads by a codec of its
//! own when members change. What comes from a disk or from a peer never reaches that codec: a change of members is read by
//! ours, and written anew for the crate.

use bytes::Bytes;
use protobuf::Message as _;
use raft::eraftpb;

use super::members::{MemberChange, MemberChangeKind};
use crate::log::codec::{Decoded, decode_records};
use crate::reader::Reader;
use crate::record::MetadataRecord;

/// Most bytes of one entry's payload. A decision is one entry.
pub const ENTRY_PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// No index and no term is larger: nothing that is added to one overflows.
pub const INDEX_MAX: u64 = 1 << 62;

/// Index, term, kind, length of the payload.
pub(crate) const ENTRY_HEADER_BYTES: usize = 8 + 8 + 1 + 4;

const NOTHING: u8 = 0;
const RECORDS: u8 = 1;
const MEMBER: u8 = 2;

/// What an entry says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload {
    /// Nothing: a new leader begins its term with it.
    Nothing,
    /// Records of one decision, all or none of which happened.
    Records {
        /// The offset of the first.
        offset: u64,
        /// In their order, at least one.
        records: Vec<MetadataRecord>,
    },
    /// The members of the quorum change.
    Member(MemberChange),
}

/// Puts records into an entry's payload. `offset` is that of the first.
pub(crate) fn encode_records(offset: u64, records: &[MetadataRecord]) -> Vec<u8> {
    assert!(!records.is_empty(), "a decision that changes something");
    let mut bytes = Vec::new();
    bytes.extend(offset.to_le_bytes());
    bytes.extend(u32::try_from(records.len()).expect("decisions are bounded").to_le_bytes());
    for record in records {
        record.encode(&mut bytes);
    }
    assert!(bytes.len() <= ENTRY_PAYLOAD_BYTES_MAX, "a decision of {} bytes", bytes.len());
    bytes
}

/// The payload of an entry as the crate keeps it.
pub(crate) fn payload(entry: &eraftpb::Entry) -> Result<Payload, String> {
    let (kind, bytes) = parts(entry);
    decode_payload(kind, bytes)
}

/// The kind and the bytes of an entry's payload.
fn parts(entry: &eraftpb::Entry) -> (u8, &Bytes) {
    match entry.get_entry_type() {
        eraftpb::EntryType::EntryNormal if entry.data.is_empty() => (NOTHING, &entry.data),
        eraftpb::EntryType::EntryNormal => (RECORDS, &entry.data),
        // What the crate reads of it is made out of this.
        eraftpb::EntryType::EntryConfChange | eraftpb::EntryType::EntryConfChangeV2 => (MEMBER, &entry.context),
    }
}

fn decode_payload(kind: u8, bytes: &[u8]) -> Result<Payload, String> {
    match kind {
        NOTHING if bytes.is_empty() => Ok(Payload::Nothing),
        NOTHING => Err(format!("{} bytes in an entry of nothing", bytes.len())),
        RECORDS => {
            let mut reader = Reader::new(bytes);
            let offset = reader.u64()?;
            let count = reader.u32()?;
            let Decoded { records, retired, .. } = decode_records(count, reader.rest())?;
            if retired > 0 {
                return Err("a record of a type that is not written any more".into());
            }
            if records.is_empty() || offset == 0 || offset > INDEX_MAX {
                return Err(format!("{count} records at offset {offset}"));
            }
            Ok(Payload::Records { offset, records })
        }
        MEMBER => MemberChange::decode(bytes).map(Payload::Member),
        other => Err(format!("kind {other} of an entry is not known to this version of Millstream")),
    }
}

/// The crate's form of a change of members.
pub(crate) fn conf_change(change: &MemberChange) -> eraftpb::ConfChange {
    let mut conf = eraftpb::ConfChange::default();
    conf.set_change_type(match change.kind {
        MemberChangeKind::AddVoter => eraftpb::ConfChangeType::AddNode,
        MemberChangeKind::AddLearner => eraftpb::ConfChangeType::AddLearnerNode,
        MemberChangeKind::Remove => eraftpb::ConfChangeType::RemoveNode,
    });
    conf.node_id = change.member.id.0;
    conf
}

/// Appends an entry's bytes.
pub(crate) fn encode_entry(entry: &eraftpb::Entry, out: &mut Vec<u8>) {
    let (kind, bytes) = parts(entry);
    out.extend(entry.index.to_le_bytes());
    out.extend(entry.term.to_le_bytes());
    out.push(kind);
    out.extend(u32::try_from(bytes.len()).expect("payloads are bounded").to_le_bytes());
    out.extend(bytes);
}

/// How many bytes [`encode_entry`] appends.
pub(crate) fn encoded_bytes(entry: &eraftpb::Entry) -> usize {
    ENTRY_HEADER_BYTES + parts(entry).1.len()
}

/// Reads an entry whose payload can be read, too.
pub(crate) fn decode_entry(reader: &mut Reader<'_>) -> Result<eraftpb::Entry, String> {
    let (index, term) = (reader.u64()?, reader.u64()?);
    let kind = reader.byte()?;
    let length = reader.u32()? as usize;
    if !(1..=INDEX_MAX).contains(&index) || !(1..=INDEX_MAX).contains(&term) || length > ENTRY_PAYLOAD_BYTES_MAX {
        return Err(format!("an entry at index {index} of term {term}, {length} bytes"));
    }
    let bytes = reader.take(length)?;
    let decoded = decode_payload(kind, bytes).map_err(|why| format!("the entry at index {index}: {why}"))?;
    let mut entry = eraftpb::Entry { index, term, ..Default::default() };
    match decoded {
        Payload::Nothing => {}
        Payload::Records { .. } => entry.data = Bytes::copy_from_slice(bytes),
        Payload::Member(change) => {
            entry.set_entry_type(eraftpb::EntryType::EntryConfChange);
            let conf = conf_change(&change).write_to_bytes();
            entry.data = conf.map_err(|error| format!("a change of members cannot be written: {error}"))?.into();
            entry.context = Bytes::copy_from_slice(bytes);
        }
    }
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::samples::one_of_each;
    use crate::quorum::members::tests::member;

    fn entries() -> Vec<eraftpb::Entry> {
        let nothing = eraftpb::Entry { index: 7, term: 3, ..Default::default() };
        let data = encode_records(21, &one_of_each()).into();
        let records = eraftpb::Entry { index: 8, term: 3, data, ..Default::default() };
        let change = MemberChange { kind: MemberChangeKind::AddLearner, member: member(2) };
        let mut joins = eraftpb::Entry { index: 9, term: 4, ..Default::default() };
        joins.set_entry_type(eraftpb::EntryType::EntryConfChange);
        joins.data = conf_change(&change).write_to_bytes().unwrap().into();
        joins.context = change.encode().into();
        vec![nothing, records, joins]
    }

    #[test]
    fn entries_are_read_as_they_were_written() {
        for entry in entries() {
            let mut bytes = Vec::new();
            encode_entry(&entry, &mut bytes);
            assert_eq!(bytes.len(), encoded_bytes(&entry));
            let mut reader = Reader::new(&bytes);
            assert_eq!(decode_entry(&mut reader).as_ref(), Ok(&entry));
            assert!(reader.rest().is_empty());
            for length in 0..bytes.len() {
                assert!(decode_entry(&mut Reader::new(&bytes[..length])).is_err(), "{length}");
            }
        }
    }

    #[test]
    fn what_no_leader_writes_is_refused() {
        let decode = |kind: u8, payload: &[u8]| {
            let mut bytes = Vec::new();
            bytes.extend(1u64.to_le_bytes());
            bytes.extend(1u64.to_le_bytes());
            bytes.push(kind);
            bytes.extend((payload.len() as u32).to_le_bytes());
            bytes.extend(payload);
            decode_entry(&mut Reader::new(&bytes))
        };
        assert!(decode(NOTHING, b"x").is_err());
        assert!(decode(9, b"").is_err());
        assert!(decode(RECORDS, &[0; 12]).is_err(), "no records");
        assert!(decode(RECORDS, &encode_records(0, &one_of_each())).is_err(), "offset 0");
        assert!(decode(MEMBER, b"\x01").is_err());
    }
}
