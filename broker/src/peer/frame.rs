//! The frames that nodes exchange: `docs/cluster-protocol.md`.
//!
//! A frame is a length (big-endian, as all of Kafka's framing) and so many bytes. The first frame of a connection is a
//! Kafka request, so that whoever listens can tell it from a client's; all that follow are a kind and its fields,
//! little-endian. Messages that may be large come in pieces, one message after the other.

use bytes::{Buf, Bytes, BytesMut};

use millstream_replication::reader::Reader;

/// The API key of the request that opens a connection between nodes. Kafka has none of this number.
pub const PEER_HELLO: i16 = 20_000;
/// The layout of [`Hello`]. Later ones add to its end only.
const HELLO_VERSION: i16 = 0;

/// The versions of this protocol that this node speaks. Version 1, in which neither the quorum's heartbeats carried a question
/// nor registrations what a process can read, was never released.
pub const VERSIONS: std::ops::RangeInclusive<u16> = 2..=2;

/// The prefix that says how long a frame is.
pub const LENGTH_BYTES: usize = 4;
/// The most that one frame carries of a message.
pub const PIECE_BYTES_MAX: usize = 1 << 20;
/// What stands before a piece, at most.
const FIELDS_BYTES_MAX: usize = 32;
/// The largest frame, without its length.
pub const FRAME_BYTES_MAX: usize = PIECE_BYTES_MAX + FIELDS_BYTES_MAX;
/// The largest first frame in either direction: a greeting, or why there is none.
pub const FIRST_FRAME_BYTES_MAX: usize = 4096;
/// The largest message that comes in pieces.
pub const MESSAGE_BYTES_MAX: usize = 256 << 20;
/// The longest name of a host.
pub const HOST_BYTES_MAX: usize = 255;
/// The longest explanation of a rejection; what is longer is cut.
pub const TEXT_BYTES_MAX: usize = 1024;

const WELCOME: u8 = 1;
const REJECT: u8 = 2;
const PING: u8 = 3;
const PONG: u8 = 4;
const RAFT: u8 = 5;
const REQUEST: u8 = 6;
const RESPONSE: u8 = 7;
const NOT_CONTROLLER: u8 = 8;
const ADOPT: u8 = 9;
/// The first byte tells a greeting from every other frame.
const _: () = assert!((PEER_HELLO >> 8) as u8 > ADOPT);

/// How a connection begins: who dials, and whom it means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The lowest version of this protocol that the dialling node speaks.
    pub version_min: u16,
    /// The highest.
    pub version_max: u16,
    /// The cluster that it belongs to, if it belongs to one yet.
    pub cluster_id: Option<[u8; 16]>,
    /// Its number.
    pub node_id: i32,
    /// Its log directory.
    pub directory_id: [u8; 16],
    /// Its process: drawn with every start.
    pub incarnation: [u8; 16],
    /// Whom it wants to speak to; -1: whoever is there.
    pub to_node: i32,
    /// Where its own controller listener is reached.
    pub address: Option<(String, u16)>,
    /// Whether it holds no cluster yet.
    pub is_forming: bool,
}

/// The answer to a [`Hello`] that is accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// The version that both speak from now on.
    pub version: u16,
    /// The cluster of the node that was dialled, if it belongs to one yet.
    pub cluster_id: Option<[u8; 16]>,
    /// Its number.
    pub node_id: i32,
    /// Its log directory.
    pub directory_id: [u8; 16],
    /// Its process.
    pub incarnation: [u8; 16],
    /// Whether it holds no cluster yet.
    pub is_forming: bool,
}

/// Why a [`Hello`] is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RejectReason {
    /// There is no version of this protocol that both speak.
    Version = 1,
    /// They belong to different clusters.
    Cluster = 2,
    /// Another node was meant, or two nodes have one number.
    Node = 3,
    /// There are too many connections already.
    Busy = 4,
}

/// What goes over a connection, in one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// From the node that dials, first of all.
    Hello(Hello),
    /// The answer: from here on both may send.
    Welcome(Welcome),
    /// The other answer, after which the connection is closed.
    Reject {
        /// For the machine.
        why: RejectReason,
        /// For people.
        text: String,
    },
    /// From the node that dialled: is anybody there?
    Ping,
    /// The answer.
    Pong,
    /// A piece of a message of the quorum.
    Raft {
        /// The message is complete with it.
        is_last: bool,
        /// The piece.
        bytes: Bytes,
    },
    /// A piece of a request to the controller.
    Request {
        /// What its answer is to carry.
        id: u64,
        /// The request is complete with it.
        is_last: bool,
        /// The piece.
        request: Bytes,
    },
    /// A piece of the controller's answer.
    Response {
        /// Which request is answered.
        id: u64,
        /// Of the metadata that must be applied before the answer is given away.
        offset: u64,
        /// The answer is complete with it.
        is_last: bool,
        /// The piece.
        response: Bytes,
    },
    /// The answer of a node that is not the controller.
    NotController {
        /// Which request is answered.
        id: u64,
        /// The controller as far as that node knows, else -1.
        leader: i32,
    },
    /// A piece of the first snapshot of a cluster, for a node that has none.
    Adopt {
        /// The snapshot is complete with it.
        is_last: bool,
        /// The piece.
        bytes: Bytes,
    },
}

impl Frame {
    /// Appends the frame with its length.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend([0; LENGTH_BYTES]);
        match self {
            Frame::Hello(hello) => encode_hello(hello, out),
            Frame::Welcome(Welcome { version, cluster_id, node_id, directory_id, incarnation, is_forming }) => {
                out.push(WELCOME);
                out.extend(version.to_le_bytes());
                put_optional_id(out, cluster_id);
                out.extend(node_id.to_le_bytes());
                out.extend(directory_id);
                out.extend(incarnation);
                out.push(u8::from(*is_forming));
            }
            Frame::Reject { why, text } => {
                out.extend([REJECT, *why as u8]);
                put_text(out, cut_text(text, TEXT_BYTES_MAX));
            }
            Frame::Ping => out.push(PING),
            Frame::Pong => out.push(PONG),
            Frame::Raft { is_last, bytes } => {
                out.extend([RAFT, u8::from(*is_last)]);
                put_piece(out, bytes);
            }
            Frame::Request { id, is_last, request } => {
                out.extend([REQUEST, u8::from(*is_last)]);
                out.extend(id.to_le_bytes());
                put_piece(out, request);
            }
            Frame::Response { id, offset, is_last, response } => {
                out.extend([RESPONSE, u8::from(*is_last)]);
                out.extend(id.to_le_bytes());
                out.extend(offset.to_le_bytes());
                put_piece(out, response);
            }
            Frame::NotController { id, leader } => {
                out.push(NOT_CONTROLLER);
                out.extend(id.to_le_bytes());
                out.extend(leader.to_le_bytes());
            }
            Frame::Adopt { is_last, bytes } => {
                out.extend([ADOPT, u8::from(*is_last)]);
                put_piece(out, bytes);
            }
        }
        let length = out.len() - start - LENGTH_BYTES;
        assert!(length <= FRAME_BYTES_MAX, "pieces are bounded");
        out[start..start + LENGTH_BYTES].copy_from_slice(&(length as i32).to_be_bytes());
    }

    /// The frame with its length.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = Vec::new();
        self.encode(&mut out);
        out.into()
    }

    /// Reads a frame of which the length was cut off. What comes in pieces shares the frame's memory.
    pub fn decode(frame: &Bytes) -> Result<Frame, String> {
        if frame.len() > FRAME_BYTES_MAX {
            return Err(format!("a frame of {} bytes", frame.len()));
        }
        let mut reader = Reader::new(frame);
        if frame.starts_with(&PEER_HELLO.to_be_bytes()) {
            return decode_hello(&mut reader).map(Frame::Hello);
        }
        let piece = |is_last: bool, reader: &Reader<'_>| {
            let piece = frame.slice(frame.len() - reader.rest().len()..);
            match piece.len() {
                0 if !is_last => Err("an empty piece that is not the last".to_owned()),
                0..=PIECE_BYTES_MAX => Ok(piece),
                more => Err(format!("a piece of {more} bytes")),
            }
        };
        let decoded = match reader.byte()? {
            WELCOME => Frame::Welcome(Welcome {
                version: reader.u16()?,
                cluster_id: optional_id(&mut reader)?,
                node_id: node_id(&mut reader)?,
                directory_id: reader.array()?,
                incarnation: reader.array()?,
                is_forming: reader.flag()?,
            }),
            REJECT => {
                let why = match reader.byte()? {
                    1 => RejectReason::Version,
                    2 => RejectReason::Cluster,
                    3 => RejectReason::Node,
                    4 => RejectReason::Busy,
                    other => return Err(format!("{other} is no reason for a rejection")),
                };
                Frame::Reject { why, text: text(&mut reader, TEXT_BYTES_MAX)? }
            }
            PING => Frame::Ping,
            PONG => Frame::Pong,
            RAFT => {
                let is_last = reader.flag()?;
                return Ok(Frame::Raft { is_last, bytes: piece(is_last, &reader)? });
            }
            REQUEST => {
                let (is_last, id) = (reader.flag()?, reader.u64()?);
                return Ok(Frame::Request { id, is_last, request: piece(is_last, &reader)? });
            }
            RESPONSE => {
                let (is_last, id, offset) = (reader.flag()?, reader.u64()?, reader.u64()?);
                return Ok(Frame::Response { id, offset, is_last, response: piece(is_last, &reader)? });
            }
            NOT_CONTROLLER => Frame::NotController { id: reader.u64()?, leader: reader.i32()? },
            ADOPT => {
                let is_last = reader.flag()?;
                return Ok(Frame::Adopt { is_last, bytes: piece(is_last, &reader)? });
            }
            other => return Err(format!("frames of kind {other} are not known")),
        };
        match (reader.rest().len(), &decoded) {
            // Whoever rejects may be of a later version.
            (0, _) | (_, Frame::Reject { .. }) => Ok(decoded),
            (left, _) => Err(format!("{left} bytes follow a frame")),
        }
    }
}

/// A message, whatever its length, in as many frames as it takes, each with its length.
pub fn in_pieces(message: &Bytes, frame: impl Fn(bool, Bytes) -> Frame) -> Bytes {
    let pieces = message.len().div_ceil(PIECE_BYTES_MAX).max(1);
    let mut out = Vec::with_capacity(message.len() + pieces * (LENGTH_BYTES + FIELDS_BYTES_MAX));
    for piece in 0..pieces {
        let start = piece * PIECE_BYTES_MAX;
        let end = message.len().min(start + PIECE_BYTES_MAX);
        frame(end == message.len(), message.slice(start..end)).encode(&mut out);
    }
    out.into()
}

/// Takes the next whole frame, without its length, off what was received. `None`: it is not complete. The error says what
/// is wrong with the length that was announced.
pub fn cut(received: &mut BytesMut, bytes_max: usize) -> Result<Option<Bytes>, String> {
    let Some(length) = received.first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
    let announced = i32::from_be_bytes(*length);
    let length = usize::try_from(announced).unwrap_or(0);
    if length == 0 || length > bytes_max {
        return Err(format!("a frame of {announced} bytes was announced"));
    }
    if received.len() < LENGTH_BYTES + length {
        return Ok(None);
    }
    received.advance(LENGTH_BYTES);
    Ok(Some(received.split_to(length).freeze()))
}

fn encode_hello(hello: &Hello, out: &mut Vec<u8>) {
    // The header of a Kafka request, version 1: key, version, correlation id, no client id.
    out.extend(PEER_HELLO.to_be_bytes());
    out.extend(HELLO_VERSION.to_be_bytes());
    out.extend(0i32.to_be_bytes());
    out.extend((-1i16).to_be_bytes());
    out.extend(hello.version_min.to_le_bytes());
    out.extend(hello.version_max.to_le_bytes());
    put_optional_id(out, &hello.cluster_id);
    out.extend(hello.node_id.to_le_bytes());
    out.extend(hello.directory_id);
    out.extend(hello.incarnation);
    out.extend(hello.to_node.to_le_bytes());
    match &hello.address {
        Some((host, port)) => {
            out.push(1);
            put_text(out, host);
            out.extend(port.to_le_bytes());
        }
        None => out.push(0),
    }
    out.push(u8::from(hello.is_forming));
}

/// What follows the fields that are known is a later version's.
fn decode_hello(reader: &mut Reader<'_>) -> Result<Hello, String> {
    let [_, _, version @ ..]: [u8; 4] = reader.array()?;
    let version = i16::from_be_bytes(version);
    if version != HELLO_VERSION {
        return Err(format!("a greeting of version {version}"));
    }
    reader.array::<4>()?;
    if reader.array()? != (-1i16).to_be_bytes() {
        return Err("a greeting with a client id".into());
    }
    let version_min = reader.u16()?;
    let version_max = reader.u16()?;
    if version_min > version_max {
        return Err(format!("versions from {version_min} to {version_max}"));
    }
    let cluster_id = optional_id(reader)?;
    let node_id = node_id(reader)?;
    let directory_id = reader.array()?;
    let incarnation = reader.array()?;
    let to_node = reader.i32()?;
    let address = match reader.flag()? {
        true => {
            let host = text(reader, HOST_BYTES_MAX)?;
            if host.is_empty() {
                return Err("an address without a host".into());
            }
            Some((host, reader.u16()?))
        }
        false => None,
    };
    let is_forming = reader.flag()?;
    Ok(Hello { version_min, version_max, cluster_id, node_id, directory_id, incarnation, to_node, address, is_forming })
}

fn put_piece(out: &mut Vec<u8>, piece: &Bytes) {
    assert!(piece.len() <= PIECE_BYTES_MAX, "a piece of {} bytes", piece.len());
    out.extend_from_slice(piece);
}

fn put_optional_id(out: &mut Vec<u8>, id: &Option<[u8; 16]>) {
    match id {
        Some(id) => {
            out.push(1);
            out.extend(id);
        }
        None => out.push(0),
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    let length = u16::try_from(text.len()).expect("texts are bounded");
    out.extend(length.to_le_bytes());
    out.extend(text.as_bytes());
}

/// The beginning of a text, at most so many bytes.
pub(super) fn cut_text(text: &str, bytes_max: usize) -> &str {
    let end = (0..=text.len().min(bytes_max)).rev().find(|&end| text.is_char_boundary(end));
    &text[..end.unwrap_or(0)]
}

fn optional_id(reader: &mut Reader<'_>) -> Result<Option<[u8; 16]>, String> {
    if reader.flag()? { reader.array().map(Some) } else { Ok(None) }
}

fn node_id(reader: &mut Reader<'_>) -> Result<i32, String> {
    match reader.i32()? {
        negative @ ..0 => Err(format!("a node of number {negative}")),
        node_id => Ok(node_id),
    }
}

fn text(reader: &mut Reader<'_>, bytes_max: usize) -> Result<String, String> {
    match usize::from(reader.u16()?) {
        length if length > bytes_max => Err(format!("a text of {length} bytes")),
        length => reader.text_of(length),
    }
}

#[cfg(test)]
mod tests {
    use millstream_storage::random::Random;

    use super::*;

    fn hello() -> Hello {
        Hello {
            version_min: 1,
            version_max: 2,
            cluster_id: Some([1; 16]),
            node_id: 7,
            directory_id: [2; 16],
            incarnation: [3; 16],
            to_node: -1,
            address: Some(("example.org".into(), 9093)),
            is_forming: true,
        }
    }

    fn welcome() -> Welcome {
        Welcome {
            version: 1,
            cluster_id: Some([1; 16]),
            node_id: 7,
            directory_id: [2; 16],
            incarnation: [3; 16],
            is_forming: false,
        }
    }

    fn one_of_each() -> Vec<Frame> {
        let bytes = Bytes::from_static(b"abc");
        vec![
            Frame::Hello(hello()),
            Frame::Hello(Hello { cluster_id: None, address: None, to_node: 3, is_forming: false, ..hello() }),
            Frame::Welcome(welcome()),
            Frame::Welcome(Welcome { cluster_id: None, is_forming: true, ..welcome() }),
            Frame::Reject { why: RejectReason::Version, text: "why".into() },
            Frame::Reject { why: RejectReason::Cluster, text: String::new() },
            Frame::Reject { why: RejectReason::Node, text: "é".into() },
            Frame::Reject { why: RejectReason::Busy, text: "x".repeat(TEXT_BYTES_MAX) },
            Frame::Ping,
            Frame::Pong,
            Frame::Raft { is_last: false, bytes: bytes.clone() },
            Frame::Raft { is_last: true, bytes: Bytes::new() },
            Frame::Request { id: u64::MAX, is_last: true, request: bytes.clone() },
            Frame::Response { id: 1, offset: u64::MAX, is_last: true, response: bytes.clone() },
            Frame::NotController { id: 5, leader: -1 },
            Frame::Adopt { is_last: true, bytes },
        ]
    }

    /// The frame without its length, which is right.
    fn body(frame: &Frame) -> Bytes {
        let mut bytes = BytesMut::from(&frame.to_bytes()[..]);
        let body = cut(&mut bytes, FRAME_BYTES_MAX).expect("a good length").expect("complete");
        assert!(bytes.is_empty());
        body
    }

    #[test]
    fn what_is_written_is_read() {
        for frame in one_of_each() {
            assert_eq!(Frame::decode(&body(&frame)), Ok(frame));
        }
    }

    #[test]
    fn a_greeting_is_a_request_of_kafka_and_has_the_bytes_it_always_had() {
        let bytes = body(&Frame::Hello(Hello { address: Some(("h".into(), 0x1234)), ..hello() }));
        let header = [0x4e, 0x20, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
        let mut expected = header.to_vec();
        expected.extend([1, 0, 2, 0, 1]);
        expected.extend([1; 16]);
        expected.extend([7, 0, 0, 0]);
        expected.extend([2; 16]);
        expected.extend([3; 16]);
        expected.extend([0xff; 4]);
        expected.extend([1, 1, 0, b'h', 0x34, 0x12, 1]);
        assert_eq!(bytes, expected);
    }

    #[test]
    fn cut_frames_are_refused() {
        for frame in one_of_each() {
            let bytes = body(&frame);
            let is_piece = matches!(
                frame,
                Frame::Raft { .. } | Frame::Request { .. } | Frame::Response { .. } | Frame::Adopt { .. }
            );
            for length in 0..bytes.len() {
                let decoded = Frame::decode(&bytes.slice(..length));
                // A piece has no length of its own: that of the frame says where it ends.
                assert!(is_piece || decoded.is_err(), "{frame:?} at {length}: {decoded:?}");
                assert_ne!(decoded.as_ref(), Ok(&frame));
            }
            let longer = Bytes::from([&bytes[..], &[0]].concat());
            let is_open = matches!(frame, Frame::Hello(_) | Frame::Reject { .. });
            assert_eq!(Frame::decode(&longer).is_ok(), is_piece || is_open, "{frame:?}");
        }
    }

    #[test]
    fn later_versions_may_add_to_a_greeting() {
        let longer = Bytes::from([&body(&Frame::Hello(hello()))[..], b"more"].concat());
        assert_eq!(Frame::decode(&longer), Ok(Frame::Hello(hello())));
    }

    #[test]
    fn hostile_bytes_neither_panic_nor_decode_to_something_else() {
        let frames = one_of_each();
        let mut random = Random::new(1);
        for _ in 0..50_000 {
            let mut bytes = body(&frames[random.index(frames.len())]).to_vec();
            for _ in 0..=random.below(3) {
                let at = random.index(bytes.len());
                bytes[at] = random.next() as u8;
            }
            let bytes = Bytes::from(bytes);
            let Ok(decoded) = Frame::decode(&bytes) else { continue };
            let again = body(&decoded);
            match decoded {
                // Its correlation id means nothing, and what follows the fields neither.
                Frame::Hello(_) => assert_eq!(again[10..], bytes[10..again.len()]),
                Frame::Reject { .. } => assert_eq!(again, bytes[..again.len()]),
                _ => assert_eq!(again, bytes),
            }
        }
    }

    #[test]
    fn large_messages_come_in_pieces() {
        for length in [0, 1, PIECE_BYTES_MAX, PIECE_BYTES_MAX + 1, 3 * PIECE_BYTES_MAX] {
            let message: Bytes = (0..length).map(|at| (at / 7) as u8).collect();
            let frames = in_pieces(&message, |is_last, request| Frame::Request { id: 9, is_last, request });
            let mut received = BytesMut::from(&frames[..]);
            let mut found = Vec::new();
            while let Some(frame) = cut(&mut received, FRAME_BYTES_MAX).expect("a good length") {
                let Ok(Frame::Request { id: 9, is_last, request }) = Frame::decode(&frame) else { panic!("{frame:?}") };
                found.extend_from_slice(&request);
                assert_eq!(is_last, found.len() == length);
            }
            assert!(received.is_empty());
            assert_eq!(found, message);
        }
    }

    #[test]
    fn lengths_are_checked_before_memory_is_given_to_them() {
        let cut = |length: i32, bytes_max| cut(&mut BytesMut::from(&length.to_be_bytes()[..]), bytes_max);
        assert_eq!(cut(8, 8), Ok(None));
        for length in [9, 0, -1, i32::MAX, i32::MIN] {
            assert!(cut(length, 8).is_err());
        }
        let long = Bytes::from([&[RAFT, 1][..], &vec![0; PIECE_BYTES_MAX + 1]].concat());
        assert!(Frame::decode(&long).is_err());
    }

    #[test]
    fn explanations_are_cut_between_characters() {
        let text = "é".repeat(TEXT_BYTES_MAX);
        let bytes = body(&Frame::Reject { why: RejectReason::Busy, text });
        let Ok(Frame::Reject { text, .. }) = Frame::decode(&bytes) else { panic!("a rejection") };
        assert_eq!(text, "é".repeat(TEXT_BYTES_MAX / 2));
        assert_eq!(cut_text("xé", 2), "x");
    }

    #[test]
    fn every_greeting_fits_the_first_frame() {
        let longest = Hello { address: Some(("h".repeat(HOST_BYTES_MAX), 1)), ..hello() };
        let rejection = Frame::Reject { why: RejectReason::Node, text: "x".repeat(TEXT_BYTES_MAX) };
        for frame in [Frame::Hello(longest), rejection] {
            assert!(body(&frame).len() <= FIRST_FRAME_BYTES_MAX);
        }
    }
}
