//! Version 1 of the metadata log, which one node kept for itself: `docs/metadata-format.md`, "Version 1". It is read once, to
//! become the first snapshot of a quorum, and never written.

use millstream_storage::{BLOCK_BYTES, DiskError, DiskOp, DiskReply, FilePath};

use super::codec::{Decoded, decode_records};
use super::{Corrupt, DIRECTORY, FileId, Io, OpenError, read, run};
use crate::image::ClusterImage;
use crate::reader::Reader;

pub(crate) const VERSION: u32 = 1;

const LOG_MAGIC: &[u8; 8] = b"MSTRMETA";
const SNAPSHOT_MAGIC: &[u8; 8] = b"MSTRSNAP";
/// Most bytes of records in one entry.
const ENTRY_PAYLOAD_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Checksum, length of the payload, offset of the first record, count of records.
const ENTRY_HEADER_BYTES: usize = 20;

/// What a log of version 1 has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Old {
    /// The replay of its records.
    pub image: ClusterImage,
    /// The node that it names, if it was written when the log itself did.
    pub node_id: Option<i32>,
}

/// Reads the log that is there, if there is one; nothing on the disk changes. What a crash left of a write that was never
/// acknowledged is passed over.
pub fn open(io: &mut Io<'_>) -> Result<Option<Old>, OpenError> {
    let path = snapshot_path();
    let snapshot = match read(io, &path) {
        Ok(bytes) => Some(decode_snapshot(&path, &bytes).map_err(OpenError::Corrupt)?),
        Err(OpenError::Disk { error: DiskError::NotFound, .. }) => None,
        Err(error) => return Err(error),
    };
    let bases = bases(io)?;
    if snapshot.is_none() && bases.is_empty() {
        return Ok(None);
    }
    let Old { mut image, mut node_id } = snapshot.unwrap_or(Old { image: ClusterImage::new(), node_id: None });
    let wanted = image.offset();
    if !bases.contains(&wanted) {
        let path = if bases.iter().any(|base| *base > wanted) { snapshot_path() } else { log_path(wanted) };
        let why = format!("it is missing or old: snapshot at offset {wanted}, logs from {bases:?}");
        return Err(corrupt(&path, why));
    }
    for path in bases.into_iter().filter(|base| *base > wanted).map(log_path) {
        // Made for a snapshot that was never written, so nothing was ever appended to it.
        if !scan(&path, &read(io, &path)?).map_err(OpenError::Corrupt)?.1.is_empty() {
            return Err(corrupt(&snapshot_path(), format!("it ends at offset {wanted}, and {path} has records")));
        }
    }
    let path = log_path(wanted);
    let (base_offset, entries) = scan(&path, &read(io, &path)?).map_err(OpenError::Corrupt)?;
    if base_offset != wanted {
        return Err(corrupt(&path, format!("its header says that it begins at offset {base_offset}")));
    }
    for entry in &entries {
        for record in &entry.records {
            let offset = image.offset() + 1;
            image.check(record).map_err(|why| corrupt(&path, format!("the record at offset {offset}: {why}")))?;
            image.replay(record);
        }
        image.pass_over(entry.retired);
        node_id = entry.node_id.or(node_id);
    }
    Ok((image.offset() > 0).then_some(Old { image, node_id }))
}

fn snapshot_path() -> FilePath {
    super::SNAPSHOT.into()
}

/// Where the log lies that begins after this offset.
fn log_path(base_offset: u64) -> FilePath {
    format!("{DIRECTORY}/{base_offset:020}.log").into()
}

/// The offset that a log file's name says, if it is one.
fn base_offset_of(name: &str) -> Option<u64> {
    let digits = name.strip_suffix(".log")?;
    let base_offset = digits.parse().ok()?;
    (digits.len() == 20).then_some(base_offset)
}

/// The offsets at which log files begin, in order.
fn bases(io: &mut Io<'_>) -> Result<Vec<u64>, OpenError> {
    let DiskReply::Names(names) = run(io, DiskOp::List { path: DIRECTORY.into() })? else {
        panic!("a list brings names");
    };
    let mut bases: Vec<u64> = names.iter().filter_map(|(name, _)| base_offset_of(name)).collect();
    bases.sort_unstable();
    Ok(bases)
}

/// The log files of this version that are there.
pub(crate) fn log_files(io: &mut Io<'_>) -> Result<Vec<FilePath>, OpenError> {
    Ok(bases(io)?.into_iter().map(log_path).collect())
}

fn corrupt(path: &FilePath, why: String) -> OpenError {
    OpenError::Corrupt(Corrupt { path: path.to_string(), position: 0, why })
}

fn decode_header(block: &[u8]) -> Result<(FileId, u64), String> {
    if block.len() < BLOCK_BYTES {
        return Err(format!("the file has {} bytes, fewer than its header", block.len()));
    }
    let (body, checksum) = block[..BLOCK_BYTES].split_at(BLOCK_BYTES - 4);
    let mut reader = Reader::new(body);
    if reader.take(8)? != LOG_MAGIC {
        return Err("this is not a metadata log".into());
    }
    if crc32c::crc32c(body).to_le_bytes() != checksum {
        return Err("the header's checksum is wrong".into());
    }
    let version = reader.u32()?;
    if version != VERSION {
        return Err(format!("format version {version} is not known to this version of Millstream"));
    }
    let base_offset = reader.u64()?;
    Ok((FileId(reader.array()?), base_offset))
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
    let mut reader = Reader::new(bytes.get(..ENTRY_HEADER_BYTES)?);
    let (stored, length) = (reader.u32().ok()?, reader.u32().ok()? as usize);
    let (offset, count) = (reader.u64().ok()?, reader.u32().ok()?);
    if length == 0 || length > ENTRY_PAYLOAD_BYTES_MAX {
        return None;
    }
    let end = ENTRY_HEADER_BYTES + length;
    let padded = end.next_multiple_of(BLOCK_BYTES);
    let entry = bytes.get(..padded)?;
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&file_id.0), &entry[4..end]);
    if checksum != stored || entry[end..].iter().any(|byte| *byte != 0) {
        return None;
    }
    Some(Sound { offset, count, payload: &entry[ENTRY_HEADER_BYTES..end], bytes: padded })
}

/// The base offset of a log file and its entries. A last entry that is not sound was torn by a crash before it was
/// acknowledged, and is left out. One that is not sound and has a sound one behind it was damaged later: nothing may be
/// left out then.
fn scan(path: &str, bytes: &[u8]) -> Result<(u64, Vec<Decoded>), Corrupt> {
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
        None => Ok((base_offset, entries)),
    }
}

/// What a snapshot file of version 1 holds.
fn decode_snapshot(path: &str, bytes: &[u8]) -> Result<Old, Corrupt> {
    decode(bytes).map_err(|why| Corrupt { path: path.to_string(), position: 0, why })
}

fn decode(bytes: &[u8]) -> Result<Old, String> {
    let at = bytes.len().checked_sub(4).ok_or("the file is shorter than its checksum")?;
    let (body, checksum) = bytes.split_at(at);
    let mut reader = Reader::new(body);
    if reader.take(8)? != SNAPSHOT_MAGIC {
        return Err("this is not a metadata snapshot".into());
    }
    if crc32c::crc32c(body).to_le_bytes() != checksum {
        return Err("the checksum is wrong".into());
    }
    let version = reader.u32()?;
    if version != VERSION {
        return Err(format!("format version {version} is not known to this version of Millstream"));
    }
    let (offset, count, length) = (reader.u64()?, reader.u32()?, reader.u64()?);
    let payload = reader.rest();
    if length != payload.len() as u64 {
        return Err(format!("{length} bytes of records are announced and {} are there", payload.len()));
    }
    let decoded = decode_records(count, payload)?;
    let image = ClusterImage::from_snapshot(offset, &decoded.records)?;
    Ok(Old { image, node_id: decoded.node_id })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::log::samples::{before_incarnations, testdata};
    use crate::record::MetadataRecord;

    /// The first log file of a directory, with one entry of these records; none without records.
    pub(crate) fn first_log(records: &[MetadataRecord]) -> Vec<u8> {
        let mut file = LOG_MAGIC.to_vec();
        file.extend(VERSION.to_le_bytes());
        file.extend([0; 8]);
        file.extend([5; 16]);
        file.resize(BLOCK_BYTES - 4, 0);
        file.extend(crc32c::crc32c(&file).to_le_bytes());
        if !records.is_empty() {
            let mut payload = Vec::new();
            records.iter().for_each(|record| record.encode(&mut payload));
            let mut entry = (payload.len() as u32).to_le_bytes().to_vec();
            entry.extend(1u64.to_le_bytes());
            entry.extend((records.len() as u32).to_le_bytes());
            entry.extend(payload);
            file.extend(crc32c::crc32c_append(crc32c::crc32c(&[5; 16]), &entry).to_le_bytes());
            file.extend(entry);
        }
        file.resize(file.len().next_multiple_of(BLOCK_BYTES), 0);
        file
    }

    const PATH: &str = "metadata/00000000000000000007.log";

    /// The records of each entry of the frozen log; the second takes two blocks.
    fn three_entries() -> Vec<Decoded> {
        let long = MetadataRecord::Topic { topic_id: Default::default(), name: "x".repeat(BLOCK_BYTES) };
        let entries = vec![before_incarnations(), vec![long], vec![MetadataRecord::ProducerIds { next: 1000 }]];
        entries.into_iter().map(|records| Decoded { records, ..Decoded::default() }).collect()
    }

    fn image() -> ClusterImage {
        let mut image = ClusterImage::new();
        before_incarnations().iter().for_each(|record| image.replay(record));
        image
    }

    #[test]
    fn logs_are_read_with_and_without_the_name_of_their_node() {
        assert_eq!(scan(PATH, &testdata("log-v1.bin")), Ok((7, three_entries())));
        let mut entries = three_entries();
        (entries[0].retired, entries[0].node_id) = (1, Some(1));
        assert_eq!(scan(PATH, &testdata("log-v1-node.bin")), Ok((7, entries)));
    }

    #[test]
    fn a_log_that_is_cut_anywhere_loses_only_the_entry_that_is_cut() {
        let (bytes, entries) = (testdata("log-v1.bin"), three_entries());
        let ends = [1, 2, 4, 5].map(|blocks| blocks * BLOCK_BYTES);
        for length in 0..bytes.len() {
            match ends.iter().rposition(|end| *end <= length) {
                None => assert!(scan(PATH, &bytes[..length]).is_err(), "{length}"),
                Some(whole) => assert_eq!(scan(PATH, &bytes[..length]), Ok((7, entries[..whole].to_vec())), "{length}"),
            }
        }
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let (bytes, entries) = (testdata("log-v1.bin"), three_entries());
        let last = 4 * BLOCK_BYTES;
        for at in 0..bytes.len() {
            // Every bit of what is not padding, one bit of each byte of what is.
            for bit in 0..if bytes[at] == 0 { 1 } else { 8 } {
                let mut flipped = bytes.clone();
                flipped[at] ^= 1 << bit;
                match scan(PATH, &flipped) {
                    Ok((_, found)) => {
                        assert!(at >= last, "a flip at {at} was not noticed");
                        assert_eq!(found, entries[..2]);
                    }
                    Err(corrupt) => assert!(at < last && corrupt.position <= at as u64, "{corrupt}"),
                }
            }
        }
        let snapshot = testdata("snapshot-v1.bin");
        for bit in 0..snapshot.len() * 8 {
            let mut flipped = snapshot.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_snapshot("s", &flipped).is_err(), "{bit}");
        }
    }

    #[test]
    fn snapshots_are_read_with_and_without_the_name_of_their_node() {
        let old = decode_snapshot("s", &testdata("snapshot-v1.bin"));
        assert_eq!(old, Ok(Old { image: image(), node_id: None }));
        let Old { image: found, node_id } = decode_snapshot("s", &testdata("snapshot-v1-node.bin")).unwrap();
        assert_eq!(node_id, Some(1));
        assert_eq!(found.snapshot(), image().snapshot());
    }
}
