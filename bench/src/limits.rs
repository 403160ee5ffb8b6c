//! What this machine could do at best: bare loops that do only what no durable log broker can leave out. Servers and load
//! are threads of this process, confined to the same processors as brokers and load are in `compare`.
//!
//! Every file is written, and every buffer touched, before anything is measured: on a virtual machine whose free memory
//! goes back to its host, the first use of a page costs many times the next one.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{channel, sync_channel};
use std::time::{Duration, Instant};

use clap::Args;
use hdrhistogram::Histogram;
use rustix::fs::OFlags;

use crate::error::BenchError;
use crate::load;
use crate::machine::{self, Placement};
use crate::report::latencies;

/// What O_DIRECT asks of addresses, offsets and lengths.
const PAGE_BYTES: usize = 4096;
/// What one sendfile call, and one read of the load, takes.
const SEND_BYTES: usize = 1 << 20;
/// How far the reading ahead of a cold file is ahead, and in which steps.
const AHEAD_BYTES: u64 = 32 << 20;
const AHEAD_STEP_BYTES: u64 = 4 << 20;
/// The share of a measurement's time that warms it up first.
const WARM_UP_SHARE: f64 = 0.25;
/// A small message: one record of 1 KiB.
const MESSAGE_BYTES: usize = 1024;
/// Buffers between receiving and writing, for each writer and each connection.
const BUFFERS_EACH: usize = 2;

/// Options of `limits`.
#[derive(Args, Clone, Debug)]
pub struct Options {
    /// Directory for the files, on the disk to be measured; they are removed at the end.
    #[arg(long, default_value = ".")]
    pub directory: PathBuf,
    /// Processors of the server threads, for example 0-3; without it, the first half.
    #[arg(long)]
    server_cpus: Option<String>,
    /// Processors of the load threads; without it, the second half.
    #[arg(long)]
    load_cpus: Option<String>,
    /// Connections of the bulk loops.
    #[arg(long, default_value_t = 4, value_parser = load::at_least_one)]
    connections: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 3.0, value_parser = load::seconds)]
    seconds: f64,
    /// MiB of the file that is written to, round and round, and sent from.
    #[arg(long, default_value_t = 1024)]
    file_mebibytes: u64,
    /// MiB of the file that is sent from the disk.
    #[arg(long, default_value_t = 2048)]
    cold_mebibytes: u64,
    /// TCP congestion control at both ends, for example cubic; without it, the system's.
    #[arg(long)]
    congestion: Option<String>,
}

/// What a bare loop reached. Megabytes are 10^6 bytes.
#[derive(Clone, Debug)]
pub struct Floor {
    pub seconds: f64,
    pub bytes: u64,
    /// Processor time of the server threads.
    pub cpu: Duration,
    /// Nanoseconds of each message, where messages are answered one by one.
    pub latency: Option<Histogram<u64>>,
}

impl Floor {
    pub fn megabytes_per_second(&self) -> f64 {
        self.bytes as f64 / 1e6 / self.seconds
    }

    pub fn cpu_seconds_per_gigabyte(&self) -> f64 {
        self.cpu.as_secs_f64() / (self.bytes as f64 / 1e9)
    }
}

impl std::fmt::Display for Floor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.latency {
            None => {
                write!(f, "{:.0} MB/s, {:.3} CPU s/GB", self.megabytes_per_second(), self.cpu_seconds_per_gigabyte())
            }
            Some(latency) => {
                let us = |quantile: f64| latency.value_at_quantile(quantile) as f64 / 1e3;
                write!(
                    f,
                    "{:.0} a second; µs: p50 {:.0}, p99 {:.0}, p99.9 {:.0}",
                    latency.len() as f64 / self.seconds,
                    us(0.5),
                    us(0.99),
                    us(0.999)
                )
            }
        }
    }
}

/// How the durable writes are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    pub piece_bytes: usize,
    /// Writes under way at a time.
    pub depth: usize,
}

/// The `limits` command: all of them, a line each.
pub fn run(options: &Options) -> Result<(), BenchError> {
    let placement = Placement::new(options.server_cpus.as_deref(), options.load_cpus.as_deref())?;
    let sizes = (options.file_mebibytes << 20, options.cold_mebibytes << 20);
    let mut limits = Limits::new(&options.directory, placement, options.congestion.clone(), sizes);
    let (connections, seconds) = (options.connections, Duration::from_secs_f64(options.seconds));
    println!("{}", machine::description());
    println!("congestion control {}", options.congestion.clone().unwrap_or_else(machine::congestion_control));
    let cut = limits.fastest_cut(connections, Duration::from_millis(300))?;
    println!("durable ingest, {connections} connections, {cut}: {}", limits.ingest(connections, cut, seconds)?);
    println!("one 1 KiB message and one durable 4 KiB write at a time:");
    for (spin, what) in [(false, "blocking"), (true, "busy-polling")] {
        println!("  {what} server: {}", limits.ping_pong(spin, seconds)?);
    }
    for connections in [1, connections] {
        println!("sendfile from memory, {connections} connections: {}", limits.sendfile_warm(connections, seconds)?);
        println!("sendfile from the disk, {connections} connections: {}", limits.sendfile_cold(connections)?);
    }
    Ok(())
}

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "writes of {} KiB, {} at a time", self.piece_bytes >> 10, self.depth)
    }
}

/// The bare loops and their files, which are written when they are first needed and removed at the end.
pub struct Limits {
    directory: PathBuf,
    placement: Placement,
    congestion: Option<String>,
    /// Of the file that is written to and sent from, and of that which is sent from the disk.
    bytes: (u64, u64),
    cut: Option<Cut>,
}

impl Drop for Limits {
    fn drop(&mut self) {
        for name in ["limits.warm", "limits.cold"] {
            let _ = std::fs::remove_file(self.directory.join(name));
        }
    }
}

impl Limits {
    pub fn new(directory: &Path, placement: Placement, congestion: Option<String>, bytes: (u64, u64)) -> Limits {
        Limits { directory: directory.to_path_buf(), placement, congestion, bytes, cut: None }
    }

    /// The fastest way to cut durable writes, tried for `each` a way; found once.
    pub fn fastest_cut(&mut self, connections: usize, each: Duration) -> Result<Cut, BenchError> {
        if let Some(cut) = self.cut {
            return Ok(cut);
        }
        let mut fastest = None;
        for piece_bytes in [256 << 10, 512 << 10, 1 << 20] {
            for depth in [1, 2, 4, 8] {
                let cut = Cut { piece_bytes, depth };
                let rate = self.ingest(connections, cut, each)?.megabytes_per_second();
                if fastest.is_none_or(|(most, _)| rate > most) {
                    fastest = Some((rate, cut));
                }
            }
        }
        self.cut = fastest.map(|(_, cut)| cut);
        Ok(self.cut.expect("something was tried"))
    }

    /// Receives in bulk, computes CRC-32C over everything, and writes it durably past the page cache.
    pub fn ingest(&mut self, connections: usize, cut: Cut, seconds: Duration) -> Result<Floor, BenchError> {
        let path = self.file("limits.warm", self.bytes.0)?;
        let file = open_durable(&path)?;
        let pieces = (self.bytes.0 / cut.piece_bytes as u64).max(1);
        let (server, load) = self.connect(connections)?;
        let stop = AtomicBool::new(false);
        let meter = Meter::new(connections + cut.depth);
        let next_piece = AtomicU64::new(0);
        let (free, take_free) = channel();
        let (full, take_full) = sync_channel::<Aligned>(cut.depth);
        for _ in 0..BUFFERS_EACH * (connections + cut.depth) {
            free.send(Aligned::new(cut.piece_bytes)).expect("the receiver is here");
        }
        let (take_free, take_full) = (Mutex::new(take_free), Mutex::new(take_full));
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for (index, mut stream) in server.into_iter().enumerate() {
                let (full, take_free, meter, placement) = (full.clone(), &take_free, &meter, &self.placement);
                threads.push(scope.spawn(move || -> Result<(), BenchError> {
                    machine::confine(&placement.server)?;
                    loop {
                        let Ok(mut buffer) = take_free.lock().expect("no thread panics").recv() else { return Ok(()) };
                        if !read_whole(&mut stream, buffer.bytes_mut())? {
                            return Ok(());
                        }
                        std::hint::black_box(crc32c::crc32c(buffer.bytes()));
                        if full.send(buffer).is_err() {
                            return Ok(());
                        }
                        meter.used(index);
                    }
                }));
            }
            drop(full);
            for writer in 0..cut.depth {
                let (free, take_full, meter, placement) = (free.clone(), &take_full, &meter, &self.placement);
                let (file, next_piece) = (&file, &next_piece);
                threads.push(scope.spawn(move || -> Result<(), BenchError> {
                    machine::confine(&placement.server)?;
                    loop {
                        let Ok(buffer) = take_full.lock().expect("no thread panics").recv() else { return Ok(()) };
                        let at = next_piece.fetch_add(1, Ordering::Relaxed) % pieces * cut.piece_bytes as u64;
                        file.write_all_at(buffer.bytes(), at).map_err(BenchError::machine("a durable write"))?;
                        meter.bytes.fetch_add(cut.piece_bytes as u64, Ordering::Relaxed);
                        meter.used(connections + writer);
                        let _ = free.send(buffer);
                    }
                }));
            }
            drop(free);
            for mut stream in load {
                let (stop, placement) = (&stop, &self.placement);
                threads.push(scope.spawn(move || -> Result<(), BenchError> {
                    machine::confine(&placement.load)?;
                    // About the size of a producer's request.
                    let request = noise(256 << 10);
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

    /// One message at a time, over one connection: receive 1 KiB, write 4 KiB durably, answer. The load polls; the server
    /// sleeps until a message comes, or polls with `spin`.
    pub fn ping_pong(&mut self, spin: bool, seconds: Duration) -> Result<Floor, BenchError> {
        let path = self.file("limits.warm", self.bytes.0)?;
        let file = open_durable(&path)?;
        let pages = (self.bytes.0 / PAGE_BYTES as u64).max(1);
        let (mut server, mut load) = self.connect(1)?;
        let (mut server, mut load) = (server.remove(0), load.remove(0));
        server.set_nonblocking(spin)?;
        load.set_nonblocking(true)?;
        let meter = Meter::new(1);
        std::thread::scope(|scope| {
            let (placement, meter) = (&self.placement, &meter);
            let serve = scope.spawn(move || -> Result<(), BenchError> {
                machine::confine(&placement.server)?;
                let mut page = Aligned::new(PAGE_BYTES);
                for number in 0.. {
                    if !read_whole(&mut server, &mut page.bytes_mut()[..MESSAGE_BYTES])? {
                        break;
                    }
                    file.write_all_at(page.bytes(), number % pages * PAGE_BYTES as u64)
                        .map_err(BenchError::machine("a durable write"))?;
                    server.write_all(&page.bytes()[..64])?;
                    meter.used(0);
                }
                Ok(())
            });
            let ask = scope.spawn(move || -> Result<Floor, BenchError> {
                machine::confine(&placement.load)?;
                let (message, mut answer) = (noise(MESSAGE_BYTES), [0; 64]);
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
            serve.join().expect("the server does not panic")?;
            floor
        })
    }

    /// Sends a file that is in the page cache, over and over.
    pub fn sendfile_warm(&mut self, connections: usize, seconds: Duration) -> Result<Floor, BenchError> {
        // Not all of it: brokers are asked for topics that fit, too.
        let bytes = self.bytes.0.min(256 << 20);
        let path = self.file("limits.warm", self.bytes.0)?;
        let file = File::open(&path).map_err(BenchError::machine(path.display()))?;
        let mut sink = vec![0; SEND_BYTES];
        let mut at = 0;
        while at < bytes {
            at += file.read_at(&mut sink, at).map_err(BenchError::machine(path.display()))?.max(1) as u64;
        }
        let stop = AtomicBool::new(false);
        let serve = |index: usize, meter: &Meter, stream: &TcpStream| {
            let mut offset = 0;
            while !stop.load(Ordering::Relaxed) {
                rustix::fs::sendfile(stream, &file, Some(&mut offset), SEND_BYTES)?;
                meter.used(index);
                if offset >= bytes {
                    offset = 0;
                }
            }
            Ok(())
        };
        let watch = |meter: &Meter| {
            let floor = meter.measure(seconds);
            stop.store(true, Ordering::Relaxed);
            floor
        };
        Ok(self.send(connections, serve, watch)?.0)
    }

    /// Sends a file that is not in the page cache, once, each connection its part; a thread for each reads ahead.
    pub fn sendfile_cold(&mut self, connections: usize) -> Result<Floor, BenchError> {
        let path = self.file("limits.cold", self.bytes.1)?;
        let file = File::open(&path).map_err(BenchError::machine(path.display()))?;
        machine::drop_from_page_cache(&file).map_err(BenchError::machine(path.display()))?;
        let share = self.bytes.1 / connections as u64;
        let serve = |index: usize, meter: &Meter, stream: &TcpStream| {
            let (mut offset, end) = (index as u64 * share, (index as u64 + 1) * share);
            let sent = AtomicU64::new(offset);
            std::thread::scope(|scope| {
                let ahead = scope.spawn(|| read_ahead(&file, &sent, end, || meter.used(connections + index)));
                while offset < end {
                    let wanted = SEND_BYTES.min((end - offset) as usize);
                    if rustix::fs::sendfile(stream, &file, Some(&mut offset), wanted)? == 0 {
                        return Err(BenchError::Machine("the file is shorter than it was".to_string()));
                    }
                    sent.store(offset, Ordering::Relaxed);
                    ahead.thread().unpark();
                    meter.used(index);
                }
                ahead.join().expect("the reading ahead does not panic")
            })
        };
        let begun = Instant::now();
        let watch = |meter: &Meter| {
            let received = || meter.bytes.load(Ordering::Relaxed);
            while received() < share * connections as u64 && !meter.failed.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_micros(200));
            }
            Floor { seconds: begun.elapsed().as_secs_f64(), bytes: received(), cpu: Duration::ZERO, latency: None }
        };
        let (floor, cpu) = self.send(connections, serve, watch)?;
        Ok(Floor { cpu, ..floor })
    }

    /// Runs `serve` in a thread for each connection, with as many threads that receive and discard, and `watch` beside
    /// them; returns also the processor time that the servers have used in all.
    fn send(
        &self,
        connections: usize,
        serve: impl Fn(usize, &Meter, &TcpStream) -> Result<(), BenchError> + Sync,
        watch: impl FnOnce(&Meter) -> Floor,
    ) -> Result<(Floor, Duration), BenchError> {
        let (server, load) = self.connect(connections)?;
        let meter = Meter::new(2 * connections);
        let (serve, counted, placement) = (&serve, &meter, &self.placement);
        std::thread::scope(|scope| {
            let mut threads = Vec::new();
            for (index, stream) in server.into_iter().enumerate() {
                threads.push(scope.spawn(move || -> Result<(), BenchError> {
                    let served = machine::confine(&placement.server).and_then(|()| serve(index, counted, &stream));
                    counted.failed.fetch_or(served.is_err(), Ordering::Relaxed);
                    let _ = stream.shutdown(Shutdown::Write);
                    served
                }));
            }
            for mut stream in load {
                threads.push(scope.spawn(move || -> Result<(), BenchError> {
                    machine::confine(&placement.load)?;
                    let mut buffer = vec![0; SEND_BYTES];
                    loop {
                        match stream.read(&mut buffer)? {
                            0 => return Ok(()),
                            read => counted.bytes.fetch_add(read as u64, Ordering::Relaxed),
                        };
                    }
                }));
            }
            let floor = watch(counted);
            join(threads)?;
            Ok((floor, counted.cpu()))
        })
    }

    /// Connects sockets to each other: the servers' ends, and the load's.
    fn connect(&self, connections: usize) -> Result<(Vec<TcpStream>, Vec<TcpStream>), BenchError> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (mut servers, mut loads) = (Vec::new(), Vec::new());
        for _ in 0..connections {
            let load = TcpStream::connect(listener.local_addr()?)?;
            let server = listener.accept()?.0;
            for stream in [&load, &server] {
                stream.set_nodelay(true)?;
                if let Some(name) = &self.congestion {
                    rustix::net::sockopt::set_tcp_congestion(stream, name).map_err(|error| {
                        BenchError::Options(format!("congestion control {name} cannot be set: {error}"))
                    })?;
                }
            }
            servers.push(server);
            loads.push(load);
        }
        Ok((servers, loads))
    }

    /// A file of this size, every byte of it written and on the disk.
    fn file(&self, name: &str, bytes: u64) -> Result<PathBuf, BenchError> {
        let path = self.directory.join(name);
        if std::fs::metadata(&path).is_ok_and(|metadata| metadata.len() == bytes) {
            return Ok(path);
        }
        let mut file = File::create(&path).map_err(BenchError::machine(path.display()))?;
        let piece = noise(SEND_BYTES);
        let mut left = bytes;
        while left > 0 {
            let piece = &piece[..left.min(SEND_BYTES as u64) as usize];
            file.write_all(piece).map_err(BenchError::machine(path.display()))?;
            left -= piece.len() as u64;
        }
        file.sync_all().map_err(BenchError::machine(path.display()))?;
        Ok(path)
    }
}

/// What the threads of a loop have done so far.
struct Meter {
    bytes: AtomicU64,
    /// Processor time of each server thread, nanoseconds, as of its last piece.
    cpu: Vec<AtomicU64>,
    failed: AtomicBool,
}

impl Meter {
    fn new(threads: usize) -> Meter {
        let cpu = (0..threads).map(|_| AtomicU64::new(0)).collect();
        Meter { bytes: AtomicU64::new(0), cpu, failed: AtomicBool::new(false) }
    }

    /// Notes what the calling server thread has used.
    fn used(&self, thread: usize) {
        self.cpu[thread].store(machine::thread_cpu().as_nanos() as u64, Ordering::Relaxed);
    }

    fn cpu(&self) -> Duration {
        Duration::from_nanos(self.cpu.iter().map(|used| used.load(Ordering::Relaxed)).sum())
    }

    /// Lets the threads warm up, and measures them for this time.
    fn measure(&self, time: Duration) -> Floor {
        std::thread::sleep(time.mul_f64(WARM_UP_SHARE));
        let (begun, bytes, cpu) = (Instant::now(), self.bytes.load(Ordering::Relaxed), self.cpu());
        std::thread::sleep(time);
        Floor {
            seconds: begun.elapsed().as_secs_f64(),
            bytes: self.bytes.load(Ordering::Relaxed) - bytes,
            cpu: self.cpu() - cpu,
            latency: None,
        }
    }
}

/// The first error of any thread.
fn join(threads: Vec<std::thread::ScopedJoinHandle<'_, Result<(), BenchError>>>) -> Result<(), BenchError> {
    let ended: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("no thread of a loop panics")).collect();
    ended.into_iter().collect()
}

/// Has the file read into the page cache, `AHEAD_BYTES` before what has been sent.
fn read_ahead(file: &File, sent: &AtomicU64, end: u64, done: impl Fn()) -> Result<(), BenchError> {
    let mut at = sent.load(Ordering::Relaxed);
    while at < end {
        if at >= sent.load(Ordering::Relaxed) + AHEAD_BYTES {
            std::thread::park_timeout(Duration::from_millis(10));
            continue;
        }
        let step = NonZeroU64::new(AHEAD_STEP_BYTES.min(end - at));
        rustix::fs::fadvise(file, at, step, rustix::fs::Advice::WillNeed)?;
        at += AHEAD_STEP_BYTES;
        done();
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

/// Bytes that nothing could shrink.
fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let next = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    });
    next.take(bytes).collect()
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

    /// Every loop runs, ends, and leaves no file, in a file system that knows O_DIRECT.
    #[test]
    fn the_loops_run_and_clean_up() {
        let directory =
            Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../target/limits-test.{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let placement = Placement::new(None, None).unwrap();
        let mut limits = Limits::new(&directory, placement, None, (4 << 20, 4 << 20));
        let short = Duration::from_millis(30);
        let cut = Cut { piece_bytes: 256 << 10, depth: 2 };
        for floor in [
            limits.ingest(2, cut, short),
            limits.ping_pong(false, short),
            limits.ping_pong(true, short),
            limits.sendfile_warm(2, short),
            limits.sendfile_cold(2),
        ] {
            let floor = floor.unwrap();
            assert!(floor.bytes > 0 && floor.seconds > 0.0, "{floor}");
        }
        drop(limits);
        assert_eq!(std::fs::read_dir(&directory).unwrap().count(), 0);
        std::fs::remove_dir(&directory).unwrap();
    }
}
