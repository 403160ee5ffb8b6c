//! What every byte from a client passes first: the stream is cut into frames, and each frame has a header.

use bytes::Bytes;
use millstream::driver::frames::{FrameReader, ReadMemory, SHARED_BLOCK_BYTES};
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

/// Pieces of the input come one after the other, as a socket would bring them. What comes out is what went in.
fn stream(mut input: Input<'_>) {
    let mut sent = Vec::new();
    let mut received = Vec::new();
    let bytes_max = READ_BYTES_MAX + MEMORY_PER_BYTE * input.len();
    let result = bounded(bytes_max, || {
        let mut memory = ReadMemory::new(0);
        let mut reader = FrameReader::new(FRAME_BYTES_MAX);
        while !input.is_empty() {
            let mut piece = input.piece();
            while !piece.is_empty() {
                let buffer = reader.buffer(&mut memory);
                let (now, later) = piece.split_at(piece.len().min(buffer.len()));
                buffer[..now.len()].copy_from_slice(now);
                sent.extend_from_slice(now);
                piece = later;
                reader.received(now.len(), &mut memory, |frame| {
                    received.extend((frame.len() as u32).to_be_bytes());
                    received.extend_from_slice(&frame);
                })?;
            }
            reader.release_idle(&mut memory);
        }
        Ok(())
    });
    assert!(sent.starts_with(&received));
    let rest = &sent[received.len()..];
    let announced = rest.first_chunk::<4>().map(|length| i32::from_be_bytes(*length));
    match result {
        Ok(()) => {
            assert!(announced.is_none_or(|length| rest.len() - 4 < length as usize), "a whole frame is held back")
        }
        Err(millstream::driver::frames::FrameError { announced: refused }) => {
            assert_eq!(announced, Some(refused));
            assert!(usize::try_from(refused).is_err() || refused as usize > FRAME_BYTES_MAX);
        }
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let plain = [&[0, 3, 0, 1, 0, 0, 0, 7, 0, 4][..], b"test", &[0; 4]].concat();
    let flexible = [&[0, 3, 0, 12, 0, 0, 0, 7, 0, 4][..], b"test", &[1, 0, 2, 5, 6, 1, 0]].concat();
    let frame = |body: &[u8]| [&(body.len() as u32).to_be_bytes(), body].concat();
    let large = frame(&[7; 40_000]);
    vec![
        [&[0], &plain[..]].concat(),
        [&[0], &flexible[..]].concat(),
        [&[1], &piece(&[frame(&plain), frame(&flexible)].concat())[..]].concat(),
        [&[1], &piece(&frame(&plain)[..9])[..], &piece(&frame(&plain)[9..]), &piece(&frame(&[]))].concat(),
        [&[1], &piece(&large[..100])[..], &piece(&large[100..]), &piece(&frame(&plain))].concat(),
        [&[1], &piece(&[0x7f, 0xff, 0xff, 0xff, 1])[..]].concat(),
    ]
}
