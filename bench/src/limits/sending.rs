//! Sending what is in the page cache, and what is on the disk only.

use std::fs::File;
use std::io::Read;
use std::net::{Shutdown, TcpStream};
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::BenchError;
use crate::limits::meter::{Meter, join};
use crate::limits::{Floor, Limits, SEND_BYTES, WARM_FILE};
use crate::machine;

/// How far the reading ahead of a cold file is ahead, and in which steps.
const AHEAD_BYTES: u64 = 32 << 20;
const AHEAD_STEP_BYTES: u64 = 4 << 20;

impl Limits {
    /// Sends a file that is in the page cache, over and over.
    pub fn sendfile_warm(&mut self, connections: usize, seconds: Duration) -> Result<Floor, BenchError> {
        // Not all of it: brokers are asked for topics that fit, too.
        let bytes = self.bytes.0.min(256 << 20);
        let path = self.file(WARM_FILE, self.bytes.0)?;
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
            while meter.bytes() < share * connections as u64 && !meter.failed.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_micros(200));
            }
            Floor { seconds: begun.elapsed().as_secs_f64(), bytes: meter.bytes(), cpu: Duration::ZERO, latency: None }
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
        let meter = Meter::new(1, 2 * connections);
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
                            read => counted.did(0, read),
                        }
                    }
                }));
            }
            let floor = watch(counted);
            join(threads)?;
            Ok((floor, counted.cpu()))
        })
    }
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
