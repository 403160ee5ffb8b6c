//! Bodies of the APIs outside the hot path: decoded and encoded by generated code, within bounds of ours.

use bytes::Bytes;
use kafka_wire::KafkaMessage;
use kafka_wire_core::{ApiVersion, DecodeError, DecodeLimits, EncodeError, KafkaDecode, KafkaEncode};

use crate::protocol::header::{RequestHeader, finish_frame};

/// Largest request that the APIs here take, in bytes. The decoded form takes up to some thirty times as much memory,
/// for arrays of empty strings.
pub const REQUEST_BYTES_MAX: usize = 8 << 20;

/// Most elements in one array of a request.
pub const REQUEST_ARRAY_ELEMENTS_MAX: usize = 100_000;

/// Longest string in a request, in bytes: as much as the plain encoding can hold.
pub const REQUEST_STRING_BYTES_MAX: usize = i16::MAX as usize;

/// Most unknown tagged fields in one structure of a request.
pub const REQUEST_TAGGED_FIELDS_MAX: usize = 64;

/// Why a connection is closed instead of answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The request's body cannot be read.
    Malformed(DecodeError),
    /// The answer cannot be said in the version asked for: a stored value is longer than the plain encoding can hold.
    Inexpressible(EncodeError),
}

impl std::fmt::Display for CloseReason {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            CloseReason::Malformed(error) => write!(formatter, "malformed request: {error}"),
            CloseReason::Inexpressible(error) => {
                write!(formatter, "the answer does not fit the request's version: {error}")
            }
        }
    }
}

impl std::error::Error for CloseReason {}

fn limits() -> DecodeLimits {
    let mut limits = DecodeLimits::default();
    limits.max_frame_bytes = REQUEST_BYTES_MAX;
    limits.max_string_bytes = REQUEST_STRING_BYTES_MAX;
    limits.max_bytes_bytes = REQUEST_BYTES_MAX;
    limits.max_array_elements = REQUEST_ARRAY_ELEMENTS_MAX;
    limits.max_tagged_fields = REQUEST_TAGGED_FIELDS_MAX;
    limits.max_tag_bytes = REQUEST_STRING_BYTES_MAX;
    limits.max_total_tag_bytes = REQUEST_STRING_BYTES_MAX;
    limits
}

/// Reads a request's body. Bytes after its last field are ignored, as Kafka does.
pub(crate) fn decode<T: KafkaDecode>(header: &RequestHeader, body: Bytes) -> Result<T, CloseReason> {
    let version = ApiVersion::new(header.api_version);
    let mut decoder = kafka_wire_core::Decoder::new(body, limits()).map_err(CloseReason::Malformed)?;
    T::decode(&mut decoder, version).map_err(CloseReason::Malformed)
}

/// A whole response frame: length, header and body.
pub(crate) fn encode<T: KafkaEncode + KafkaMessage>(
    header: &RequestHeader,
    response: &T,
) -> Result<Bytes, CloseReason> {
    encode_as(header, header.api_version, response)
}

/// A whole response frame whose body is in another version than was asked for.
pub(crate) fn encode_as<T: KafkaEncode + KafkaMessage>(
    header: &RequestHeader,
    version: i16,
    response: &T,
) -> Result<Bytes, CloseReason> {
    let mut writer = header.response().begin_frame(0);
    match response.encode_into(writer.buffer(), ApiVersion::new(version)) {
        Ok(_) => Ok(finish_frame(writer)),
        Err(error) => {
            // A field that the version does not have is our own mistake; a value too long for it is stored data.
            assert!(matches!(error, EncodeError::LengthOverflow { .. }), "{} version {version}: {error}", T::NAME);
            Err(CloseReason::Inexpressible(error))
        }
    }
}
