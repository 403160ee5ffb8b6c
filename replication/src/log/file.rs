//! The metadata log's file: `docs/metadata-format.md`, "Log file".
//!
//! A header block, then entries, each beginning at a multiple of [`BLOCK_BYTES`] and padded with zeros to the next. An
//! entry is written by one direct write and there is never more than one under way, so that of all entries only the
//! last can be torn.

use bytes::{BufMut, Bytes, BytesMut};
use millstream_storage::BLOCK_BYTES;

use super::codec::{Decoded, decode_records};
use super::{Corrupt, FileId};
use crate::record::MetadataRecord;

/// Most bytes of records in one entry.
pub const ENTRY_PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;

const MAGIC: &[u8; 8] = b"MSTRMETA";
const VERSION: u32 = 1;
/// Checksum, length of the payload, offset of the first record, count of records.
const ENTRY_HEADER_BYTES: usize = 20;

/// The header block of a log file whose first record will have the offset `base_offset + 1`.
pub fn encode_header(file_id: FileId, base_offset: u64) -> Bytes {
    let mut block = BytesMut::with_capacity(BLOCK_BYTES);
    block.put_slice(MAGIC);
    block.put_u32_le(VERSION);
    block.put_u64_le(base_offset);
    block.put_slice(&file_id.0);
    block.resize(BLOCK_BYTES - 4, 0);
    block.put_u32_le(crc32c::crc32c(&block));
    block.freeze()
}

fn decode_header(block: &[u8]) -> Result<(FileId, u64), String> {
    if block.len() < BLOCK_BYTES {
        return Err(format!("the file has {} bytes, fewer than its header", block.len()));
    }
    let (body, checksum) = block[..BLOCK_BYTES].split_at(BLOCK_BYTES - 4);
    if &body[..8] != MAGIC {
        return Err("this is not a metadata log".into());
    }
    if crc32c::crc32c(body).to_le_bytes() != checksum {
        return Err("the header's checksum is wrong".into());
    }
    let version = u32::from_le_bytes(body[8..12].try_into().expect("4 bytes"));
    if version != VERSION {
        return Err(format!(
            "format version {version} is not known to this version of Millstream, which writes {VERSION}"
        ));
    }
    let base_offset = u64::from_le_bytes(body[12..20].try_into().expect("8 bytes"));
    Ok((FileId(body[20..36].try_into().expect("16 bytes")), base_offset))
}

/// One entry, padded to whole blocks. `offset` is that of the first of `records`.
///
/// Panics when the records take more than [`ENTRY_PAYLOAD_BYTES_MAX`] or there are none.
pub fn encode_entry(file_id: FileId, offset: u64, records: &[MetadataRecord]) -> Bytes {
    assert!(!records.is_empty(), "an entry holds at least one record");
    let mut entry = vec![0; ENTRY_HEADER_BYTES];
    for record in records {
        record.encode(&mut entry);
    }
    let length = entry.len() - ENTRY_HEADER_BYTES;
    assert!(length <= ENTRY_PAYLOAD_BYTES_MAX, "an entry of {length} bytes");
    entry[4..8].copy_from_slice(&(length as u32).to_le_bytes());
    entry[8..16].copy_from_slice(&offset.to_le_bytes());
    entry[16..20].copy_from_slice(&(records.len() as u32).to_le_bytes());
    let checksum = checksum(file_id, &entry);
    entry[..4].copy_from_slice(&checksum.to_le_bytes());
    entry.resize(entry.len().next_multiple_of(BLOCK_BYTES), 0);
    entry.into()
}

/// Over the file's identity, then everything of the entry but the checksum itself and the padding.
fn checksum(file_id: FileId, entry: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&file_id.0), &entry[4..])
}

/// An entry whose checksum is right.
struct Sound<'a> {
    offset: u64,
    count: u32,
    payload: &'a [u8],
    /// With its padding.
    bytes: usize,
}

/// The entry at the beginning of `bytes`, if there is a sound one.
fn sound_entry(file_id: FileId, bytes: &[u8]) -> Option<Sound<'_>> {
    let header = bytes.get(..ENTRY_HEADER_BYTES)?;
    let number = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().expect("4 bytes"));
    let length = number(4) as usize;
    if length == 0 || length > ENTRY_PAYLOAD_BYTES_MAX {
        return None;
    }
    let end = ENTRY_HEADER_BYTES + length;
    let padded = end.next_multiple_of(BLOCK_BYTES);
    let entry = bytes.get(..padded)?;
    if checksum(file_id, &entry[..end]) != number(0) || entry[end..].iter().any(|byte| *byte != 0) {
        return None;
    }
    Some(Sound {
        offset: u64::from_le_bytes(header[8..16].try_into().expect("8 bytes")),
        count: number(16),
        payload: &entry[ENTRY_HEADER_BYTES..end],
        bytes: padded,
    })
}

/// What a log file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scan {
    /// The file's identity.
    pub file_id: FileId,
    /// The offset of the last record before the file's first.
    pub base_offset: u64,
    /// The records of each entry.
    pub entries: Vec<Decoded>,
    /// Where the next entry goes: all that follows is the rest of a write that was never finished.
    pub valid_bytes: u64,
}

/// Reads a whole log file. A last entry that is not sound was torn by a crash before it was acknowledged, and is left
/// out. One that is not sound and has a sound one behind it was damaged later: nothing may be left out then.
pub fn scan(path: &str, bytes: &[u8]) -> Result<Scan, Corrupt> {
    let corrupt = |position: usize, why: String| Corrupt { path: path.to_string(), position: position as u64, why };
    let (file_id, base_offset) = decode_header(bytes).map_err(|why| corrupt(0, why))?;
    let mut entries = Vec::new();
    let mut offset = base_offset + 1;
    let mut position = BLOCK_BYTES;
    while let Some(entry) = sound_entry(file_id, &bytes[position.min(bytes.len())..]) {
        if entry.offset != offset {
            return Err(corrupt(position, format!("an entry at offset {} where {offset} must be", entry.offset)));
        }
        let decoded = decode_records(entry.count, entry.payload).map_err(|why| corrupt(position, why))?;
        offset += decoded.count();
        entries.push(decoded);
        position += entry.bytes;
    }
    let next_sound =
        (position..bytes.len()).step_by(BLOCK_BYTES).skip(1).find(|at| sound_entry(file_id, &bytes[*at..]).is_some());
    match next_sound {
        Some(at) => Err(corrupt(position, format!("a damaged entry: a sound one follows it at {at}"))),
        None => Ok(Scan { file_id, base_offset, entries, valid_bytes: position as u64 }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::samples::{before_incarnations, frozen, one_of_each, testdata};

    const PATH: &str = "metadata/00000000000000000007.log";
    const ID: FileId = FileId([0xa5; 16]);

    /// A log of three entries; the second takes two blocks.
    fn three_entries() -> (Vec<u8>, Vec<Decoded>) {
        log_of(one_of_each())
    }

    /// A log of three entries, which begins with these records.
    fn log_of(first: Vec<MetadataRecord>) -> (Vec<u8>, Vec<Decoded>) {
        let long = MetadataRecord::Topic { topic_id: Default::default(), name: "x".repeat(BLOCK_BYTES) };
        let entries = vec![first, vec![long], vec![MetadataRecord::ProducerIds { next: 1000 }]];
        let mut bytes = encode_header(ID, 7).to_vec();
        let mut offset = 8;
        for records in &entries {
            bytes.extend(encode_entry(ID, offset, records));
            offset += records.len() as u64;
        }
        let entries = entries.into_iter().map(|records| Decoded { records, ..Decoded::default() }).collect();
        (bytes, entries)
    }

    #[test]
    fn a_log_file_has_the_bytes_it_always_had() {
        let (bytes, entries) = three_entries();
        frozen("log-v1-broker-v2.bin", &bytes);
        let scan = scan(PATH, &bytes).unwrap();
        assert_eq!((scan.file_id, scan.base_offset), (ID, 7));
        assert_eq!(scan.entries, entries);
        assert_eq!(scan.valid_bytes, bytes.len() as u64);
    }

    #[test]
    fn a_log_file_with_records_of_old_layouts_is_read() {
        let scan = scan(PATH, &testdata("log-v1.bin")).expect("it always could be read");
        assert_eq!(scan.entries, log_of(before_incarnations()).1);
    }

    #[test]
    fn a_log_file_that_names_its_node_is_read() {
        let (_, mut entries) = log_of(before_incarnations());
        (entries[0].retired, entries[0].node_id) = (1, Some(1));
        let scan = scan(PATH, &testdata("log-v1-node.bin")).expect("it always could be read");
        assert_eq!(scan.entries, entries);
    }

    #[test]
    fn a_file_that_is_cut_anywhere_loses_only_the_entry_that_is_cut() {
        let (bytes, entries) = three_entries();
        let ends = [1, 2, 4, 5].map(|blocks| blocks * BLOCK_BYTES);
        for length in 0..bytes.len() {
            let scanned = scan(PATH, &bytes[..length]);
            match ends.iter().rposition(|end| *end <= length) {
                None => assert!(scanned.is_err(), "{length}"),
                Some(whole) => {
                    let scanned = scanned.unwrap();
                    assert_eq!(scanned.entries, entries[..whole], "{length}");
                    assert_eq!(scanned.valid_bytes, ends[whole] as u64);
                }
            }
        }
    }

    #[test]
    fn a_torn_last_entry_is_dropped_whichever_of_its_blocks_was_written() {
        let (bytes, entries) = three_entries();
        for lost in [2, 3] {
            let mut torn = bytes[..4 * BLOCK_BYTES].to_vec();
            torn[lost * BLOCK_BYTES..(lost + 1) * BLOCK_BYTES].fill(0);
            assert_eq!(scan(PATH, &torn).unwrap().entries, entries[..1]);
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (bytes, entries) = three_entries();
        let last = 4 * BLOCK_BYTES;
        for at in 0..bytes.len() {
            // Every bit of what is not padding, one bit of each byte of what is.
            let bits = if bytes[at] == 0 { 1 } else { 8 };
            for bit in 0..bits {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                match scan(PATH, &flipped) {
                    Ok(scanned) => {
                        assert!(at >= last, "a flip at {at} was not noticed");
                        assert_eq!(scanned.entries, entries[..2]);
                    }
                    Err(corrupt) => {
                        assert!(at < last, "{corrupt}");
                        assert!(corrupt.position <= at as u64);
                        assert!(corrupt.to_string().contains(PATH));
                    }
                }
            }
        }
    }

    #[test]
    fn an_entry_of_another_file_or_place_is_not_taken() {
        let (bytes, entries) = three_entries();
        let mut other = bytes[..2 * BLOCK_BYTES].to_vec();
        let offset = 8 + entries[0].count();
        other.extend(encode_entry(FileId([1; 16]), offset, &entries[2].records));
        assert_eq!(scan(PATH, &other).unwrap().entries, entries[..1]);

        let mut misplaced = bytes[..2 * BLOCK_BYTES].to_vec();
        misplaced.extend(encode_entry(ID, offset + 1, &entries[2].records));
        assert!(scan(PATH, &misplaced).is_err());
    }

    #[test]
    fn another_version_is_refused_by_its_number() {
        let mut bytes = encode_header(ID, 0).to_vec();
        bytes[8] = 2;
        let checksum = crc32c::crc32c(&bytes[..BLOCK_BYTES - 4]);
        bytes[BLOCK_BYTES - 4..].copy_from_slice(&checksum.to_le_bytes());
        let refused = scan(PATH, &bytes).unwrap_err();
        assert!(refused.why.contains("version 2"), "{refused}");
    }
}
