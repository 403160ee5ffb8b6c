//! The snapshot's file and what a leader sends a member that is too far behind, byte for byte the same:
//! `docs/metadata-format.md`, "Snapshot, version 2". The image as records and the members, under one checksum.

use bytes::Bytes;

use super::entry::INDEX_MAX;
use super::members::Members;
use crate::image::ClusterImage;
use crate::log::Corrupt;
use crate::log::codec::decode_records;
use crate::reader::Reader;

const MAGIC: &[u8; 8] = b"MSTRSNAP";
pub(crate) const VERSION: u32 = 2;

/// All that the entries up to one of them have come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// The index of the last of them.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// The members then.
    pub members: Members,
    /// The image then.
    pub image: ClusterImage,
}

/// The version that a snapshot's header names, if it is a snapshot.
pub(crate) fn version(bytes: &[u8]) -> Option<u32> {
    let mut reader = Reader::new(bytes);
    let magic = reader.take(8).ok()?;
    (magic == MAGIC).then(|| reader.u32().ok()).flatten()
}

/// The whole file.
pub fn encode_snapshot(index: u64, term: u64, members: &Members, image: &ClusterImage) -> Bytes {
    let records = image.snapshot();
    let mut bytes = Vec::new();
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(index.to_le_bytes());
    bytes.extend(term.to_le_bytes());
    bytes.extend(image.offset().to_le_bytes());
    members.encode(&mut bytes);
    bytes.extend(u32::try_from(records.len()).expect("a bounded image").to_le_bytes());
    for record in &records {
        record.encode(&mut bytes);
    }
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend(checksum.to_le_bytes());
    bytes.into()
}

/// What a snapshot file holds.
pub fn decode_snapshot(path: &str, bytes: &[u8]) -> Result<Snapshot, Corrupt> {
    decode(bytes).map_err(|why| Corrupt { path: path.to_string(), position: 0, why })
}

fn decode(bytes: &[u8]) -> Result<Snapshot, String> {
    let at = bytes.len().checked_sub(4).ok_or("the file is shorter than its checksum")?;
    let (body, checksum) = bytes.split_at(at);
    match version(body) {
        None => return Err("this is not a metadata snapshot".into()),
        Some(_) if crc32c::crc32c(body).to_le_bytes() != checksum => return Err("the checksum is wrong".into()),
        Some(VERSION) => {}
        Some(other) => {
            return Err(format!(
                "format version {other} is not known to this version of Millstream, which writes {VERSION}"
            ));
        }
    }
    let mut reader = Reader::new(&body[12..]);
    let (index, term, offset) = (reader.u64()?, reader.u64()?, reader.u64()?);
    if !(1..=INDEX_MAX).contains(&index) || !(1..=INDEX_MAX).contains(&term) || offset > INDEX_MAX {
        return Err(format!("a snapshot at index {index} of term {term}, offset {offset}"));
    }
    let members = Members::decode(&mut reader)?;
    let count = reader.u32()?;
    let decoded = decode_records(count, reader.rest())?;
    if decoded.retired > 0 {
        return Err("a record of a type that is not written any more".into());
    }
    let image = ClusterImage::from_snapshot(offset, &decoded.records)?;
    Ok(Snapshot { index, term, members, image })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::samples::{before_levels, frozen, one_of_each, testdata};
    use crate::quorum::members::tests::member;

    const PATH: &str = "metadata/snapshot";

    fn snapshot() -> Snapshot {
        let mut image = ClusterImage::new();
        one_of_each().iter().for_each(|record| image.replay(record));
        Snapshot { index: 9, term: 4, members: Members::of_voters([member(1), member(2)]), image }
    }

    fn encoded() -> Bytes {
        let Snapshot { index, term, members, image } = snapshot();
        encode_snapshot(index, term, &members, &image)
    }

    #[test]
    fn a_snapshot_has_the_bytes_it_always_had() {
        frozen("snapshot-v2-broker-v3.bin", &encoded());
        assert_eq!(decode_snapshot(PATH, &encoded()), Ok(snapshot()));
    }

    #[test]
    fn a_snapshot_with_brokers_of_the_second_layout_is_read() {
        let mut image = ClusterImage::new();
        before_levels().iter().for_each(|record| image.replay(record));
        assert_eq!(decode_snapshot(PATH, &testdata("snapshot-v2.bin")), Ok(Snapshot { image, ..snapshot() }));
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_refused() {
        let bytes = encoded();
        for length in 0..bytes.len() {
            assert!(decode_snapshot(PATH, &bytes[..length]).is_err(), "{length}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_snapshot(PATH, &flipped).is_err(), "{bit}");
        }
    }
}
