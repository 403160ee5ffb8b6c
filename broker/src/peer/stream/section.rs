//! Batches on their way from a leader to its followers. A checksum of each section covers what Kafka's of a batch leaves open,
//! its offset and leader epoch, and the section's own fields; large batches are not read for it.

use bytes::Bytes;
use millstream_replication::reader::Reader;
use millstream_storage::crc;

use super::frame::count;
use super::{begin, end};

/// Kind of the frame.
pub(super) const DATA: u8 = 43;
/// Sections of one frame, at most.
pub const SECTIONS_MAX: usize = 4096;
/// What a frame may hold of sections; one batch that is larger has a frame of its own.
pub const FRAME_BYTES_TARGET: usize = 1 << 20;
/// Slices up to this size are copied between those around them.
const COPIED_BYTES_MAX: usize = 8 << 10;
/// What the checksum covers of a section before its batches.
const FIELDS_BYTES: usize = 4 + 4 + 8 + 8 + 8 + 4;
/// What a section takes in a frame besides its batches.
pub const SECTION_BYTES: usize = FIELDS_BYTES + 4;

/// Batches of one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    /// The leader's name for the partition.
    pub handle: u32,
    /// The epoch in which it leads.
    pub leader_epoch: i32,
    /// Where the batches begin: the follower's log ends at or before it.
    pub base_offset: i64,
    /// The offset after the last record.
    pub next_offset: i64,
    /// The leader's high watermark.
    pub high_watermark: i64,
    /// Whole batches, back to back; one slice of memory where they were received.
    pub batches: Vec<Bytes>,
}

impl Section {
    /// Bytes of its batches.
    pub fn batches_bytes(&self) -> usize {
        self.batches.iter().map(Bytes::len).sum()
    }

    fn fields(&self) -> [u8; FIELDS_BYTES] {
        let mut fields = [0; FIELDS_BYTES];
        fields[..4].copy_from_slice(&self.handle.to_le_bytes());
        fields[4..8].copy_from_slice(&self.leader_epoch.to_le_bytes());
        fields[8..16].copy_from_slice(&self.base_offset.to_le_bytes());
        fields[16..24].copy_from_slice(&self.next_offset.to_le_bytes());
        fields[24..32].copy_from_slice(&self.high_watermark.to_le_bytes());
        let bytes = u32::try_from(self.batches_bytes()).expect("frames are bounded");
        fields[32..].copy_from_slice(&bytes.to_le_bytes());
        fields
    }

    fn checksum(&self) -> u32 {
        let of_fields = crc::append(0, &self.fields());
        self.batches.iter().fold(of_fields, |sum, slice| crc::append_batches(sum, slice))
    }
}

/// A frame of sections with its length, as slices of memory: small ones are copied, large ones are not.
pub fn encode(sections: &[Section]) -> Vec<Bytes> {
    assert!(!sections.is_empty() && sections.len() <= SECTIONS_MAX, "{} sections in a frame", sections.len());
    let batches_bytes: usize = sections.iter().map(Section::batches_bytes).sum();
    let mut copied = begin(DATA);
    copied.extend((sections.len() as u32).to_le_bytes());
    let fields_bytes = sections.len() * SECTION_BYTES + batches_bytes;
    end(&mut copied, fields_bytes);
    let mut slices = Vec::new();
    for section in sections {
        copied.extend(section.fields());
        copied.extend(section.checksum().to_le_bytes());
        for slice in &section.batches {
            if slice.len() <= COPIED_BYTES_MAX {
                copied.extend_from_slice(slice);
            } else {
                slices.push(std::mem::take(&mut copied).into());
                slices.push(slice.clone());
            }
        }
    }
    slices.push(copied.into());
    slices.retain(|slice: &Bytes| !slice.is_empty());
    slices
}

/// Reads what follows the kind. The batches share the frame's memory; each still has a checksum of its own, which is not
/// looked at.
pub(super) fn decode(frame: &Bytes, reader: &mut Reader<'_>) -> Result<Vec<Section>, String> {
    let sections = count(reader, SECTIONS_MAX, SECTION_BYTES)?;
    if sections == 0 {
        return Err("no section".into());
    }
    (0..sections).map(|_| section(frame, reader)).collect()
}

fn section(frame: &Bytes, reader: &mut Reader<'_>) -> Result<Section, String> {
    let handle = reader.u32()?;
    let leader_epoch = reader.i32()?;
    let (base_offset, next_offset, high_watermark) = (reader.i64()?, reader.i64()?, reader.i64()?);
    let bytes = reader.u32()? as usize;
    let checksum = reader.u32()?;
    let start = frame.len() - reader.rest().len();
    reader.take(bytes)?;
    if bytes == 0 || base_offset < 0 || next_offset <= base_offset || high_watermark < 0 || leader_epoch < 0 {
        return Err(format!("a section of {bytes} bytes from {base_offset} to {next_offset} in epoch {leader_epoch}"));
    }
    let batches = vec![frame.slice(start..start + bytes)];
    let section = Section { handle, leader_epoch, base_offset, next_offset, high_watermark, batches };
    match section.checksum() {
        computed if computed == checksum => Ok(section),
        computed => Err(format!("a section's checksum is {computed:#010x} where {checksum:#010x} is said")),
    }
}
