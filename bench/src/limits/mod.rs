//! What this machine could do at best: bare loops that do only what no durable log broker can leave out. Servers and load
//! are threads of this process, confined to the same processors as brokers and load are in `compare`.
//!
//! Every file is written, and every buffer touched, before anything is measured: on a virtual machine whose free memory
//! goes back to its host, the first use of a page costs many times the next one.

mod durable;
mod meter;
mod sending;

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use hdrhistogram::Histogram;

use crate::error::BenchError;
use crate::load;
use crate::machine::{self, Placement};

pub use durable::Cut;

/// What one sendfile call, one read of the load, and one write of a new file takes.
const SEND_BYTES: usize = 1 << 20;
/// The file that is written to and sent from; those of further replicas are named after it.
const WARM_FILE: &str = "limits.warm";
/// The share of a measurement's time that warms it up first.
const WARM_UP_SHARE: f64 = 0.25;
/// The longest that is tried for each way to cut durable writes.
const CUT_TRY: Duration = Duration::from_millis(300);

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
    /// Replicas of the loops that a cluster is held against: the first receives every byte and sends it on over loopback
    /// to each other one, and each writes all of it durably to a file of its own on this disk. What counts is on all of them;
    /// processor time is that of all. 1 leaves these loops out.
    #[arg(long, default_value_t = 3, value_parser = load::replicas)]
    replicas: usize,
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

/// The `limits` command: all of them, a line each.
pub fn run(options: &Options) -> Result<(), BenchError> {
    let placement = Placement::new(options.server_cpus.as_deref(), options.load_cpus.as_deref())?;
    let sizes = (options.file_mebibytes << 20, options.cold_mebibytes << 20);
    let mut limits = Limits::new(&options.directory, placement, options.congestion.clone(), sizes);
    let (connections, seconds) = (options.connections, Duration::from_secs_f64(options.seconds));
    println!("{}", machine::description());
    println!("congestion control {}", options.congestion.clone().unwrap_or_else(machine::congestion_control));
    let mut all = vec![1, options.replicas];
    all.dedup();
    for &replicas in &all {
        let cut = limits.fastest_cut(replicas, connections, CUT_TRY.min(seconds))?;
        let floor = limits.ingest(replicas, connections, cut, seconds)?;
        println!("durable ingest{}, {connections} connections, {cut}: {floor}", of(replicas));
    }
    for &replicas in &all {
        println!("one 1 KiB message and one durable 4 KiB write at a time{}:", of(replicas));
        for (spin, what) in [(false, "blocking"), (true, "busy-polling")] {
            println!("  {what} server: {}", limits.ping_pong(replicas, spin, seconds)?);
        }
    }
    for connections in [1, connections] {
        println!("sendfile from memory, {connections} connections: {}", limits.sendfile_warm(connections, seconds)?);
        println!("sendfile from the disk, {connections} connections: {}", limits.sendfile_cold(connections)?);
    }
    Ok(())
}

/// What a line says of several replicas.
fn of(replicas: usize) -> String {
    if replicas == 1 { String::new() } else { format!(" by {replicas} replicas") }
}

/// The bare loops and their files, which are written when they are first needed and removed at the end.
pub struct Limits {
    directory: PathBuf,
    placement: Placement,
    congestion: Option<String>,
    /// Of the files that are written to and sent from, and of that which is sent from the disk.
    bytes: (u64, u64),
    /// The fastest way to cut durable writes of so many replicas, once it has been looked for.
    cuts: HashMap<usize, Cut>,
    files: Vec<PathBuf>,
}

impl Drop for Limits {
    fn drop(&mut self) {
        for path in &self.files {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Limits {
    pub fn new(directory: &Path, placement: Placement, congestion: Option<String>, bytes: (u64, u64)) -> Limits {
        let (directory, cuts, files) = (directory.to_path_buf(), HashMap::new(), Vec::new());
        Limits { directory, placement, congestion, bytes, cuts, files }
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
    fn file(&mut self, name: &str, bytes: u64) -> Result<PathBuf, BenchError> {
        let path = self.directory.join(name);
        if !self.files.contains(&path) {
            self.files.push(path.clone());
        }
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

#[cfg(test)]
mod tests {
    use super::*;

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
            limits.ingest(1, 2, cut, short),
            limits.ingest(3, 2, cut, short),
            limits.ping_pong(1, false, short),
            limits.ping_pong(1, true, short),
            limits.ping_pong(3, false, short),
            limits.ping_pong(3, true, short),
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
