//! Kafka's primitive types, read from hostile bytes and written to a growing buffer.
//!
//! The reader never panics, never reads past its end and allocates nothing: strings and byte fields are slices of the
//! frame. A count that came over the wire is refused when the bytes left cannot hold that many elements, so a caller
//! may reserve memory for it: see [`Reader::array_count`].

use bytes::{BufMut, Bytes, BytesMut};

/// Why bytes could not be read as what they should be. The connection that sent them is closed: a frame that cannot be
/// read has no error reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireError {
    /// The frame ends before the value does.
    Truncated,
    /// A negative length or count where none is allowed.
    NegativeLength,
    /// A count of elements that the rest of the frame cannot hold.
    CountTooLarge,
    /// Null where the protocol allows none.
    UnexpectedNull,
    /// A string is not UTF-8.
    InvalidUtf8,
    /// A variable-length integer does not end within its type.
    InvalidVarint,
    /// The last field ended before the frame did.
    TrailingBytes,
}

impl std::fmt::Display for WireError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            WireError::Truncated => "the frame ends inside a value",
            WireError::NegativeLength => "negative length",
            WireError::CountTooLarge => "more elements announced than the frame can hold",
            WireError::UnexpectedNull => "null where a value is needed",
            WireError::InvalidUtf8 => "a string is not UTF-8",
            WireError::InvalidVarint => "malformed variable-length integer",
            WireError::TrailingBytes => "bytes left over after the last field",
        })
    }
}

impl std::error::Error for WireError {}

/// A UTF-8 string that shares the frame's memory.
///
/// It keeps the whole frame alive: copy what is kept beyond the request.
#[derive(Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WireString(Bytes);

impl WireString {
    /// The string.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a WireString is checked when it is made")
    }

    /// The string's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<Bytes> for WireString {
    type Error = WireError;

    fn try_from(bytes: Bytes) -> Result<Self, WireError> {
        match std::str::from_utf8(&bytes) {
            Ok(_) => Ok(WireString(bytes)),
            Err(_) => Err(WireError::InvalidUtf8),
        }
    }
}

impl From<&str> for WireString {
    fn from(string: &str) -> Self {
        WireString(Bytes::copy_from_slice(string.as_bytes()))
    }
}

impl std::ops::Deref for WireString {
    type Target = str;

    fn deref(&self) -> &str {
        self.as_str()
    }
}

impl std::fmt::Debug for WireString {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Debug::fmt(self.as_str(), formatter)
    }
}

/// Reads Kafka's primitive types from the front of a frame.
#[derive(Clone, Debug)]
pub struct Reader {
    input: Bytes,
}

impl Reader {
    /// Reads from the start of `input`.
    pub fn new(input: Bytes) -> Self {
        Reader { input }
    }

    /// Bytes not yet read.
    pub fn remaining(&self) -> usize {
        self.input.len()
    }

    /// What has not been read.
    pub fn into_rest(self) -> Bytes {
        self.input
    }

    /// Requires that everything was read.
    pub fn finish(self) -> Result<(), WireError> {
        if self.input.is_empty() { Ok(()) } else { Err(WireError::TrailingBytes) }
    }

    /// The next `length` bytes, sharing the frame's memory.
    pub fn take(&mut self, length: usize) -> Result<Bytes, WireError> {
        if length > self.input.len() {
            return Err(WireError::Truncated);
        }
        Ok(self.input.split_to(length))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let Some(head) = self.input.first_chunk::<N>().copied() else {
            return Err(WireError::Truncated);
        };
        bytes::Buf::advance(&mut self.input, N);
        Ok(head)
    }

    /// INT8.
    pub fn i8(&mut self) -> Result<i8, WireError> {
        Ok(i8::from_be_bytes(self.array()?))
    }

    /// INT16.
    pub fn i16(&mut self) -> Result<i16, WireError> {
        Ok(i16::from_be_bytes(self.array()?))
    }

    /// INT32.
    pub fn i32(&mut self) -> Result<i32, WireError> {
        Ok(i32::from_be_bytes(self.array()?))
    }

    /// UINT32.
    pub fn u32(&mut self) -> Result<u32, WireError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    /// INT64.
    pub fn i64(&mut self) -> Result<i64, WireError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    /// BOOLEAN: any byte but 0 is true, as in Kafka.
    pub fn bool(&mut self) -> Result<bool, WireError> {
        Ok(self.i8()? != 0)
    }

    /// UUID.
    pub fn uuid(&mut self) -> Result<[u8; 16], WireError> {
        self.array()
    }

    /// UNSIGNED_VARINT: at most five bytes.
    pub fn unsigned_varint(&mut self) -> Result<u32, WireError> {
        let mut value = 0u64;
        for shift in [0, 7, 14, 21, 28] {
            let byte = self.array::<1>()?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return u32::try_from(value).map_err(|_| WireError::InvalidVarint);
            }
        }
        Err(WireError::InvalidVarint)
    }

    /// A non-negative i16 length; `None` for -1.
    fn short_length(&mut self) -> Result<Option<usize>, WireError> {
        match self.i16()? {
            -1 => Ok(None),
            length => usize::try_from(length).map(Some).map_err(|_| WireError::NegativeLength),
        }
    }

    /// A non-negative i32 length; `None` for -1.
    fn long_length(&mut self) -> Result<Option<usize>, WireError> {
        match self.i32()? {
            -1 => Ok(None),
            length => usize::try_from(length).map(Some).map_err(|_| WireError::NegativeLength),
        }
    }

    /// A compact length, which is stored plus one; `None` for null.
    fn compact_length(&mut self) -> Result<Option<usize>, WireError> {
        Ok((self.unsigned_varint()? as usize).checked_sub(1))
    }

    /// NULLABLE_STRING, or COMPACT_NULLABLE_STRING where the version is flexible.
    pub fn nullable_string(&mut self, flexible: bool) -> Result<Option<WireString>, WireError> {
        let length = if flexible { self.compact_length()? } else { self.short_length()? };
        match length {
            None => Ok(None),
            Some(length) => WireString::try_from(self.take(length)?).map(Some),
        }
    }

    /// STRING, or COMPACT_STRING where the version is flexible.
    pub fn string(&mut self, flexible: bool) -> Result<WireString, WireError> {
        self.nullable_string(flexible)?.ok_or(WireError::UnexpectedNull)
    }

    /// NULLABLE_BYTES or RECORDS, compact where the version is flexible; shares the frame's memory.
    pub fn nullable_bytes(&mut self, flexible: bool) -> Result<Option<Bytes>, WireError> {
        let length = if flexible { self.compact_length()? } else { self.long_length()? };
        match length {
            None => Ok(None),
            Some(length) => self.take(length).map(Some),
        }
    }

    /// The count of a nullable array, compact where the version is flexible.
    ///
    /// `element_bytes_min` is the least that one element takes on the wire and at least 1: a count that the rest of the
    /// frame cannot hold is refused here, before anything is reserved for it.
    pub fn nullable_array_count(
        &mut self,
        flexible: bool,
        element_bytes_min: usize,
    ) -> Result<Option<usize>, WireError> {
        assert!(element_bytes_min > 0, "an element takes at least one byte");
        let count = if flexible { self.compact_length()? } else { self.long_length()? };
        match count {
            Some(count) if count > self.input.len() / element_bytes_min => Err(WireError::CountTooLarge),
            count => Ok(count),
        }
    }

    /// As [`Reader::nullable_array_count`], with null refused.
    pub fn array_count(&mut self, flexible: bool, element_bytes_min: usize) -> Result<usize, WireError> {
        self.nullable_array_count(flexible, element_bytes_min)?.ok_or(WireError::UnexpectedNull)
    }

    /// The tagged fields that end a structure where the version is flexible: each is given to `field` with a reader of
    /// its own bytes. Fields that `field` does not know it must ignore: newer clients add their own (KIP-482).
    pub fn tagged_fields_with(
        &mut self,
        flexible: bool,
        mut field: impl FnMut(u32, &mut Reader) -> Result<(), WireError>,
    ) -> Result<(), WireError> {
        if !flexible {
            return Ok(());
        }
        // Each field takes at least a tag and a length: the loop ends with the frame, whatever the count says.
        let count = self.unsigned_varint()?;
        for _ in 0..count {
            let tag = self.unsigned_varint()?;
            let length = self.unsigned_varint()? as usize;
            let mut value = Reader::new(self.take(length)?);
            field(tag, &mut value)?;
        }
        Ok(())
    }

    /// Skips the tagged fields that end a structure where the version is flexible.
    pub fn tagged_fields(&mut self, flexible: bool) -> Result<(), WireError> {
        self.tagged_fields_with(flexible, |_, _| Ok(()))
    }
}

/// Appends Kafka's primitive types to a buffer.
#[derive(Debug, Default)]
pub struct Writer {
    output: BytesMut,
}

impl Writer {
    /// An empty buffer with room for `bytes`.
    pub fn with_capacity(bytes: usize) -> Self {
        Writer { output: BytesMut::with_capacity(bytes) }
    }

    /// Bytes written so far.
    pub fn len(&self) -> usize {
        self.output.len()
    }

    /// Nothing was written yet.
    pub fn is_empty(&self) -> bool {
        self.output.is_empty()
    }

    /// What was written.
    pub fn finish(self) -> Bytes {
        self.output.freeze()
    }

    /// Splits off what was written so far; writing goes on after it.
    pub fn split(&mut self) -> Bytes {
        self.output.split().freeze()
    }

    /// The buffer itself, for encoders of another kind.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.output
    }

    /// Overwrites four bytes at `position` with an INT32: a length that was not known before.
    pub fn set_i32(&mut self, position: usize, value: i32) {
        self.output[position..position + 4].copy_from_slice(&value.to_be_bytes());
    }

    /// INT8.
    pub fn i8(&mut self, value: i8) {
        self.output.put_i8(value);
    }

    /// INT16.
    pub fn i16(&mut self, value: i16) {
        self.output.put_i16(value);
    }

    /// INT32.
    pub fn i32(&mut self, value: i32) {
        self.output.put_i32(value);
    }

    /// UINT32.
    pub fn u32(&mut self, value: u32) {
        self.output.put_u32(value);
    }

    /// INT64.
    pub fn i64(&mut self, value: i64) {
        self.output.put_i64(value);
    }

    /// BOOLEAN.
    pub fn bool(&mut self, value: bool) {
        self.output.put_u8(u8::from(value));
    }

    /// UUID.
    pub fn uuid(&mut self, value: [u8; 16]) {
        self.output.put_slice(&value);
    }

    /// Bytes as they are, without a length.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.output.put_slice(bytes);
    }

    /// UNSIGNED_VARINT.
    pub fn unsigned_varint(&mut self, mut value: u32) {
        while value >= 0x80 {
            self.output.put_u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.output.put_u8(value as u8);
    }

    fn compact_length(&mut self, length: Option<usize>) {
        self.unsigned_varint(match length {
            None => 0,
            Some(length) => u32::try_from(length + 1).expect("a length of ours fits in 32 bits"),
        });
    }

    /// NULLABLE_STRING, or COMPACT_NULLABLE_STRING where the version is flexible. At most 32,767 bytes.
    pub fn nullable_string(&mut self, value: Option<&str>, flexible: bool) {
        if flexible {
            self.compact_length(value.map(str::len));
        } else {
            self.i16(value.map_or(-1, |value| i16::try_from(value.len()).expect("a string of ours fits in 16 bits")));
        }
        self.raw(value.unwrap_or("").as_bytes());
    }

    /// STRING, or COMPACT_STRING where the version is flexible. At most 32,767 bytes.
    pub fn string(&mut self, value: &str, flexible: bool) {
        self.nullable_string(Some(value), flexible);
    }

    /// The length of NULLABLE_BYTES or RECORDS, compact where the version is flexible; the bytes follow.
    pub fn bytes_length(&mut self, length: Option<usize>, flexible: bool) {
        self.array_count(length, flexible);
    }

    /// The count of a nullable array, compact where the version is flexible; the elements follow.
    pub fn array_count(&mut self, count: Option<usize>, flexible: bool) {
        if flexible {
            self.compact_length(count);
        } else {
            self.i32(count.map_or(-1, |count| i32::try_from(count).expect("a count of ours fits in 31 bits")));
        }
    }

    /// The end of a structure without tagged fields; nothing where the version is not flexible.
    pub fn no_tagged_fields(&mut self, flexible: bool) {
        if flexible {
            self.unsigned_varint(0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back() {
        for flexible in [false, true] {
            let mut writer = Writer::with_capacity(0);
            writer.i8(-2);
            writer.i16(-3);
            writer.i32(-4);
            writer.u32(u32::MAX);
            writer.i64(i64::MIN);
            writer.bool(true);
            writer.uuid([7; 16]);
            writer.string("topic", flexible);
            writer.nullable_string(None, flexible);
            writer.bytes_length(Some(3), flexible);
            writer.raw(b"abc");
            writer.bytes_length(None, flexible);
            writer.array_count(Some(2), flexible);
            writer.i8(1);
            writer.i8(2);
            writer.array_count(None, flexible);
            writer.no_tagged_fields(flexible);

            let mut reader = Reader::new(writer.finish());
            assert_eq!(reader.i8(), Ok(-2));
            assert_eq!(reader.i16(), Ok(-3));
            assert_eq!(reader.i32(), Ok(-4));
            assert_eq!(reader.u32(), Ok(u32::MAX));
            assert_eq!(reader.i64(), Ok(i64::MIN));
            assert_eq!(reader.bool(), Ok(true));
            assert_eq!(reader.uuid(), Ok([7; 16]));
            assert_eq!(reader.string(flexible).unwrap().as_str(), "topic");
            assert_eq!(reader.nullable_string(flexible), Ok(None));
            assert_eq!(reader.nullable_bytes(flexible), Ok(Some(Bytes::from_static(b"abc"))));
            assert_eq!(reader.nullable_bytes(flexible), Ok(None));
            assert_eq!(reader.array_count(flexible, 1), Ok(2));
            assert_eq!(reader.i8(), Ok(1));
            assert_eq!(reader.i8(), Ok(2));
            assert_eq!(reader.nullable_array_count(flexible, 1), Ok(None));
            assert_eq!(reader.tagged_fields(flexible), Ok(()));
            assert_eq!(reader.finish(), Ok(()));
        }
    }

    #[test]
    fn unsigned_varints_cover_32_bits_and_no_more() {
        for value in [0, 1, 127, 128, 16_383, 16_384, 2_097_151, u32::MAX - 1, u32::MAX] {
            let mut writer = Writer::default();
            writer.unsigned_varint(value);
            let mut reader = Reader::new(writer.finish());
            assert_eq!(reader.unsigned_varint(), Ok(value));
            assert_eq!(reader.finish(), Ok(()));
        }
        let read = |bytes: &'static [u8]| Reader::new(Bytes::from_static(bytes)).unsigned_varint();
        assert_eq!(read(&[0xff, 0xff, 0xff, 0xff, 0x1f]), Err(WireError::InvalidVarint));
        assert_eq!(read(&[0x80, 0x80, 0x80, 0x80, 0x80, 0]), Err(WireError::InvalidVarint));
        assert_eq!(read(&[0x80]), Err(WireError::Truncated));
    }

    #[test]
    fn lengths_and_counts_from_the_wire_are_checked() {
        let reader = |bytes: &'static [u8]| Reader::new(Bytes::from_static(bytes));
        assert_eq!(reader(&[0xff, 0xfe]).nullable_string(false), Err(WireError::NegativeLength));
        assert_eq!(reader(&[0xff, 0xff]).string(false), Err(WireError::UnexpectedNull));
        assert_eq!(reader(&[0x7f, 0xff, b'a']).string(false), Err(WireError::Truncated));
        assert_eq!(reader(&[0]).string(true), Err(WireError::UnexpectedNull));
        assert_eq!(reader(&[3, 0xc3, 0x28]).string(true), Err(WireError::InvalidUtf8));
        assert_eq!(reader(&[0x80, 0, 0, 0]).nullable_bytes(false), Err(WireError::NegativeLength));
        assert_eq!(reader(&[0x7f, 0xff, 0xff, 0xff, 0, 0]).array_count(false, 1), Err(WireError::CountTooLarge));
        assert_eq!(reader(&[0xff, 0xff, 0xff, 0xff, 0x0f, 0]).array_count(true, 1), Err(WireError::CountTooLarge));
        assert_eq!(reader(&[0, 0, 0, 2, 1, 2]).array_count(false, 1), Ok(2));
        assert_eq!(reader(&[0, 0, 0, 2, 1, 2]).array_count(false, 2), Err(WireError::CountTooLarge));
        // A count of tagged fields without the fields.
        assert_eq!(reader(&[0xff, 0xff, 0xff, 0xff, 0x0f]).tagged_fields(true), Err(WireError::Truncated));
    }

    #[test]
    fn unknown_tagged_fields_are_skipped() {
        let mut seen = Vec::new();
        let mut reader = Reader::new(Bytes::from_static(&[2, 0, 1, 9, 5, 2, 8, 7, 42]));
        reader
            .tagged_fields_with(true, |tag, value| {
                seen.push((tag, value.remaining()));
                Ok(())
            })
            .unwrap();
        assert_eq!(seen, [(0, 1), (5, 2)]);
        assert_eq!(reader.i8(), Ok(42));
    }
}
