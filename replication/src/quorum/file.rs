//! The quorum's log file: `docs/metadata-format.md`, "Log file, version 2".
//!
//! A header block, then frames, each beginning at a multiple of [`BLOCK_BYTES`] and padded with zeros to the next. A frame says
//! what a member has promised (its term and vote) and holds entries; where its entries begin below the end of those
//! before, it cuts them off. Nothing is ever overwritten: a frame is written by one direct write and there is never more
//! than one under way, so that of all frames only the last can be torn.

use bytes::{BufMut, Bytes, BytesMut};
use millstream_storage::BLOCK_BYTES;
use raft::eraftpb::Entry;

use super::entry::{ENTRY_PAYLOAD_BYTES_MAX, INDEX_MAX, decode_entry, encode_entry};
use crate::log::{Corrupt, FileId};
use crate::reader::Reader;

/// Most bytes of entries in one frame: one entry of the largest, with its header.
const FRAME_PAYLOAD_BYTES_MAX: usize = ENTRY_PAYLOAD_BYTES_MAX + 1024;

const MAGIC: &[u8; 8] = b"MSTRMETA";
const VERSION: u32 = 2;
/// Checksum, length of the entries, number in the file, term, vote, commit, count of entries.
const FRAME_HEADER_BYTES: usize = 4 + 4 + 8 + 8 + 8 + 8 + 4;

/// Where an entry stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

/// What a log file begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The file's identity.
    pub file_id: FileId,
    /// The index of the snapshot that it belongs to; its name says the same.
    pub snapshot_index: u64,
    /// The entry before its first one. It may lie before the snapshot: what members that are a little behind are sent.
    pub base: Position,
}

/// What a member has promised, and what it knows to be committed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HardState {
    /// The newest term that it knows.
    pub term: u64,
    /// The member that it votes for in this term; 0 for none.
    pub vote: u64,
    /// The index up to which everything is committed; more may be.
    pub commit: u64,
}

/// The header block of a log file.
pub fn encode_header(header: &Header) -> Bytes {
    let mut block = BytesMut::with_capacity(BLOCK_BYTES);
    block.put_slice(MAGIC);
    block.put_u32_le(VERSION);
    block.put_u64_le(header.snapshot_index);
    block.put_u64_le(header.base.index);
    block.put_u64_le(header.base.term);
    block.put_slice(&header.file_id.0);
    block.resize(BLOCK_BYTES - 4, 0);
    block.put_u32_le(crc32c::crc32c(&block));
    block.freeze()
}

fn decode_header(block: &[u8]) -> Result<Header, String> {
    if block.len() < BLOCK_BYTES {
        return Err(format!("the file has {} bytes, fewer than its header", block.len()));
    }
    let (body, checksum) = block[..BLOCK_BYTES].split_at(BLOCK_BYTES - 4);
    let mut reader = Reader::new(body);
    if reader.take(8)? != MAGIC {
        return Err("this is not a metadata log".into());
    }
    if crc32c::crc32c(body).to_le_bytes() != checksum {
        return Err("the header's checksum is wrong".into());
    }
    let version = reader.u32()?;
    if version != VERSION {
        return Err(format!(
            "format version {version} is not known to this version of Millstream, which writes {VERSION}"
        ));
    }
    let snapshot_index = reader.u64()?;
    let base = Position { index: reader.u64()?, term: reader.u64()? };
    let file_id = FileId(reader.array()?);
    if base.index > snapshot_index || snapshot_index > INDEX_MAX || base.term > INDEX_MAX {
        return Err(format!("it begins after index {}, its snapshot is at {snapshot_index}", base.index));
    }
    Ok(Header { file_id, snapshot_index, base })
}

/// One frame, padded to whole blocks: the `number`th of its file, counted from 0.
pub fn encode_frame(file_id: FileId, number: u64, state: HardState, entries: &[Entry]) -> Bytes {
    let mut frame = vec![0; FRAME_HEADER_BYTES];
    for entry in entries {
        encode_entry(entry, &mut frame);
    }
    let length = frame.len() - FRAME_HEADER_BYTES;
    assert!(length <= FRAME_PAYLOAD_BYTES_MAX, "a frame of {length} bytes");
    frame[4..8].copy_from_slice(&(length as u32).to_le_bytes());
    frame[8..16].copy_from_slice(&number.to_le_bytes());
    frame[16..24].copy_from_slice(&state.term.to_le_bytes());
    frame[24..32].copy_from_slice(&state.vote.to_le_bytes());
    frame[32..40].copy_from_slice(&state.commit.to_le_bytes());
    frame[40..44].copy_from_slice(&(entries.len() as u32).to_le_bytes());
    let checksum = checksum(file_id, &frame);
    frame[..4].copy_from_slice(&checksum.to_le_bytes());
    frame.resize(frame.len().next_multiple_of(BLOCK_BYTES), 0);
    frame.into()
}

/// Over the file's identity, then everything of the frame but the checksum itself and the padding.
fn checksum(file_id: FileId, frame: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&file_id.0), &frame[4..])
}

/// A frame whose checksum is right.
struct Sound<'a> {
    number: u64,
    state: HardState,
    count: u32,
    payload: &'a [u8],
    /// With its padding.
    bytes: usize,
}

/// The frame at the beginning of `bytes`, if there is a sound one.
fn sound_frame(file_id: FileId, bytes: &[u8]) -> Option<Sound<'_>> {
    let header = bytes.get(..FRAME_HEADER_BYTES)?;
    let mut reader = Reader::new(header);
    let (stored, length) = (reader.u32().ok()?, reader.u32().ok()? as usize);
    let number = reader.u64().ok()?;
    let state = HardState { term: reader.u64().ok()?, vote: reader.u64().ok()?, commit: reader.u64().ok()? };
    let count = reader.u32().ok()?;
    // No member is in term 0: zeros are no frame, whatever the file's identity makes of their checksum.
    if length > FRAME_PAYLOAD_BYTES_MAX || state.term == 0 {
        return None;
    }
    let end = FRAME_HEADER_BYTES + length;
    let padded = end.next_multiple_of(BLOCK_BYTES);
    let frame = bytes.get(..padded)?;
    if checksum(file_id, &frame[..end]) != stored || frame[end..].iter().any(|byte| *byte != 0) {
        return None;
    }
    Some(Sound { number, state, count, payload: &frame[FRAME_HEADER_BYTES..end], bytes: padded })
}

/// What a log file holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Scan {
    /// What it begins with.
    pub header: Header,
    /// How many frames it holds.
    pub frames: u64,
    /// What the last of them says.
    pub state: HardState,
    /// The entries that are left when every frame has cut off what it replaces.
    pub entries: Vec<Entry>,
    /// Where the last frame begins; behind the header where there is none.
    pub last_frame: u64,
    /// Where the next frame goes: all that follows is the rest of a write that was never finished.
    pub valid_bytes: u64,
}

/// Reads a whole log file. A last frame that is not sound was torn by a crash before anything was promised by it, and is left
/// out. One that is not sound and has a sound one behind it was damaged later: nothing may be left out then.
pub fn scan(path: &str, bytes: &[u8]) -> Result<Scan, Corrupt> {
    let corrupt = |position: usize, why: String| Corrupt { path: path.to_string(), position: position as u64, why };
    let header = decode_header(bytes).map_err(|why| corrupt(0, why))?;
    let begin = BLOCK_BYTES as u64;
    let (state, entries) = (HardState::default(), Vec::new());
    let mut found = Scan { header, frames: 0, state, entries, last_frame: begin, valid_bytes: begin };
    let mut position = BLOCK_BYTES;
    while let Some(frame) = sound_frame(header.file_id, &bytes[position.min(bytes.len())..]) {
        found.add(&frame).map_err(|why| corrupt(position, why))?;
        found.last_frame = position as u64;
        position += frame.bytes;
    }
    found.valid_bytes = position as u64;
    let next_sound = (position..bytes.len())
        .step_by(BLOCK_BYTES)
        .skip(1)
        .find(|at| sound_frame(header.file_id, &bytes[*at..]).is_some());
    match next_sound {
        Some(at) => Err(corrupt(position, format!("a damaged frame: a sound one follows it at {at}"))),
        None => Ok(found),
    }
}

impl Scan {
    /// The last entry; the one before the first where there is none.
    pub fn last(&self) -> Position {
        self.entries.last().map_or(self.header.base, |entry| Position { index: entry.index, term: entry.term })
    }

    fn add(&mut self, frame: &Sound<'_>) -> Result<(), String> {
        let HardState { term, vote, commit } = frame.state;
        let before = self.state;
        if frame.number != self.frames {
            return Err(format!("frame {} where {} must be", frame.number, self.frames));
        }
        if term < before.term || term > INDEX_MAX || commit < before.commit {
            return Err(format!("term {} to {term}, commit {} to {commit}", before.term, before.commit));
        }
        if term == before.term && before.vote != 0 && vote != before.vote {
            return Err(format!("the vote in term {term} changes"));
        }
        let mut reader = Reader::new(frame.payload);
        for _ in 0..frame.count {
            self.add_entry(decode_entry(&mut reader)?)?;
        }
        if !reader.rest().is_empty() {
            return Err(format!("{} bytes follow the entries of a frame", reader.rest().len()));
        }
        if commit > self.last().index.max(self.header.snapshot_index) || self.last().term > term {
            return Err(format!("term {term}, commit {commit} with a log that ends at {:?}", self.last()));
        }
        self.frames += 1;
        self.state = frame.state;
        Ok(())
    }

    fn add_entry(&mut self, entry: Entry) -> Result<(), String> {
        let base = self.header.base;
        if entry.index <= base.index || entry.index > self.last().index + 1 {
            return Err(format!("an entry at index {} where the log ends at {}", entry.index, self.last().index));
        }
        if entry.index <= self.state.commit.max(self.header.snapshot_index) && entry.index <= self.last().index {
            return Err(format!("an entry at index {}, which was committed already", entry.index));
        }
        self.entries.truncate((entry.index - base.index - 1) as usize);
        if entry.term < self.last().term {
            return Err(format!("the entry at index {} goes back to term {}", entry.index, entry.term));
        }
        self.entries.push(entry);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::samples::{before_levels, frozen, one_of_each, testdata};
    use crate::quorum::entry::{Payload, encode_records, payload};
    use crate::record::MetadataRecord;

    const PATH: &str = "metadata/quorum-00000000000000000007.log";
    const ID: FileId = FileId([0xa5; 16]);
    const HEADER: Header = Header { file_id: ID, snapshot_index: 7, base: Position { index: 5, term: 1 } };

    fn entry(index: u64, term: u64, records: &[MetadataRecord]) -> Entry {
        let data = if records.is_empty() { Bytes::new() } else { encode_records(index, records).into() };
        Entry { index, term, data, ..Default::default() }
    }

    /// Four frames: entries from before the snapshot, a long one, a vote, and entries that replace others.
    fn frames() -> Vec<(HardState, Vec<Entry>)> {
        let long = MetadataRecord::Topic { topic_id: Default::default(), name: "x".repeat(BLOCK_BYTES) };
        let state = |term, vote, commit| HardState { term, vote, commit };
        vec![
            (state(2, 9, 7), vec![entry(6, 1, &[]), entry(7, 2, &one_of_each())]),
            (state(2, 9, 7), vec![entry(8, 2, &[long]), entry(9, 2, &[MetadataRecord::ProducerIds { next: 1 }])]),
            (state(3, 0, 8), Vec::new()),
            (state(3, 4, 8), vec![entry(9, 3, &[]), entry(10, 3, &[MetadataRecord::ProducerIds { next: 2 }])]),
        ]
    }

    fn file() -> Vec<u8> {
        let mut bytes = encode_header(&HEADER).to_vec();
        for (number, (state, entries)) in (0..).zip(frames()) {
            bytes.extend(encode_frame(ID, number, state, &entries));
        }
        bytes
    }

    /// What the first so many frames come to.
    fn scanned(count: usize) -> Scan {
        let mut found = scan(PATH, &encode_header(&HEADER)).unwrap();
        for (number, (state, entries)) in (0..).zip(frames()).take(count) {
            found.last_frame = found.valid_bytes;
            found.valid_bytes += encode_frame(ID, number, state, &entries).len() as u64;
            let keep = entries.first().map_or(found.entries.len(), |first| (first.index - 6) as usize);
            found.entries.truncate(keep);
            found.entries.extend(entries);
            (found.frames, found.state) = (number + 1, state);
        }
        found
    }

    #[test]
    fn a_log_file_has_the_bytes_it_always_had() {
        frozen("log-v2-broker-v3.bin", &file());
        assert_eq!(scan(PATH, &file()).unwrap(), scanned(4));
        assert_eq!(scanned(4).last(), Position { index: 10, term: 3 });
    }

    #[test]
    fn a_log_file_with_brokers_of_the_second_layout_is_read() {
        let found = scan(PATH, &testdata("log-v2.bin")).expect("it is read");
        let entry = found.entries.iter().find(|entry| entry.index == 7).expect("as in `file`");
        let Ok(Payload::Records { records, .. }) = payload(entry) else { panic!("{entry:?}") };
        assert_eq!(records, before_levels());
        assert_eq!(found.entries.len(), scanned(4).entries.len());
    }

    #[test]
    fn a_file_that_is_cut_anywhere_loses_only_the_frame_that_is_cut() {
        let bytes = file();
        let ends: Vec<u64> = (0..=4).map(|count| scanned(count).valid_bytes).collect();
        for length in 0..bytes.len() {
            match ends.iter().rposition(|end| *end <= length as u64) {
                None => assert!(scan(PATH, &bytes[..length]).is_err(), "{length}"),
                Some(whole) => assert_eq!(scan(PATH, &bytes[..length]), Ok(scanned(whole)), "{length}"),
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let bytes = file();
        let last = scanned(3).valid_bytes as usize;
        for at in 0..bytes.len() {
            // Every bit of what is not padding, one bit of each byte of what is.
            for bit in 0..if bytes[at] == 0 { 1 } else { 8 } {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                match scan(PATH, &flipped) {
                    Ok(found) => {
                        assert!(at >= last, "a flip at {at} was not noticed");
                        assert_eq!(found, scanned(3));
                    }
                    Err(corrupt) => assert!(at < last && corrupt.position <= at as u64, "{corrupt}"),
                }
            }
        }
    }

    #[test]
    fn frames_that_no_member_writes_are_refused() {
        let (state, entries) = (HardState { term: 3, vote: 4, commit: 8 }, [entry(11, 3, &[])]);
        let appended = |file_id, number, state, entries: &[Entry]| {
            let mut bytes = file();
            bytes.extend(encode_frame(file_id, number, state, entries));
            scan(PATH, &bytes)
        };
        assert_eq!(appended(ID, 4, state, &entries).unwrap().last(), Position { index: 11, term: 3 });
        assert_eq!(appended(FileId([1; 16]), 4, state, &entries), Ok(scanned(4)), "of another file");
        for (number, state, entries) in [
            (5, state, [entry(11, 3, &[])]),
            (4, HardState { term: 2, ..state }, [entry(11, 2, &[])]),
            (4, HardState { commit: 7, ..state }, [entry(11, 3, &[])]),
            (4, HardState { commit: 12, ..state }, [entry(11, 3, &[])]),
            (4, HardState { vote: 5, ..state }, [entry(11, 3, &[])]),
            (4, state, [entry(12, 3, &[])]),
            (4, state, [entry(11, 4, &[])]),
            (4, state, [entry(8, 3, &[])]),
            (4, state, [entry(10, 2, &[])]),
        ] {
            assert!(appended(ID, number, state, &entries).is_err(), "{number} {state:?} {entries:?}");
        }
    }

    #[test]
    fn another_version_is_refused_by_its_number() {
        let mut bytes = encode_header(&HEADER).to_vec();
        bytes[8] = 3;
        let checksum = crc32c::crc32c(&bytes[..BLOCK_BYTES - 4]);
        bytes[BLOCK_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
        let refused = scan(PATH, &bytes).unwrap_err();
        assert!(refused.why.contains("version 3"), "{refused}");
    }
}
