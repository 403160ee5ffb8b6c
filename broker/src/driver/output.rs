//! What waits to be sent on one connection, and how much of it fits into the socket now.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes};

use super::sys;
use crate::metrics::{Kind, Sample};

/// Slices of memory that go into one `sendmsg`; the kernel takes at most 1024.
const SLICES_MAX: usize = 128;
/// Bytes of a file that go into one `sendfile`: a step that cannot block the core for long.
const SENDFILE_STEP_BYTES: usize = 256 * 1024;
/// Bytes that one connection may send before others get their turn.
const TURN_BYTES_MAX: usize = 1 << 20;
/// What a connection's queue may hold of memory without being asked why.
const LITTLE_BYTES: usize = 16 * 1024;
/// A `sendfile` that takes longer is counted.
const SLOW_SENDFILE: Duration = Duration::from_millis(1);

/// A piece of what is to be sent.
#[derive(Debug)]
pub enum Piece {
    /// Bytes in memory.
    Memory(Bytes),
    /// A range of a file.
    File {
        /// Open, so that a rename or removal does not matter any more.
        file: Arc<File>,
        /// Where the range begins.
        position: u64,
        /// What is left of it.
        bytes: usize,
    },
}

/// How an attempt to send ended.
#[derive(Debug)]
pub enum Sent {
    /// Everything has gone into the socket.
    All,
    /// The socket has no room.
    Blocked,
    /// It has sent its share of this turn.
    Paused,
}

/// Counts of a core's connections together.
#[derive(Debug, Default)]
pub struct SendCounters {
    /// Bytes from memory.
    pub memory_bytes: u64,
    /// Bytes from files.
    pub sendfile_bytes: u64,
    /// Calls of `sendfile`.
    pub sendfile_calls: u64,
    /// Calls of `sendfile` that took over a millisecond, for whatever reason: the core may have been taken away.
    pub sendfile_slow: u64,
    /// Those of them that have waited, for the disk as a rule: they have blocked the core.
    pub sendfile_blocked: u64,
    /// The longest of them.
    pub sendfile_max: Duration,
}

impl SendCounters {
    /// Adds them to a scrape.
    pub fn samples(&self, samples: &mut Vec<Sample>) {
        let mut sample = |name, help, kind, value| {
            samples.push(Sample { name, help, kind, labels: Vec::new(), value });
        };
        let counter = Kind::Counter;
        let bytes = self.memory_bytes as f64;
        sample("millstream_send_memory_bytes_total", "Bytes sent from memory.", counter, bytes);
        let bytes = self.sendfile_bytes as f64;
        sample("millstream_send_sendfile_bytes_total", "Bytes sent by sendfile, from the page cache.", counter, bytes);
        sample("millstream_send_sendfile_calls_total", "Calls of sendfile.", counter, self.sendfile_calls as f64);
        let help = "Calls of sendfile of more than a millisecond, also where other processes had the core meanwhile.";
        sample("millstream_send_sendfile_slow_total", help, counter, self.sendfile_slow as f64);
        let help = "Calls of sendfile that waited, for the disk, and blocked the core for more than a millisecond.";
        sample("millstream_send_sendfile_blocked_total", help, counter, self.sendfile_blocked as f64);
        let help = "The longest call of sendfile since the start.";
        sample("millstream_send_sendfile_seconds_max", help, Kind::Gauge, self.sendfile_max.as_secs_f64());
    }
}

/// The queue of one connection.
#[derive(Debug, Default)]
pub struct Output {
    pieces: VecDeque<Piece>,
}

impl Output {
    /// Adds a piece after all others.
    pub fn push(&mut self, piece: Piece) {
        match &piece {
            Piece::Memory(bytes) if bytes.is_empty() => {}
            Piece::File { bytes: 0, .. } => {}
            _ => self.pieces.push_back(piece),
        }
    }

    /// Whether everything has gone into the socket.
    pub fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Whether it keeps more than a little memory from being used otherwise; ranges of files do not.
    pub fn holds_memory(&self) -> bool {
        let mut held = 0;
        self.pieces.iter().any(|piece| {
            if let Piece::Memory(bytes) = piece {
                held += bytes.len();
            }
            held > LITTLE_BYTES
        })
    }

    /// Throws away what has not been sent.
    pub fn clear(&mut self) {
        self.pieces.clear();
    }

    /// Sends as much as fits, up to one turn's share, without waiting.
    pub fn send(&mut self, socket: &impl AsFd, counters: &mut SendCounters) -> io::Result<Sent> {
        let mut share = TURN_BYTES_MAX;
        while let Some(first) = self.pieces.front() {
            if share == 0 {
                return Ok(Sent::Paused);
            }
            let result = match first {
                Piece::Memory(_) => self.send_memory(socket, counters),
                Piece::File { file, position, bytes } => {
                    let step = (*bytes).min(share).min(SENDFILE_STEP_BYTES);
                    send_file(socket, file, *position, step, counters)
                }
            };
            match result {
                Ok(bytes) => {
                    self.advance(bytes);
                    share -= bytes.min(share);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Sent::Blocked),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(Sent::All)
    }

    fn send_memory(&self, socket: &impl AsFd, counters: &mut SendCounters) -> io::Result<usize> {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(&self.pieces) {
            let Piece::Memory(bytes) = piece else { break };
            *slice = IoSlice::new(bytes);
            count += 1;
        }
        let more = count < self.pieces.len();
        let sent = sys::send_slices(socket, &slices[..count], more)?;
        counters.memory_bytes += sent as u64;
        Ok(sent)
    }

    /// Takes note that the first `count` bytes have been sent.
    fn advance(&mut self, mut count: usize) {
        while count > 0 {
            let piece = self.pieces.front_mut().expect("no more is sent than was queued");
            let left = match piece {
                Piece::Memory(bytes) => {
                    let taken = count.min(bytes.len());
                    bytes.advance(taken);
                    count -= taken;
                    bytes.len()
                }
                Piece::File { position, bytes, .. } => {
                    let taken = count.min(*bytes);
                    *position += taken as u64;
                    *bytes -= taken;
                    count -= taken;
                    *bytes
                }
            };
            if left == 0 {
                self.pieces.pop_front();
            }
        }
    }
}

fn send_file(
    socket: &impl AsFd,
    file: &File,
    position: u64,
    bytes: usize,
    counters: &mut SendCounters,
) -> io::Result<usize> {
    let waits = sys::waits_of_this_thread();
    let began = Instant::now();
    let result = sys::send_file(socket, file, position, bytes);
    let took = began.elapsed();
    counters.sendfile_calls += 1;
    counters.sendfile_max = counters.sendfile_max.max(took);
    if took > SLOW_SENDFILE {
        counters.sendfile_slow += 1;
        counters.sendfile_blocked += u64::from(sys::waits_of_this_thread() > waits);
    }
    let sent = result?;
    counters.sendfile_bytes += sent as u64;
    if sent == 0 { Err(shorter_than_promised()) } else { Ok(sent) }
}

fn shorter_than_promised() -> io::Error {
    io::Error::new(ErrorKind::UnexpectedEof, "a file to be sent is shorter than its log says")
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::TestDirectory;
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn memory_and_files_arrive_in_order_through_a_full_socket() {
        let root = TestDirectory::new("output");
        let contents: Vec<u8> = (0..3_000_000u32).map(|byte| (byte % 251) as u8).collect();
        std::fs::write(root.0.join("file"), &contents).expect("written");
        let file = Arc::new(File::open(root.0.join("file")).expect("there"));
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        ours.set_nonblocking(true).expect("non-blocking");

        let mut output = Output::default();
        let mut wanted = Vec::new();
        for index in 0..500u32 {
            output.push(Piece::Memory(Bytes::from(vec![index as u8; 7])));
            wanted.extend([index as u8; 7]);
        }
        output.push(Piece::File { file: Arc::clone(&file), position: 10, bytes: 2_500_000 });
        wanted.extend(&contents[10..2_500_010]);
        output.push(Piece::Memory(Bytes::from_static(b"end")));
        wanted.extend(b"end");

        let reader = std::thread::spawn(move || {
            let mut received = Vec::new();
            (&theirs).read_to_end(&mut received).expect("received");
            received
        });
        let mut counters = SendCounters::default();
        loop {
            match output.send(&ours, &mut counters).expect("sent") {
                Sent::All => break,
                Sent::Paused => {}
                Sent::Blocked => std::thread::yield_now(),
            }
        }
        drop(ours);
        assert!(reader.join().expect("a reader") == wanted);
        assert!(counters.sendfile_calls as usize >= 2_400_000 / SENDFILE_STEP_BYTES);
        assert!(counters.sendfile_bytes <= 2_500_000);
    }

    #[test]
    fn a_file_that_is_too_short_is_an_error() {
        let root = TestDirectory::new("output_short");
        std::fs::write(root.0.join("file"), b"12345").expect("written");
        let file = Arc::new(File::open(root.0.join("file")).expect("there"));
        let (ours, _theirs) = UnixStream::pair().expect("a socket pair");
        let mut output = Output::default();
        output.push(Piece::File { file, position: 0, bytes: 6 });
        let error = output.send(&ours, &mut SendCounters::default()).expect_err("too short");
        assert_eq!(error.kind(), ErrorKind::UnexpectedEof);
    }
}
