//! Request and response headers, by hand: every request passes here, and nothing is allocated.

use bytes::Bytes;

use super::versions::ApiKey;
use super::wire::{Reader, WireError, WireString, Writer};

/// What every request starts with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestHeader {
    /// The API that is asked for.
    pub api_key: ApiKey,
    /// Its version: a served one, but for ApiVersions, where any may come (see [`RequestHeader::parse`]).
    pub api_version: i16,
    /// Chosen by the client; comes back in the response.
    pub correlation_id: i32,
    /// The client's name for itself. Null reads as none (Kafka treats it as empty). Keeps the frame alive.
    pub client_id: Option<WireString>,
}

/// Why a frame has no header. In each case the connection is closed, as Kafka does: there is no error response that
/// the client could read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// The bytes are not a request header.
    Malformed(WireError),
    /// An API that is not served.
    UnknownApi {
        /// The key as sent.
        api_key: i16,
    },
    /// An API that is served, in a version that is not.
    UnsupportedVersion {
        /// The API.
        api_key: ApiKey,
        /// The version as sent.
        api_version: i16,
    },
}

impl From<WireError> for HeaderError {
    fn from(error: WireError) -> Self {
        HeaderError::Malformed(error)
    }
}

impl std::fmt::Display for HeaderError {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            HeaderError::Malformed(error) => write!(formatter, "malformed request header: {error}"),
            HeaderError::UnknownApi { api_key } => {
                write!(formatter, "API key {api_key} is not served")
            }
            HeaderError::UnsupportedVersion { api_key, api_version } => {
                write!(formatter, "{} version {api_version} is not served", api_key.name())
            }
        }
    }
}

impl std::error::Error for HeaderError {}

impl RequestHeader {
    /// Reads the header from the front of a frame (without its length prefix) and returns what follows it.
    ///
    /// An ApiVersions request of a version that is not served is no error: such a client expects a reply in version 0
    /// (KIP-511). Its header is read only as far as all versions agree, and its body comes back empty.
    pub fn parse(frame: Bytes) -> Result<(RequestHeader, Bytes), HeaderError> {
        let mut reader = Reader::new(frame);
        let key = reader.i16()?;
        let api_version = reader.i16()?;
        let correlation_id = reader.i32()?;
        let api_key = ApiKey::from_wire(key).ok_or(HeaderError::UnknownApi { api_key: key })?;
        let declaration = api_key.declaration();
        if !declaration.serves(api_version) {
            if api_key != ApiKey::ApiVersions {
                return Err(HeaderError::UnsupportedVersion { api_key, api_version });
            }
            let header = RequestHeader { api_key, api_version, correlation_id, client_id: None };
            return Ok((header, Bytes::new()));
        }
        // The client id keeps its plain length in the flexible header too (KIP-482, "request header v2").
        let client_id = reader.nullable_string(false)?;
        reader.tagged_fields(declaration.is_flexible(api_version))?;
        let header = RequestHeader { api_key, api_version, correlation_id, client_id };
        Ok((header, reader.into_rest()))
    }

    /// Whether the API is served in this version. False only for ApiVersions.
    pub fn is_version_served(&self) -> bool {
        self.api_key.declaration().serves(self.api_version)
    }

    /// Whether request and response bodies have compact lengths and tagged fields.
    pub fn is_flexible(&self) -> bool {
        self.api_key.declaration().is_flexible(self.api_version)
    }

    /// What is needed to start the response; unlike the request header it does not keep the frame alive.
    pub fn response(&self) -> ResponseHeader {
        ResponseHeader {
            correlation_id: self.correlation_id,
            // ApiVersions answers with the plain header in every version: the client does not yet know what we speak.
            tagged_fields: self.is_flexible() && self.api_key != ApiKey::ApiVersions,
        }
    }
}

/// Bytes of the length prefix of every frame.
pub const LENGTH_BYTES: usize = 4;

/// What every response starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseHeader {
    /// From the request.
    pub correlation_id: i32,
    /// Response header version 1 rather than 0.
    pub tagged_fields: bool,
}

impl ResponseHeader {
    /// Starts a response frame: room for the length, then the header. The body is written next, and
    /// [`finish_frame`] sets the length.
    pub fn begin_frame(&self, capacity: usize) -> Writer {
        let mut writer = Writer::with_capacity(LENGTH_BYTES + 5 + capacity);
        writer.i32(0);
        writer.i32(self.correlation_id);
        writer.no_tagged_fields(self.tagged_fields);
        writer
    }
}

/// Sets the length of a frame that [`ResponseHeader::begin_frame`] started and that is complete in `writer`.
pub fn finish_frame(mut writer: Writer) -> Bytes {
    let length = writer.len() - LENGTH_BYTES;
    set_frame_length(&mut writer, length);
    writer.finish()
}

/// Sets the length of a frame whose start is still in `writer` and whose end may lie elsewhere: `length` counts
/// everything after the length prefix.
///
/// # Panics
/// When the length does not fit in 31 bits: no reply of ours is that long.
pub fn set_frame_length(writer: &mut Writer, length: usize) {
    writer.set_i32(0, i32::try_from(length).expect("a response is shorter than 2 GiB"));
}

#[cfg(test)]
mod tests {
    use super::super::versions::SERVED;
    use super::*;

    fn frame(key: i16, version: i16, client_id: Option<&str>, flexible: bool) -> Writer {
        let mut writer = Writer::default();
        writer.i16(key);
        writer.i16(version);
        writer.i32(7);
        writer.nullable_string(client_id, false);
        writer.no_tagged_fields(flexible);
        writer
    }

    #[test]
    fn every_served_version_is_parsed_and_leaves_the_body() {
        for &key in SERVED {
            let declaration = key.declaration();
            for version in declaration.versions() {
                for client_id in [None, Some(""), Some("producer-1")] {
                    let flexible = declaration.is_flexible(version);
                    let mut writer = frame(key as i16, version, client_id, flexible);
                    writer.raw(b"body");
                    let (header, body) = RequestHeader::parse(writer.finish()).unwrap();
                    assert_eq!(header.api_key, key);
                    assert_eq!(header.api_version, version);
                    assert_eq!(header.correlation_id, 7);
                    assert_eq!(header.client_id.as_deref(), client_id);
                    assert_eq!(header.is_flexible(), flexible);
                    assert!(header.is_version_served());
                    assert_eq!(&body[..], b"body");
                }
            }
        }
    }

    #[test]
    fn unknown_tagged_fields_are_skipped() {
        let mut writer = Writer::default();
        writer.i16(3);
        writer.i16(12);
        writer.i32(-1);
        writer.string("c", false);
        writer.unsigned_varint(1);
        writer.unsigned_varint(77);
        writer.unsigned_varint(2);
        writer.raw(&[9, 9]);
        writer.raw(b"rest");
        let (header, body) = RequestHeader::parse(writer.finish()).unwrap();
        assert_eq!(header.correlation_id, -1);
        assert_eq!(&body[..], b"rest");
    }

    #[test]
    fn what_is_not_served_is_refused() {
        assert_eq!(
            RequestHeader::parse(frame(4, 0, None, false).finish()),
            Err(HeaderError::UnknownApi { api_key: 4 })
        );
        for version in [-1, 2, 14] {
            assert_eq!(
                RequestHeader::parse(frame(0, version, None, false).finish()),
                Err(HeaderError::UnsupportedVersion { api_key: ApiKey::Produce, api_version: version })
            );
        }
    }

    #[test]
    fn api_versions_of_any_version_is_let_through() {
        for version in [-1, 5, i16::MAX] {
            let mut writer = Writer::default();
            writer.i16(18);
            writer.i16(version);
            writer.i32(3);
            writer.raw(&[0xff; 3]);
            let (header, body) = RequestHeader::parse(writer.finish()).unwrap();
            assert_eq!(header.api_version, version);
            assert!(!header.is_version_served());
            assert!(!header.response().tagged_fields);
            assert!(body.is_empty());
        }
    }

    #[test]
    fn every_truncation_is_malformed() {
        let whole = frame(3, 12, Some("client"), true).finish();
        for end in 0..whole.len() {
            assert_eq!(RequestHeader::parse(whole.slice(..end)), Err(HeaderError::Malformed(WireError::Truncated)));
        }
    }

    #[test]
    fn a_response_frame_has_its_length_and_header() {
        let header = ResponseHeader { correlation_id: 5, tagged_fields: true };
        let mut writer = header.begin_frame(2);
        writer.i16(-1);
        assert_eq!(&finish_frame(writer)[..], [0, 0, 0, 7, 0, 0, 0, 5, 0, 0xff, 0xff]);
        let header = ResponseHeader { correlation_id: 5, tagged_fields: false };
        assert_eq!(&finish_frame(header.begin_frame(0))[..], [0, 0, 0, 4, 0, 0, 0, 5]);
    }
}
