//! The primitives that the records of `__consumer_offsets` are made of, in both of Kafka's encodings: plain lengths, and
//! the flexible one with varint lengths and tagged fields (KIP-482).

use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use millstream_storage::TopicId;

use super::RecordError;
use crate::group::partitions::PartitionSet;

const VALUE_VERSION_MAX: i16 = 4;
const FLEXIBLE_VERSION: i16 = 4;

pub fn put_string(buffer: &mut BytesMut, text: &str) {
    let length = i16::try_from(text.len()).expect("requests are decoded with this limit on text");
    buffer.put_i16(length);
    buffer.put_slice(text.as_bytes());
}

pub fn put_nullable_string(buffer: &mut BytesMut, text: Option<&str>) {
    match text {
        Some(text) => put_string(buffer, text),
        None => buffer.put_i16(-1),
    }
}

pub fn put_bytes(buffer: &mut BytesMut, bytes: &[u8]) {
    buffer.put_i32(bytes.len() as i32);
    buffer.put_slice(bytes);
}

/// An unsigned varint: a length or count of the flexible encoding.
pub fn put_varint(buffer: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        buffer.put_u8(value as u8 | 0x80);
        value >>= 7;
    }
    buffer.put_u8(value as u8);
}

/// A count of the flexible encoding.
pub fn put_compact_len(buffer: &mut BytesMut, length: usize) {
    put_varint(buffer, u32::try_from(length + 1).expect("what is written is far smaller"));
}

pub fn put_compact_string(buffer: &mut BytesMut, text: &str) {
    put_compact_len(buffer, text.len());
    buffer.put_slice(text.as_bytes());
}

pub fn put_compact_nullable_string(buffer: &mut BytesMut, text: Option<&str>) {
    match text {
        Some(text) => put_compact_string(buffer, text),
        None => buffer.put_u8(0),
    }
}

/// Topics with their partitions, each a structure of the flexible encoding.
pub fn put_partitions(buffer: &mut BytesMut, partitions: &PartitionSet) {
    put_compact_len(buffer, partitions.topics().len());
    for (topic, indexes) in partitions.topics() {
        buffer.put_slice(&topic.0);
        put_compact_len(buffer, indexes.len());
        indexes.iter().for_each(|index| buffer.put_i32(*index));
        put_varint(buffer, 0);
    }
}

/// Reads primitives; each takes no more than is there.
pub struct Reader<'a> {
    bytes: &'a [u8],
    flexible: bool,
}

impl<'a> Reader<'a> {
    /// The reader of a value, behind its version.
    pub fn value(bytes: &'a [u8]) -> Result<(Self, i16), RecordError> {
        let mut reader = Reader { bytes, flexible: false };
        let version = reader.int16()?;
        if !(0..=VALUE_VERSION_MAX).contains(&version) {
            return Err(RecordError::UnknownVersion(version));
        }
        reader.flexible = version >= FLEXIBLE_VERSION;
        Ok((reader, version))
    }

    /// The reader of a key, behind its kind.
    pub fn key(bytes: &'a [u8]) -> Result<(Self, i16), RecordError> {
        let mut reader = Reader { bytes, flexible: false };
        let kind = reader.int16()?;
        Ok((reader, kind))
    }

    /// The reader of a value of which there is one version, 0, in the flexible encoding.
    pub fn flexible_value(bytes: &'a [u8]) -> Result<Self, RecordError> {
        let mut reader = Reader { bytes, flexible: false };
        match reader.int16()? {
            0 => Ok(Reader { flexible: true, ..reader }),
            version => Err(RecordError::UnknownVersion(version)),
        }
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], RecordError> {
        let (taken, rest) = self.bytes.split_at_checked(length).ok_or(RecordError::Truncated)?;
        self.bytes = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], RecordError> {
        let mut array = [0; N];
        array.copy_from_slice(self.take(N)?);
        Ok(array)
    }

    pub fn int8(&mut self) -> Result<i8, RecordError> {
        self.array().map(i8::from_be_bytes)
    }

    pub fn int16(&mut self) -> Result<i16, RecordError> {
        self.array().map(i16::from_be_bytes)
    }

    pub fn int32(&mut self) -> Result<i32, RecordError> {
        self.array().map(i32::from_be_bytes)
    }

    pub fn int64(&mut self) -> Result<i64, RecordError> {
        self.array().map(i64::from_be_bytes)
    }

    pub fn varint(&mut self) -> Result<u32, RecordError> {
        let mut value = 0u64;
        for shift in (0..35).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| RecordError::Truncated);
            }
        }
        Err(RecordError::Truncated)
    }

    /// A length or count; `None` is null.
    fn length(&mut self, wide: bool) -> Result<Option<usize>, RecordError> {
        let length = match (self.flexible, wide) {
            (true, _) => i64::from(self.varint()?) - 1,
            (false, true) => i64::from(self.int32()?),
            (false, false) => i64::from(self.int16()?),
        };
        match length {
            -1 => Ok(None),
            length => usize::try_from(length).map(Some).map_err(|_| RecordError::Truncated),
        }
    }

    pub fn nullable_string(&mut self) -> Result<Option<Arc<str>>, RecordError> {
        let Some(length) = self.length(false)? else {
            return Ok(None);
        };
        if length > i16::MAX as usize {
            return Err(RecordError::Truncated);
        }
        let text = std::str::from_utf8(self.take(length)?).map_err(|_| RecordError::InvalidText)?;
        Ok(Some(text.into()))
    }

    pub fn string(&mut self) -> Result<Arc<str>, RecordError> {
        self.nullable_string()?.ok_or(RecordError::Truncated)
    }

    pub fn nullable_byte_field(&mut self) -> Result<Option<Bytes>, RecordError> {
        let Some(length) = self.length(true)? else { return Ok(None) };
        Ok(Some(Bytes::copy_from_slice(self.take(length)?)))
    }

    pub fn byte_field(&mut self) -> Result<Bytes, RecordError> {
        self.nullable_byte_field()?.ok_or(RecordError::Truncated)
    }

    pub fn array_len(&mut self) -> Result<usize, RecordError> {
        self.length(true)?.ok_or(RecordError::Truncated)
    }

    /// Passes over tagged fields of which none is known.
    pub fn tagged_fields(&mut self) -> Result<(), RecordError> {
        self.tagged_field(u32::MAX).map(|_| ())
    }

    /// Reads to the end of a structure: the tagged field of this number, if it is there.
    pub fn tagged_field(&mut self, wanted: u32) -> Result<Option<Reader<'a>>, RecordError> {
        let mut found = None;
        if !self.flexible {
            return Ok(found);
        }
        for _ in 0..self.varint()? {
            let tag = self.varint()?;
            let length = self.varint()? as usize;
            let bytes = self.take(length)?;
            if tag == wanted {
                found = Some(Reader { bytes, flexible: true });
            }
        }
        Ok(found)
    }

    /// Texts of an array.
    pub fn strings(&mut self) -> Result<Vec<Arc<str>>, RecordError> {
        let count = self.array_len()?;
        let mut strings = Vec::new();
        for _ in 0..count {
            strings.push(self.string()?);
        }
        Ok(strings)
    }

    /// Topics with their partitions.
    pub fn partitions(&mut self) -> Result<PartitionSet, RecordError> {
        let mut partitions = PartitionSet::default();
        for _ in 0..self.array_len()? {
            let topic = TopicId(self.array()?);
            for _ in 0..self.array_len()? {
                partitions.insert(topic, self.int32()?);
            }
            self.tagged_fields()?;
        }
        Ok(partitions)
    }
}
