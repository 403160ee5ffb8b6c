//! What every byte from a client passes first: the stream is cut into frames, and each frame has a header.

use bytes::Bytes;
use millstream::driver::frames::{FrameError, FrameReader, ReadMemory, SHARED_BLOCK_BYTES};
use millstream::protocol::header::RequestHeader;

use crate::Target;
use crate::input::{Input, piece};
use crate::memory::{BASE_BYTES, SHARING_BYTES, bounded};

pub const TARGET: Target = Target { name: "frames", run, seeds };

/// The largest frame that is let through.
const FRAME_BYTES_MAX: usize = 1 << 20;
/// A connection's own block has twice what has come, rounded up to a power of two, while the one before it is copied.
/// Beside it there is the shared block, at times with its successor.
const MEMORY_PER_BYTE: usize = 8;
const READ_BYTES_MAX: usize = BASE_BYTES + 2 * SHARED_BLOCK_BYTES + (256 << 10);

fn run(bytes: &[u8]) {
    if let Some((choice, bytes)) = bytes.split_first() {
        if choice & 1 == 0 {
            header(bytes);
        } else {
            stream(Input::new(bytes));
        }
    }
}

fn header(frame: &[u8]) {
    let whole = Bytes::copy_from_slice(frame);
    let Ok((header, body)) = bounded(SHARING_BYTES, || RequestHeader::parse(whole)) else { return };
    assert!(header.is_version_served() || body.is_empty());
    assert!(frame.ends_with(&body));
    assert_eq!(header.response().correlation_id.to_be_bytes(), frame[4..8]);
    let _ = header.client_id.as_deref().map(str::len);
}

/// Connections of one core, which share memory for large frames.
const CONNECTIONS: usize = 3;
/// So little that the frames of two connections do not fit.
const RECEIVING_BYTES_MAX: usize = 128 << 10;

/// One connection's reader, and what it was sent and gave.
struct Connection {
    reader: FrameReader,
    sent: Vec<u8>,
    received: Vec<u8>,
    refused: Option<FrameError>,
}

/// Pieces of the input come one after the other, as sockets would bring them, each on one of the connections; while a
/// connection waits for memory it is not read from. What comes out is what went in.
fn stream(mut input: Input<'_>) {
    let connection = || {
        let reader = FrameReader::new(FRAME_BYTES_MAX);
        Connection { reader, sent: Vec::new(), received: Vec::new(), refused: None }
    };
    let mut connections: [Connection; CONNECTIONS] = std::array::from_fn(|_| connection());
    let bytes_max = READ_BYTES_MAX + MEMORY_PER_BYTE * input.len();
    bounded(bytes_max, || {
        let mut memory = ReadMemory::new(RECEIVING_BYTES_MAX);
        while !input.is_empty() {
            let connection = &mut connections[usize::from(input.byte()) % CONNECTIONS];
            connection.bring(input.piece(), &mut memory);
        }
        for connection in &mut connections {
            connection.reader.release(&mut memory);
        }
        assert_eq!(memory.promised_bytes(), 0);
    });
    connections.iter().for_each(Connection::check);
}

impl Connection {
    fn bring(&mut self, mut piece: &[u8], memory: &mut ReadMemory) {
        while !piece.is_empty() && self.refused.is_none() && self.reader.try_promise(memory) {
            let buffer = self.reader.buffer(memory);
            let (now, later) = piece.split_at(piece.len().min(buffer.len()));
            buffer[..now.len()].copy_from_slice(now);
            self.sent.extend_from_slice(now);
            piece = later;
            let received = &mut self.received;
            let cut = self.reader.received(now.len(), memory, |frame| {
                received.extend((frame.len() as u32).to_be_bytes());
                received.extend_from_slice(&frame);
            });
            self.refused = cut.err();
        }
        if self.refused.is_none() {
            self.reader.release_idle(memory);
        }
    }

    fn check(&self) {
        assert!(self.sent.starts_with(&self.received));
        let rest = &self.sent[self.received.len()..];
        let announced = rest.first_chunk::<4>().map(|length| i32::from_be_bytes(*length));
        match self.refused {
            None => {
                assert!(announced.is_none_or(|length| rest.len() - 4 < length as usize), "a whole frame is held back")
            }
            Some(FrameError { announced: refused }) => {
                assert_eq!(announced, Some(refused));
                assert!(usize::try_from(refused).is_err() || refused as usize > FRAME_BYTES_MAX);
            }
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let plain = [&[0, 3, 0, 1, 0, 0, 0, 7, 0, 4][..], b"test", &[0; 4]].concat();
    let flexible = [&[0, 3, 0, 12, 0, 0, 0, 7, 0, 4][..], b"test", &[1, 0, 2, 5, 6, 1, 0]].concat();
    let frame = |body: &[u8]| [&(body.len() as u32).to_be_bytes(), body].concat();
    let large = frame(&[7; 60_000]);
    let bring = |connection: u8, bytes: &[u8]| [&[connection], &piece(bytes)[..]].concat();
    vec![
        [&[0], &plain[..]].concat(),
        [&[0], &flexible[..]].concat(),
        [&[1], &bring(0, &[frame(&plain), frame(&flexible)].concat())[..]].concat(),
        [&[1], &bring(0, &frame(&plain)[..9])[..], &bring(1, &frame(&[])), &bring(0, &frame(&plain)[9..])].concat(),
        [&[1], &bring(0, &large[..100])[..], &bring(1, &large[..9]), &bring(0, &large[100..]), &bring(1, &large[9..])]
            .concat(),
        [&[1], &bring(2, &[0x7f, 0xff, 0xff, 0xff, 1])[..]].concat(),
    ]
}
