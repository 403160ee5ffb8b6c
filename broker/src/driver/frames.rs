//! Cuts a connection's byte stream into request frames (a big-endian length of 4 bytes, then so many bytes) without
//! copying them, and without ever giving memory to an announced length before the bytes have come.
//!
//! A connection that sends small requests reads into a block it shares with all others of its core. Only the rest of a
//! frame that is not complete moves into a block of its own, which doubles as bytes arrive. A connection that has sent
//! large frames before is trusted with blocks of that size at once, while memory is plenty.
//!
//! All that a core's connections receive of larger frames is bounded. A frame is promised its whole length before it may
//! have a block, so that what has begun can end; a frame that is promised nothing yet is not read any further until others
//! have ended ([`FrameReader::is_waiting`]). The last promise may go beyond the bound, so that the largest frame fits
//! whatever the bound is. Frames of unusual length have a bound of their own, and connections that have not completed a
//! request yet half of each: neither keeps the others from their memory by announcing much and sending little.

use std::time::{Duration, Instant};

use bytes::Bytes;
use millstream_storage::block::{BLOCK_CAPACITY_POOLED_MAX, Block, BlockPool, capacity_for};

/// Length of the prefix that announces a frame's length.
const PREFIX_BYTES: usize = 4;
/// Capacity of the block that a core's connections share for small requests.
pub const SHARED_BLOCK_BYTES: usize = 256 * 1024;
/// The shared block is replaced when less than this is left.
const SHARED_SPARE_BYTES_MIN: usize = 16 * 1024;
/// The smallest block of a connection's own.
const OWN_BLOCK_BYTES_MIN: usize = 64 * 1024;
/// How far a read may go past the end of a large frame: what it brings of the next one may have to be copied.
const LOOKAHEAD_BYTES: usize = 4 * 1024;
/// A block up to this size needs no promise: every connection may have one, for its small requests come in pieces too.
const FREE_BLOCK_BYTES_MAX: usize = 16 * 1024;
/// Frames up to this size are ordinary: a batch of the usual largest size, and a little.
const ORDINARY_FRAME_BYTES_MAX: usize = 2 << 20;
/// What a connection reads at a time while memory is short.
const SHORT_READ_BYTES: usize = 4 * 1024;
/// Blocks are kept for reuse while they and those in use take at most twice the bound of ordinary frames: a frame is lent
/// until its request is answered, when its block has been given back already.
const REUSE_SHARE: usize = 2;
/// Blocks that were not needed for so long are freed.
const REUSE_INTERVAL: Duration = Duration::from_secs(10);
/// The most that a connection is trusted with before its bytes have come: a block that a pool keeps.
const TRUSTED_BYTES_MAX: usize = BLOCK_CAPACITY_POOLED_MAX - LOOKAHEAD_BYTES;

/// Memory that a core's connections read into.
pub struct ReadMemory {
    shared: Block,
    pool: BlockPool,
    /// Promised to frames that have begun, and blocks of trusted connections; by [`Size`].
    promised_bytes: [usize; 2],
    promised_bytes_max: usize,
    /// Some of it was given back, of either size, that others may wait for.
    has_released: bool,
    /// When blocks that were not needed are freed.
    give_up_at: Instant,
}

/// Whose bound a frame counts against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Size {
    Ordinary = 0,
    Large = 1,
}

fn size_of(bytes: usize) -> Size {
    if bytes <= ORDINARY_FRAME_BYTES_MAX + LOOKAHEAD_BYTES { Size::Ordinary } else { Size::Large }
}

/// Which frames wait for the same memory, in the order in which they get it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line(pub usize);

/// How many lines there are.
pub const LINES: usize = 4;

impl ReadMemory {
    /// Memory that promises up to `bytes_max` to ordinary frames that have begun, half as much to large ones, and one frame
    /// more of each.
    pub fn new(bytes_max: usize) -> ReadMemory {
        let mut pool = BlockPool::new(REUSE_SHARE * bytes_max);
        ReadMemory {
            shared: pool.take(SHARED_BLOCK_BYTES),
            pool,
            promised_bytes: [0; 2],
            promised_bytes_max: bytes_max,
            has_released: false,
            give_up_at: Instant::now() + REUSE_INTERVAL,
        }
    }

    /// Frees blocks that were not needed for [`REUSE_INTERVAL`]. Call it every now and then, also without connections.
    pub fn give_up_idle(&mut self) {
        let now = Instant::now();
        if now >= self.give_up_at {
            self.pool.give_up_idle();
            self.give_up_at = now + REUSE_INTERVAL;
        }
    }

    /// Bytes promised to frames that have begun, and blocks of trusted connections.
    pub fn promised_bytes(&self) -> usize {
        self.promised_bytes.iter().sum()
    }

    /// Whether memory was given back since this was asked last: frames that wait may be promised theirs now.
    pub fn take_released(&mut self) -> bool {
        std::mem::take(&mut self.has_released)
    }

    /// Whether another frame of this size can be promised its bytes; `is_known`: its connection has completed others.
    fn has_room(&self, size: Size, is_known: bool) -> bool {
        let bytes_max = self.promised_bytes_max(size);
        self.promised_bytes[size as usize] < if is_known { bytes_max } else { bytes_max / 2 }
    }

    /// Whether there is enough to lend a block of so many bytes to a connection that only may need it: half is kept for
    /// those that do.
    fn is_plenty(&self, bytes: usize) -> bool {
        let size = size_of(bytes);
        self.promised_bytes[size as usize] < self.promised_bytes_max(size) / 2
    }

    fn promised_bytes_max(&self, size: Size) -> usize {
        match size {
            Size::Ordinary => self.promised_bytes_max,
            Size::Large => self.promised_bytes_max / 2,
        }
    }

    fn renew_shared(&mut self) {
        if self.shared.spare() < SHARED_SPARE_BYTES_MIN {
            let next = self.pool.take(SHARED_BLOCK_BYTES);
            self.pool.give(std::mem::replace(&mut self.shared, next));
        }
    }
}

/// The announced length was negative or above the limit: the connection must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameError {
    /// The length announced.
    pub announced: i32,
}

impl std::fmt::Display for FrameError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "a request of {} bytes was announced", self.announced)
    }
}

/// One connection's place in its stream.
#[derive(Debug)]
pub struct FrameReader {
    /// Bytes of frames that are not complete, from `start`; `None`: there are none, read into the shared block.
    own: Option<Block>,
    start: usize,
    frame_bytes_max: usize,
    /// About the largest of the last frames, prefix included: memory of that size is given before its bytes have come.
    trusted_bytes: usize,
    /// This connection's part of [`ReadMemory::promised_bytes`].
    promised_bytes: usize,
    /// The frame that has begun must be promised so many bytes before it is read further.
    waits_for: Option<usize>,
    /// A frame was completed before.
    is_known: bool,
}

impl FrameReader {
    /// A reader at the start of a stream; frames above `frame_bytes_max` (at most `i32::MAX`) are refused.
    pub fn new(frame_bytes_max: usize) -> FrameReader {
        FrameReader {
            own: None,
            start: 0,
            frame_bytes_max,
            trusted_bytes: 0,
            promised_bytes: 0,
            waits_for: None,
            is_known: false,
        }
    }

    /// This connection's part of [`ReadMemory::promised_bytes`].
    pub fn promised_bytes(&self) -> usize {
        self.promised_bytes
    }

    /// Whether a frame has begun and is not complete.
    pub fn is_partial(&self) -> bool {
        self.own.as_ref().is_some_and(|block| block.len() > self.start)
    }

    /// The line to wait in if it must not be read from until the frame that has begun is promised its memory: see
    /// [`FrameReader::try_promise`].
    pub fn waits_in(&self) -> Option<Line> {
        self.waits_for.map(|bytes| Line(2 * size_of(bytes) as usize + usize::from(!self.is_known)))
    }

    /// Whether the frame that has begun waits for memory.
    pub fn is_waiting(&self) -> bool {
        self.waits_for.is_some()
    }

    /// Promises the frame that has begun its memory, if there is some now; true when it may be read from.
    pub fn try_promise(&mut self, memory: &mut ReadMemory) -> bool {
        let Some(bytes) = self.waits_for else { return true };
        if !memory.has_room(size_of(bytes), self.is_known) {
            return false;
        }
        self.promise(bytes, memory);
        self.waits_for = None;
        true
    }

    fn promise(&mut self, bytes: usize, memory: &mut ReadMemory) {
        let (before, after) = (size_of(self.promised_bytes), size_of(bytes));
        memory.has_released |= bytes < self.promised_bytes || (before != after && self.promised_bytes > 0);
        memory.promised_bytes[before as usize] -= self.promised_bytes;
        memory.promised_bytes[after as usize] += bytes;
        self.promised_bytes = bytes;
    }

    /// Where the next bytes of the stream are to be read to; never empty. Call [`FrameReader::received`] with their
    /// number before anything else uses `memory`.
    pub fn buffer<'a>(&'a mut self, memory: &'a mut ReadMemory) -> &'a mut [u8] {
        debug_assert!(!self.is_waiting());
        let trusted = self.trusted_bytes + LOOKAHEAD_BYTES;
        if self.own.is_none() && self.trusted_bytes >= OWN_BLOCK_BYTES_MIN && memory.is_plenty(capacity_for(trusted)) {
            let block = memory.pool.take(trusted);
            self.promise(block.capacity(), memory);
            self.own = Some(block);
            self.start = 0;
        }
        match &mut self.own {
            Some(block) => {
                let missing = missing_bytes(&block.filled()[self.start..]);
                let spare = block.spare_mut();
                let bytes = spare.len().min(missing + LOOKAHEAD_BYTES);
                assert!(bytes > 0, "a full block was replaced when its bytes came");
                &mut spare[..bytes]
            }
            None => {
                memory.renew_shared();
                let has_room = memory.has_room(Size::Ordinary, self.is_known);
                let spare = memory.shared.spare_mut();
                let bytes = if has_room { spare.len() } else { SHORT_READ_BYTES };
                &mut spare[..bytes]
            }
        }
    }

    /// Takes the number of bytes that were read into [`FrameReader::buffer`] and gives each whole frame, without its
    /// prefix, to `frame`.
    pub fn received(
        &mut self,
        bytes: usize,
        memory: &mut ReadMemory,
        mut frame: impl FnMut(Bytes),
    ) -> Result<(), FrameError> {
        let start = if self.own.is_some() { self.start } else { memory.shared.len() };
        let block = self.own.as_mut().unwrap_or(&mut memory.shared);
        block.commit(bytes);
        let mut at = start;
        let mut announced = None;
        while let Some(length) = announced_bytes(&block.filled()[at..]) {
            if length < 0 || length as usize > self.frame_bytes_max {
                return Err(FrameError { announced: length });
            }
            let end = at + PREFIX_BYTES + length as usize;
            if end > block.len() {
                announced = Some(end - at);
                break;
            }
            frame(block.slice(at + PREFIX_BYTES..end));
            self.is_known = true;
            self.trusted_bytes = (end - at).max(self.trusted_bytes - self.trusted_bytes / 8).min(TRUSTED_BYTES_MAX);
            at = end;
        }
        self.keep_rest(at, announced.unwrap_or(PREFIX_BYTES), memory);
        Ok(())
    }

    /// Makes room for the rest of the frame that begins at `at` and is `frame_bytes` long, as far as is known.
    fn keep_rest(&mut self, at: usize, frame_bytes: usize, memory: &mut ReadMemory) {
        let block = self.own.as_ref().unwrap_or(&memory.shared);
        let rest = block.len() - at;
        if self.own.is_some() && at + frame_bytes <= block.capacity() {
            // It fits where it is. An empty rest does not need the block, unless more large frames are to be expected.
            self.start = at;
            if rest == 0
                && (self.trusted_bytes < OWN_BLOCK_BYTES_MIN
                    || block.spare() < self.trusted_bytes
                    || !memory.is_plenty(self.promised_bytes))
            {
                self.release(memory);
            }
            return;
        }
        if rest == 0 {
            self.release(memory);
            return;
        }
        let whole = frame_bytes + LOOKAHEAD_BYTES;
        if whole > FREE_BLOCK_BYTES_MAX.max(self.promised_bytes) {
            // Who waits holds nothing, so that those who hold something never wait for each other.
            self.promise(0, memory);
            self.waits_for = Some(whole);
            self.try_promise(memory);
        }
        // Not more than double of what has come, unless earlier frames have earned trust; what waits, only what it has.
        let granted = if self.is_waiting() { 0 } else { (2 * rest).max(OWN_BLOCK_BYTES_MIN).max(self.trusted_bytes) };
        let room = whole.min(granted).max(rest + 1);
        let capacity = self.own.as_ref().map_or(0, Block::capacity);
        if at == 0 && room <= capacity && (!self.is_waiting() || capacity <= FREE_BLOCK_BYTES_MAX) {
            self.start = 0;
            return;
        }
        let mut next = memory.pool.take(room);
        let block = self.own.as_ref().unwrap_or(&memory.shared);
        next.append(&block.filled()[at..]);
        self.start = 0;
        if let Some(full) = self.own.replace(next) {
            memory.pool.give(full);
        }
    }

    /// Gives memory back that holds nothing; for a connection that has been quiet.
    pub fn release_idle(&mut self, memory: &mut ReadMemory) {
        if self.own.as_ref().is_some_and(|block| block.len() == self.start) {
            self.trusted_bytes = 0;
            self.release(memory);
        }
    }

    /// Gives back everything; for a connection that has ended.
    pub fn release(&mut self, memory: &mut ReadMemory) {
        if let Some(block) = self.own.take() {
            memory.pool.give(block);
        }
        self.promise(0, memory);
        self.waits_for = None;
        self.start = 0;
    }
}

fn announced_bytes(stream: &[u8]) -> Option<i32> {
    stream.first_chunk::<PREFIX_BYTES>().map(|prefix| i32::from_be_bytes(*prefix))
}

/// Bytes that the frame at the start of `stream`, which is not complete, still lacks, as far as is known.
fn missing_bytes(stream: &[u8]) -> usize {
    let length = announced_bytes(stream).map_or(0, |length| length.max(0) as usize);
    (PREFIX_BYTES + length).saturating_sub(stream.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FRAME_BYTES_MAX: usize = 8 << 20;

    /// Feeds a stream in pieces of at most `piece` bytes; returns the frames and the largest own block seen.
    fn feed(reader: &mut FrameReader, stream: &[u8], piece: usize) -> Result<(Vec<Bytes>, usize), FrameError> {
        let mut memory = ReadMemory::new(64 << 20);
        let mut frames = Vec::new();
        let mut largest = 0;
        let mut rest = stream;
        while !rest.is_empty() {
            let buffer = reader.buffer(&mut memory);
            let bytes = buffer.len().min(piece).min(rest.len());
            buffer[..bytes].copy_from_slice(&rest[..bytes]);
            rest = &rest[bytes..];
            reader.received(bytes, &mut memory, |frame| frames.push(frame))?;
            largest = largest.max(reader.own.as_ref().map_or(0, Block::capacity));
        }
        Ok((frames, largest))
    }

    fn stream_of(sizes: &[usize]) -> (Vec<u8>, Vec<Vec<u8>>) {
        let frames: Vec<Vec<u8>> = sizes
            .iter()
            .enumerate()
            .map(|(index, &size)| (0..size).map(|byte| (byte * 31 + index) as u8).collect())
            .collect();
        let mut stream = Vec::new();
        for frame in &frames {
            stream.extend((frame.len() as i32).to_be_bytes());
            stream.extend(frame);
        }
        (stream, frames)
    }

    #[test]
    fn every_cut_of_the_stream_gives_the_same_frames() {
        let sizes = [0, 1, 3, 100, 70_000, 5, 300_000, 299_000, 298_000, 0, 20_000, 2_100_000, 2_100_001, 12];
        let (stream, frames) = stream_of(&sizes);
        for piece in [1, 3, 4, 5, 1000, 4096, 65_536, 1 << 20, usize::MAX] {
            let mut reader = FrameReader::new(FRAME_BYTES_MAX);
            let (cut, _) = feed(&mut reader, &stream, piece).expect("legal frames");
            assert!(cut.iter().eq(frames.iter()), "in pieces of {piece}");
        }
    }

    #[test]
    fn an_announced_length_earns_no_memory_until_bytes_come() {
        let mut stream = (FRAME_BYTES_MAX as i32).to_be_bytes().to_vec();
        let mut reader = FrameReader::new(FRAME_BYTES_MAX);
        let (_, largest) = feed(&mut reader, &stream, usize::MAX).expect("legal");
        assert_eq!(largest, OWN_BLOCK_BYTES_MIN);
        stream.resize(1_000_000, 1);
        let mut reader = FrameReader::new(FRAME_BYTES_MAX);
        let (_, largest) = feed(&mut reader, &stream, 10_000).expect("legal");
        assert!(largest <= 4 * stream.len(), "{largest}");
    }

    #[test]
    fn memory_that_is_given_back_is_told_of() {
        let mut memory = ReadMemory::new(64 << 20);
        let mut reader = FrameReader::new(FRAME_BYTES_MAX);
        reader.promise(1 << 20, &mut memory);
        assert!(!memory.take_released(), "nothing is given back");
        // More in all, but none is left of what ordinary frames may wait for.
        reader.promise(ORDINARY_FRAME_BYTES_MAX * 2, &mut memory);
        assert!(memory.take_released() && !memory.take_released());

        // A block that is lent to a connection which sends nothing.
        let mut reader = FrameReader::new(FRAME_BYTES_MAX);
        reader.trusted_bytes = OWN_BLOCK_BYTES_MIN;
        reader.buffer(&mut memory);
        assert!(reader.promised_bytes() > 0 && !memory.take_released());
        reader.release_idle(&mut memory);
        assert!(reader.promised_bytes() == 0 && memory.take_released());
    }

    #[test]
    fn blocks_of_frames_that_are_done_are_reused_and_given_back_when_idle() {
        let (stream, frames) = stream_of(&[300_000; 20]);
        let mut memory = ReadMemory::new(2 << 20);
        let mut reader = FrameReader::new(FRAME_BYTES_MAX);
        let mut rest = &stream[..];
        let mut done = 0;
        while !rest.is_empty() {
            let buffer = reader.buffer(&mut memory);
            let bytes = buffer.len().min(rest.len());
            buffer[..bytes].copy_from_slice(&rest[..bytes]);
            rest = &rest[bytes..];
            reader.received(bytes, &mut memory, |_| done += 1).expect("legal");
        }
        assert_eq!(done, frames.len());
        let stats = memory.pool.stats();
        assert!(stats.fresh <= 5 && stats.reused >= 18, "{stats:?}");
        reader.release_idle(&mut memory);
        for _ in 0..2 {
            memory.give_up_idle();
            assert!(memory.pool.kept_bytes() > 0, "it is not due yet");
        }
        for _ in 0..2 {
            memory.give_up_at = Instant::now();
            memory.give_up_idle();
        }
        assert_eq!(memory.pool.kept_bytes(), 0);
    }

    #[test]
    fn impossible_lengths_are_refused() {
        for announced in [-1, i32::MIN, FRAME_BYTES_MAX as i32 + 1, i32::MAX] {
            let mut stream = stream_of(&[10]).0;
            stream.extend(announced.to_be_bytes());
            let mut reader = FrameReader::new(FRAME_BYTES_MAX);
            assert_eq!(feed(&mut reader, &stream, usize::MAX).expect_err("refused"), FrameError { announced });
        }
    }

    #[test]
    fn frames_wait_until_others_have_ended_and_all_arrive() {
        let mut random = 1u64;
        let mut next = move |bound: usize| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (random >> 33) as usize % bound
        };
        let streams: Vec<_> = (0..40)
            .map(|_| {
                stream_of(
                    &(0..20)
                        .map(|_| match next(12) {
                            0 => next(2_500_000),
                            1..=3 => next(900_000),
                            _ => next(30_000),
                        })
                        .collect::<Vec<_>>(),
                )
            })
            .collect();
        let mut memory = ReadMemory::new(2 << 20);
        let largest = 2_500_000 + PREFIX_BYTES + LOOKAHEAD_BYTES;
        let mut readers: Vec<_> =
            streams.iter().map(|_| (FrameReader::new(FRAME_BYTES_MAX), 0, Vec::<Bytes>::new())).collect();
        let mut waited = 0;
        let mut open = streams.len();
        while open > 0 {
            let index = next(streams.len());
            let ((stream, _), (reader, at, frames)) = (&streams[index], &mut readers[index]);
            if *at == stream.len() {
                continue;
            }
            if !reader.try_promise(&mut memory) {
                waited += 1;
                continue;
            }
            let buffer = reader.buffer(&mut memory);
            let bytes = buffer.len().min(stream.len() - *at);
            buffer[..bytes].copy_from_slice(&stream[*at..*at + bytes]);
            *at += bytes;
            reader.received(bytes, &mut memory, |frame| frames.push(Bytes::copy_from_slice(&frame))).expect("legal");
            assert!(memory.promised_bytes() < (3 << 20) + 2 * largest);
            assert!(!reader.is_waiting() || reader.promised_bytes == 0);
            if *at == stream.len() {
                assert!(!reader.is_partial());
                reader.release(&mut memory);
                open -= 1;
            }
        }
        assert!(waited > 0, "there was too much memory for a test");
        assert_eq!(memory.promised_bytes(), 0);
        for ((_, sent), (_, _, frames)) in streams.iter().zip(&readers) {
            assert!(frames.iter().eq(sent.iter()));
        }
    }

    #[test]
    fn who_announces_much_and_sends_little_keeps_nobody_from_sending() {
        let mut memory = ReadMemory::new(8 << 20);
        let mut receive = |reader: &mut FrameReader, bytes: &[u8]| {
            assert!(reader.try_promise(&mut memory), "it may be read from");
            let buffer = reader.buffer(&mut memory);
            buffer[..bytes.len()].copy_from_slice(bytes);
            reader.received(bytes.len(), &mut memory, drop).expect("legal");
        };
        let mut slow: Vec<FrameReader> = (0..100).map(|_| FrameReader::new(FRAME_BYTES_MAX)).collect();
        for (index, reader) in slow.iter_mut().enumerate() {
            let announced = if index % 2 == 0 { FRAME_BYTES_MAX as i32 } else { 1 << 20 };
            receive(reader, &announced.to_be_bytes());
        }
        assert!(slow.iter().filter(|reader| reader.is_waiting()).count() > 90);
        let mut known = FrameReader::new(FRAME_BYTES_MAX);
        receive(&mut known, &[0, 0, 0, 1, 7]);
        receive(&mut known, &(1i32 << 20).to_be_bytes());
        assert!(!known.is_waiting());
    }

    /// Blocks of connections that had sent frames of over 2 MiB were lent without a bound.
    #[test]
    fn what_is_lent_to_trusted_connections_is_bounded_whatever_their_frames_size() {
        for frame_bytes in [100_000, 1_000_000, 3_000_000] {
            // A small one first, as clients begin.
            let stream = stream_of(&[10, frame_bytes]).0;
            let mut memory = ReadMemory::new(16 << 20);
            let mut readers: Vec<FrameReader> = (0..200).map(|_| FrameReader::new(FRAME_BYTES_MAX)).collect();
            for reader in &mut readers {
                let mut rest = &stream[..];
                while !rest.is_empty() {
                    assert!(reader.try_promise(&mut memory));
                    let buffer = reader.buffer(&mut memory);
                    let bytes = buffer.len().min(rest.len());
                    buffer[..bytes].copy_from_slice(&rest[..bytes]);
                    rest = &rest[bytes..];
                    reader.received(bytes, &mut memory, drop).expect("legal");
                }
                // It is asked for more, and may be lent a block.
                reader.buffer(&mut memory);
            }
            assert!(memory.promised_bytes() <= (8 << 20) + (4 << 20), "{}", memory.promised_bytes());
        }
    }

    #[test]
    fn small_requests_need_no_block_of_their_own() {
        let (stream, frames) = stream_of(&[50; 100]);
        let mut reader = FrameReader::new(FRAME_BYTES_MAX);
        let (cut, largest) = feed(&mut reader, &stream, 54).expect("legal frames");
        assert!(cut.iter().eq(frames.iter()));
        assert_eq!(largest, 0);
    }

    #[test]
    fn a_quiet_connection_gives_its_block_back() {
        let (stream, _) = stream_of(&[500_000, 500_000]);
        let mut reader = FrameReader::new(FRAME_BYTES_MAX);
        feed(&mut reader, &stream, 100_000).expect("legal frames");
        let mut memory = ReadMemory::new(64 << 20);
        reader.buffer(&mut memory);
        assert!(reader.own.is_some());
        reader.release_idle(&mut memory);
        assert!(reader.own.is_none());
        assert!(reader.buffer(&mut memory).len() <= SHARED_BLOCK_BYTES);
        assert!(reader.own.is_none());
    }
}
