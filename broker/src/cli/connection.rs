//! One blocking connection to a broker. Everything waits at most as long as the user allowed.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use kafka_wire::{
    ApiVersionsRequest, KafkaMessage, KafkaRequest, OutboundFrameLimits, RequestResponsePair, encode_request,
    response_header_version_for,
};
use kafka_wire_core::{ApiVersion, DecodeLimits, KafkaDecode, KafkaEncode, StrBytes};

use super::error::CliError;

/// What brokers' logs call this program.
const CLIENT_ID: &str = "millstream-cli";
/// The largest request, as brokers take by default: `socket.request.max.bytes`.
const REQUEST_BYTES_MAX: usize = 100 << 20;
/// The largest response that is taken.
const RESPONSE_BYTES_MAX: usize = 256 << 20;
/// How long a name's addresses may take to accept a connection: the user's --timeout, within these.
const CONNECT_TIMEOUT_MIN: Duration = Duration::from_millis(100);
const CONNECT_TIMEOUT_MAX: Duration = Duration::from_secs(5);
/// How much longer an answer may take than what the broker was told that the work may take: it says then what is missing.
const ANSWER_SLACK: Duration = Duration::from_secs(5);
/// Tagged fields begin with their number; none of those in response headers is known.
const HEADER_TAGS_MAX: u64 = 64;

/// A connection, and which versions its broker speaks.
#[derive(Debug)]
pub struct Connection {
    address: String,
    stream: TcpStream,
    versions: HashMap<i16, RangeInclusive<i16>>,
    next_correlation_id: i32,
    /// Requests whose responses have not been read, in order.
    pending: VecDeque<i32>,
}

/// A version that both sides speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version(pub i16);

impl Connection {
    /// Connects, and asks which versions the broker speaks. No answer may take much longer than `timeout`.
    pub fn open(address: &str, timeout: Duration) -> Result<Connection, CliError> {
        let stream = connect(address, timeout.clamp(CONNECT_TIMEOUT_MIN, CONNECT_TIMEOUT_MAX)).map_err(|why| {
            CliError::Unreachable(format!(
                "cannot connect to {address}: {why}; is a broker running there? Name another with --bootstrap-server"
            ))
        })?;
        let mut connection = Connection {
            address: address.to_owned(),
            stream,
            versions: HashMap::from([(18, 0..=0)]),
            next_correlation_id: 1,
            pending: VecDeque::new(),
        };
        connection.stream.set_read_timeout(Some(timeout + ANSWER_SLACK))?;
        connection.stream.set_write_timeout(Some(timeout + ANSWER_SLACK))?;
        let response = connection.call(0..=0, &ApiVersionsRequest::default())?;
        if response.error_code != 0 {
            return Err(connection.gone("it does not say which versions it speaks"));
        }
        connection.versions =
            response.api_keys.iter().map(|api| (api.api_key, api.min_version..=api.max_version)).collect();
        Ok(connection)
    }

    /// The newest version of a request within our range that the broker speaks.
    pub fn version<R: KafkaRequest>(&self, ours: RangeInclusive<i16>) -> Result<Version, CliError> {
        let theirs = self.versions.get(&R::API_KEY.value()).cloned();
        let newest = theirs.as_ref().map(|theirs| (*ours.end()).min(*theirs.end()));
        match (theirs, newest) {
            (Some(theirs), Some(newest)) if newest >= *ours.start() && newest >= *theirs.start() => Ok(Version(newest)),
            (theirs, _) => Err(CliError::Refused(format!(
                "the broker at {} cannot do this: it speaks versions {} of {}, this program {} to {}",
                self.address,
                theirs.map_or("none".to_owned(), |theirs| format!("{} to {}", theirs.start(), theirs.end())),
                R::NAME,
                ours.start(),
                ours.end()
            ))),
        }
    }

    /// Sends a request in the newest version that both speak, and waits for its response.
    pub fn call<R>(&mut self, ours: RangeInclusive<i16>, request: &R) -> Result<R::Response, CliError>
    where
        R: RequestResponsePair + KafkaEncode,
        R::Response: KafkaMessage + KafkaDecode,
    {
        let version = self.version::<R>(ours)?;
        self.send(version, request)?;
        self.receive::<R>(version)
    }

    /// Sends a request. Its response is to be received in its turn.
    pub fn send<R: RequestResponsePair + KafkaEncode>(
        &mut self,
        version: Version,
        request: &R,
    ) -> Result<(), CliError> {
        self.send_without_response(version, request)?;
        self.pending.push_back(self.next_correlation_id - 1);
        Ok(())
    }

    /// Sends a request that gets no response: Produce with acks=0.
    pub fn send_without_response<R: RequestResponsePair + KafkaEncode>(
        &mut self,
        version: Version,
        request: &R,
    ) -> Result<(), CliError> {
        let mut frame = BytesMut::new();
        let limits = OutboundFrameLimits::new(REQUEST_BYTES_MAX);
        let client = Some(StrBytes::from(CLIENT_ID));
        let id = self.next_correlation_id;
        encode_request(&mut frame, id, client, request, ApiVersion::new(version.0), limits).map_err(|error| {
            CliError::Refused(format!("{} cannot be said to the broker at {}: {error}", R::NAME, self.address))
        })?;
        self.next_correlation_id = self.next_correlation_id.wrapping_add(1);
        self.stream.write_all(&frame).map_err(|error| self.gone(&describe(&error)))
    }

    /// Waits for the response to the oldest request that has none.
    pub fn receive<R>(&mut self, version: Version) -> Result<R::Response, CliError>
    where
        R: RequestResponsePair,
        R::Response: KafkaMessage + KafkaDecode,
    {
        let expected = self.pending.pop_front().expect("a request was sent");
        let mut length = [0; 4];
        self.stream.read_exact(&mut length).map_err(|error| self.gone(&describe(&error)))?;
        let bytes = usize::try_from(i32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if !(4..=RESPONSE_BYTES_MAX).contains(&bytes) {
            return Err(self.gone("what listens there does not speak the Kafka protocol, or wants TLS"));
        }
        let mut frame = vec![0; bytes];
        self.stream.read_exact(&mut frame).map_err(|error| self.gone(&describe(&error)))?;
        let mut frame = Bytes::from(frame);
        if frame.get_i32() != expected {
            return Err(self.gone("it answers something else than was asked"));
        }
        let version = ApiVersion::new(version.0);
        let is_flexible = response_header_version_for::<R>(version).is_ok_and(|header| header >= 1);
        let malformed = |why: String| self.gone(&format!("its answer to {} cannot be read: {why}", R::NAME));
        if is_flexible {
            skip_tagged_fields(&mut frame).ok_or_else(|| malformed("its header is cut short".to_owned()))?;
        }
        let mut limits = DecodeLimits::default();
        limits.max_frame_bytes = RESPONSE_BYTES_MAX;
        limits.max_bytes_bytes = RESPONSE_BYTES_MAX;
        R::Response::decode_from_bytes(frame, version, limits).map_err(|error| malformed(error.to_string()))
    }

    fn gone(&self, why: &str) -> CliError {
        CliError::Unreachable(format!("the broker at {}: {why}", self.address))
    }
}

fn describe(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => {
            "it does not answer in time; give it more with --timeout".to_owned()
        }
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
            "it closed the connection; its log may say why".to_owned()
        }
        _ => error.to_string(),
    }
}

/// Tries every address that a name has.
fn connect(address: &str, timeout: Duration) -> Result<TcpStream, String> {
    let deadline = Instant::now() + timeout;
    let addresses = address.to_socket_addrs().map_err(|error| error.to_string())?;
    let mut why = "the name has no address".to_owned();
    for address in addresses {
        let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        match TcpStream::connect_timeout(&address, left) {
            Ok(stream) => {
                stream.set_nodelay(true).map_err(|error| error.to_string())?;
                return Ok(stream);
            }
            Err(error) => why = error.to_string(),
        }
    }
    Err(why)
}

/// Skips the tagged fields of a response header (KIP-482).
fn skip_tagged_fields(frame: &mut Bytes) -> Option<()> {
    let count = varint(frame)?;
    if count > HEADER_TAGS_MAX {
        return None;
    }
    for _ in 0..count {
        varint(frame)?;
        let bytes = usize::try_from(varint(frame)?).ok()?;
        if frame.remaining() < bytes {
            return None;
        }
        frame.advance(bytes);
    }
    Some(())
}

fn varint(frame: &mut Bytes) -> Option<u64> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        if !frame.has_remaining() {
            return None;
        }
        let byte = frame.get_u8();
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
