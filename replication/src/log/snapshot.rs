//! The snapshot's file: `docs/metadata-format.md`, "Snapshot". The image as records, under one checksum.

use bytes::Bytes;

use super::Corrupt;
use super::codec::decode_records;
use crate::image::ClusterImage;

const MAGIC: &[u8; 8] = b"MSTRSNAP";
const VERSION: u32 = 1;
/// Magic, version, offset, count of records, length of the records.
const HEADER_BYTES: usize = 8 + 4 + 8 + 4 + 8;

/// What a snapshot holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// The image at its offset.
    pub image: ClusterImage,
    /// The node that a record of a retired type names.
    pub node_id: Option<i32>,
}

/// The whole file for this image.
pub fn encode_snapshot(image: &ClusterImage) -> Bytes {
    let records = image.snapshot();
    let mut bytes = Vec::with_capacity(HEADER_BYTES);
    bytes.extend(MAGIC);
    bytes.extend(VERSION.to_le_bytes());
    bytes.extend(image.offset().to_le_bytes());
    let count = u32::try_from(records.len()).expect("a bounded image");
    bytes.extend(count.to_le_bytes());
    bytes.extend([0; 8]);
    for record in &records {
        record.encode(&mut bytes);
    }
    let length = (bytes.len() - HEADER_BYTES) as u64;
    bytes[HEADER_BYTES - 8..HEADER_BYTES].copy_from_slice(&length.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes);
    bytes.extend(checksum.to_le_bytes());
    bytes.into()
}

/// What a snapshot file holds.
pub fn decode_snapshot(path: &str, bytes: &[u8]) -> Result<Snapshot, Corrupt> {
    let corrupt = |why: String| Corrupt { path: path.to_string(), position: 0, why };
    if bytes.len() < HEADER_BYTES + 4 {
        return Err(corrupt(format!("the file has {} bytes, fewer than its header", bytes.len())));
    }
    if &bytes[..8] != MAGIC {
        return Err(corrupt("this is not a metadata snapshot".into()));
    }
    let (body, checksum) = bytes.split_at(bytes.len() - 4);
    if crc32c::crc32c(body).to_le_bytes() != checksum {
        return Err(corrupt("the checksum is wrong".into()));
    }
    let version = u32::from_le_bytes(body[8..12].try_into().expect("4 bytes"));
    if version != VERSION {
        return Err(corrupt(format!(
            "format version {version} is not known to this version of Millstream, which writes {VERSION}"
        )));
    }
    let offset = u64::from_le_bytes(body[12..20].try_into().expect("8 bytes"));
    let count = u32::from_le_bytes(body[20..24].try_into().expect("4 bytes"));
    let length = u64::from_le_bytes(body[24..32].try_into().expect("8 bytes"));
    let (_, payload) = body.split_at(HEADER_BYTES);
    if length != payload.len() as u64 {
        return Err(corrupt(format!("{length} bytes of records are announced and {} are there", payload.len())));
    }
    let decoded = decode_records(count, payload).map_err(corrupt)?;
    let image = ClusterImage::from_snapshot(offset, &decoded.records).map_err(corrupt)?;
    Ok(Snapshot { image, node_id: decoded.node_id })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::log::samples::{before_incarnations, frozen, one_of_each, testdata};
    use crate::record::MetadataRecord;

    const PATH: &str = "metadata/snapshot";

    fn image() -> ClusterImage {
        image_of(one_of_each())
    }

    fn image_of(records: Vec<MetadataRecord>) -> ClusterImage {
        let mut image = ClusterImage::new();
        records.iter().for_each(|record| image.replay(record));
        image
    }

    #[test]
    fn a_snapshot_has_the_bytes_it_always_had() {
        let bytes = encode_snapshot(&image());
        frozen("snapshot-v1-broker-v2.bin", &bytes);
        assert_eq!(decode_snapshot(PATH, &bytes), Ok(Snapshot { image: image(), node_id: None }));
    }

    #[test]
    fn a_snapshot_with_records_of_old_layouts_is_read() {
        let found = decode_snapshot(PATH, &testdata("snapshot-v1.bin")).expect("it always could be read");
        assert_eq!(found, Snapshot { image: image_of(before_incarnations()), node_id: None });
    }

    #[test]
    fn a_snapshot_that_names_its_node_is_read() {
        let bytes = testdata("snapshot-v1-node.bin");
        let Snapshot { image: found, node_id } = decode_snapshot(PATH, &bytes).expect("it always could be read");
        assert_eq!(node_id, Some(1));
        assert_eq!(found.snapshot(), image_of(before_incarnations()).snapshot());
    }

    #[test]
    fn every_cut_and_every_flipped_bit_is_refused() {
        let bytes = encode_snapshot(&image());
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
