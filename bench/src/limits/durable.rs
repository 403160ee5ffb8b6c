//! Receiving and writing durably: by one node, or by several that all hold the same bytes.
//!
//! Of several the first one sends everything on to the others, over connections of their own on loopback, before it writes
//! it itself: that is what a leader with so many replicas in sync cannot leave out.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

use rustix::fs::OFlags;

use crate::error::BenchError;
use crate::limits::meter::{Meter, join};
use crate::limits::{Floor, Limits, WARM_FILE, WARM_UP_SHARE, noise};
use crate::machine;
use crate::report::latencies;

/// What O_DIRECT asks of addresses, offsets and lengths.
const PAGE_BYTES: usize = 4096;
/// A small message: one record of 1 KiB.
const MESSAGE_BYTES: usize = 1024;
/// An answer to it.
const ANSWER_BYTES: usize = 64;
/// About the size of a bulk producer's request.
const REQUEST_BYTES: usize = 256 << 10;
/// Buffers between receiving and writing, for each writer and each connection of a replica.
const BUFFERS_EACH: usize = 2;

/// How the durable writes are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    pub piece_bytes: usize,
    /// Writes of a replica under way at a time.
    pub depth: usize,
}

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "writes of {} KiB, {} at a time", self.piece_bytes >> 10, self.depth)
    }
}

impl Limits {
    /// The fastest way to cut durable writes of so many replicas, tried for `each` a way; found once.
    pub fn fastest_cut(&mut self, replicas: usize, connections: usize, each: Duration) -> Result<Cut, BenchError> {
        if let Some(cut) = self.cuts.get(&replicas) {
            return Ok(*cut);
        }
        let mut fastest = None;
        for piece_bytes in [256 << 10, 512 << 10, 1 << 20] {
            for depth in [1, 2, 4, 8] {
                let cut = Cut { piece_bytes, depth };
                let rate = self.ingest(replicas, connections, cut, each)?.megabytes_per_second();
                if fastest.is_none_or(|(most, _)| rate > most) {
                    fastest = Some((rate, cut));
                }
            }
        }
        let (_, cut) = fastest.expect("something was tried");
        self.cuts.insert(replicas, cut);
        Ok(cut)
    }

    /// Receives in bulk, computes CRC-32C over everything, and writes it durably past the page cache, in each replica.
    pub fn ingest(
        &mut self,
        replicas: usize,
        connections: usize,
        cut: Cut,
        seconds: Duration,
    ) -> Result<Floor, BenchError> {
        let pieces = (self.bytes.0 / cut.piece_bytes as u64).max(1);
        let files = self.durable_files(replicas)?;
        let (server, load) = self.connect(connections)?;
        // Of each replica's connections: what they receive from, and what they send on to.
        let mut streams = vec![server.into_iter().map(|stream| (stream, Vec::new())).collect::<Vec<_>>()];
        for _ in 1..replicas {
            let (receiving, sending) = self.connect(connections)?;
            streams[0].iter_mut().zip(sending).for_each(|((_, onwards), stream)| onwards.push(stream));
            streams.push(receiving.into_iter().map(|stream| (stream, Vec::new())).collect());
        }
        let (mut parts, mut ends) = (Vec::new(), Vec::new());
        for file in files {
            let (free, take_free) = channel();
            // No bound of its own: there are only so many buffers.
            let (full, take_full) = channel();
            for _ in 0..BUFFERS_EACH * (connections + cut.depth) {
                free.send(Aligned::new(cut.piece_bytes)).expect("the receiver is here");
            }
            parts.push(Replica { file, take_free: Mutex::new(take_free), take_full: Mutex::new(take_full) });
            ends.push((free, full));
        }
        let stop = AtomicBool::new(false);
        let meter = Meter::new(replicas, replicas * (connections + cut.depth));
        let written: Vec<AtomicU64> = (0..replicas).map(|_| AtomicU64::new(0)).collect();
        let (placement, meter, written, stop) = (&self.placement, &meter, &written, &stop);
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for (replica, ((part, (free, full)), streams)) in parts.iter().zip(ends).zip(streams).enumerate() {
                let first_thread = replica * (connections + cut.depth);
                for (connection, (stream, onwards)) in streams.into_iter().enumerate() {
                    let full = full.clone();
                    threads.push(scope.spawn(move || -> Result<(), BenchError> {
                        machine::confine(&placement.server)?;
                        part.receive(stream, onwards, &full, || meter.used(first_thread + connection))
                    }));
                }
                for writer in 0..cut.depth {
                    let free = free.clone();
                    threads.push(scope.spawn(move || -> Result<(), BenchError> {
                        machine::confine(&placement.server)?;
                        let next =
                            || written[replica].fetch_add(1, Ordering::Relaxed) % pieces * cut.piece_bytes as u64;
                        part.write(&free, next, |bytes| {
                            meter.did(replica, bytes);
                            meter.used(first_thread + connections + writer);
                        })
                    }));
                }
            }
            for mut stream in load {
                threads.push(scope.spawn(move || -> Result<(), BenchError> {
                    machine::confine(&placement.load)?;
                    let request = noise(REQUEST_BYTES);
                    while !stop.load(Ordering::Relaxed) && stream.write_all(&request).is_ok() {}
                    let _ = stream.shutdown(Shutdown::Both);
                    Ok(())
                }));
            }
            let floor = meter.measure(seconds);
            stop.store(true, Ordering::Relaxed);
            join(threads)?;
            Ok(floor)
        })
    }

    /// One message at a time, over one connection: receive 1 KiB, write 4 KiB durably in each replica, answer. The load
    /// polls; the server, and with it each other replica, sleeps until a message comes, or polls with `spin`.
    pub fn ping_pong(&mut self, replicas: usize, spin: bool, seconds: Duration) -> Result<Floor, BenchError> {
        let pages = (self.bytes.0 / PAGE_BYTES as u64).max(1);
        let files = self.durable_files(replicas)?;
        let (server, mut load) = self.connect(1)?;
        let mut load = load.remove(0);
        let (receiving, sending) = self.connect(replicas - 1)?;
        for stream in server.iter().chain(&receiving).chain(&sending) {
            stream.set_nonblocking(spin)?;
        }
        load.set_nonblocking(true)?;
        let onwards = std::iter::once(sending).chain(std::iter::repeat_with(Vec::new));
        let streams = server.into_iter().chain(receiving).zip(onwards);
        let meter = Meter::new(replicas, replicas);
        let (placement, meter) = (&self.placement, &meter);
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for (replica, (file, (mut from, mut onwards))) in files.into_iter().zip(streams).enumerate() {
                threads.push(scope.spawn(move || -> Result<(), BenchError> {
                    machine::confine(&placement.server)?;
                    answer_each(&file, pages, &mut from, &mut onwards, || meter.used(replica))
                }));
            }
            let ask = scope.spawn(move || -> Result<Floor, BenchError> {
                machine::confine(&placement.load)?;
                let (message, mut answer) = (noise(MESSAGE_BYTES), [0; ANSWER_BYTES]);
                let mut latency = latencies();
                let begun = Instant::now();
                let from = begun + seconds.mul_f64(WARM_UP_SHARE);
                let (mut cpu, mut measuring) = (Duration::ZERO, false);
                loop {
                    let sent = Instant::now();
                    if sent >= from && !measuring {
                        (cpu, measuring) = (meter.cpu(), true);
                    }
                    if sent >= from + seconds {
                        break;
                    }
                    load.write_all(&message)?;
                    if !read_whole(&mut load, &mut answer)? {
                        return Err(BenchError::Machine("the server thread has ended".to_string()));
                    }
                    if measuring {
                        latency.saturating_record(sent.elapsed().as_nanos() as u64);
                    }
                }
                let bytes = latency.len() * MESSAGE_BYTES as u64;
                let cpu = meter.cpu() - cpu;
                Ok(Floor { seconds: seconds.as_secs_f64(), bytes, cpu, latency: Some(latency) })
            });
            let floor = ask.join().expect("the load does not panic");
            // The last replica first: that one has ended says more than that the first could not send to it.
            threads.reverse();
            join(threads)?;
            floor
        })
    }

    /// A file for each replica, every byte of it written, open for writes that are durable when they return.
    fn durable_files(&mut self, replicas: usize) -> Result<Vec<File>, BenchError> {
        let mut files = Vec::with_capacity(replicas);
        for replica in 0..replicas {
            let name = if replica == 0 { WARM_FILE.to_string() } else { format!("{WARM_FILE}.{replica}") };
            files.push(open_durable(&self.file(&name, self.bytes.0)?)?);
        }
        Ok(files)
    }
}

/// What the threads of one replica share.
struct Replica {
    file: File,
    take_free: Mutex<Receiver<Aligned>>,
    take_full: Mutex<Receiver<Aligned>>,
}

impl Replica {
    /// Receives pieces, sends them on, and hands them to the writers, until the other end closes its connection or no
    /// writer is left.
    fn receive(
        &self,
        mut from: TcpStream,
        mut onwards: Vec<TcpStream>,
        full: &Sender<Aligned>,
        received: impl Fn(),
    ) -> Result<(), BenchError> {
        loop {
            let Ok(mut buffer) = self.take_free.lock().expect("no thread panics").recv() else { return Ok(()) };
            if !read_whole(&mut from, buffer.bytes_mut())? {
                return Ok(());
            }
            std::hint::black_box(crc32c::crc32c(buffer.bytes()));
            // A replica that takes no more has failed, and says why itself.
            if onwards.iter_mut().any(|stream| stream.write_all(buffer.bytes()).is_err()) || full.send(buffer).is_err()
            {
                return Ok(());
            }
            received();
        }
    }

    /// Writes what is handed to it to where `next` says, until there is no one left who receives.
    fn write(&self, free: &Sender<Aligned>, next: impl Fn() -> u64, written: impl Fn(usize)) -> Result<(), BenchError> {
        loop {
            let Ok(buffer) = self.take_full.lock().expect("no thread panics").recv() else { return Ok(()) };
            self.file.write_all_at(buffer.bytes(), next()).map_err(BenchError::machine("a durable write"))?;
            written(buffer.bytes().len());
            let _ = free.send(buffer);
        }
    }
}

/// Answers each message when it is durable here and in the replicas that it is sent on to, until one of them closes its
/// connection.
fn answer_each(
    file: &File,
    pages: u64,
    from: &mut TcpStream,
    onwards: &mut [TcpStream],
    answered: impl Fn(),
) -> Result<(), BenchError> {
    let mut page = Aligned::new(PAGE_BYTES);
    let mut answer = [0; ANSWER_BYTES];
    for number in 0.. {
        if !read_whole(from, &mut page.bytes_mut()[..MESSAGE_BYTES])? {
            break;
        }
        for stream in onwards.iter_mut() {
            stream.write_all(&page.bytes()[..MESSAGE_BYTES])?;
        }
        file.write_all_at(page.bytes(), number % pages * PAGE_BYTES as u64)
            .map_err(BenchError::machine("a durable write"))?;
        for stream in onwards.iter_mut() {
            if !read_whole(stream, &mut answer)? {
                return Ok(());
            }
        }
        from.write_all(&answer)?;
        answered();
    }
    Ok(())
}

/// Fills the buffer from a socket, polling if that does not block; `false` when the other end has closed it.
fn read_whole(stream: &mut TcpStream, mut buffer: &mut [u8]) -> Result<bool, BenchError> {
    while !buffer.is_empty() {
        match stream.read(buffer) {
            Ok(0) => return Ok(false),
            Ok(read) => buffer = &mut buffer[read..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) if error.kind() == ErrorKind::ConnectionReset => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(true)
}

/// For writes past the page cache that are on the disk when they return.
fn open_durable(path: &Path) -> Result<File, BenchError> {
    let flags = (OFlags::DIRECT | OFlags::DSYNC).bits() as i32;
    let opened = OpenOptions::new().write(true).custom_flags(flags).open(path);
    opened.map_err(BenchError::machine(format!("{} past the page cache", path.display())))
}

/// Memory at an address that O_DIRECT takes.
struct Aligned {
    memory: Vec<u8>,
    from: usize,
    bytes: usize,
}

impl Aligned {
    fn new(bytes: usize) -> Aligned {
        // Filled, so that every page has been touched.
        let memory = vec![1; bytes + PAGE_BYTES];
        let from = memory.as_ptr().align_offset(PAGE_BYTES);
        Aligned { memory, from, bytes }
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.from..self.from + self.bytes]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.from..self.from + self.bytes]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buffers_are_aligned() {
        for bytes in [1, PAGE_BYTES, 1 << 20] {
            let mut buffer = Aligned::new(bytes);
            assert_eq!((buffer.bytes().as_ptr() as usize % PAGE_BYTES, buffer.bytes_mut().len()), (0, bytes));
        }
    }
}
