//! What the threads of a loop have done and used so far.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::error::BenchError;
use crate::limits::{Floor, WARM_UP_SHARE};
use crate::machine;

/// What the threads of a loop have done so far.
pub struct Meter {
    /// Bytes that each replica has done.
    bytes: Vec<AtomicU64>,
    /// Processor time of each server thread, nanoseconds, as of its last piece.
    cpu: Vec<AtomicU64>,
    pub failed: AtomicBool,
}

impl Meter {
    pub fn new(replicas: usize, threads: usize) -> Meter {
        let zeros = |count: usize| (0..count).map(|_| AtomicU64::new(0)).collect();
        Meter { bytes: zeros(replicas), cpu: zeros(threads), failed: AtomicBool::new(false) }
    }

    /// Notes that a replica has done so many bytes more.
    pub fn did(&self, replica: usize, bytes: usize) {
        self.bytes[replica].fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// What each replica has done.
    fn each(&self) -> Vec<u64> {
        self.bytes.iter().map(|bytes| bytes.load(Ordering::Relaxed)).collect()
    }

    /// What all replicas have done.
    pub fn bytes(&self) -> u64 {
        self.each().into_iter().min().unwrap_or(0)
    }

    /// Notes what the calling server thread has used.
    pub fn used(&self, thread: usize) {
        self.cpu[thread].store(machine::thread_cpu().as_nanos() as u64, Ordering::Relaxed);
    }

    pub fn cpu(&self) -> Duration {
        Duration::from_nanos(self.cpu.iter().map(|used| used.load(Ordering::Relaxed)).sum())
    }

    /// Lets the threads warm up, and measures them for this time: what the slowest replica does in it.
    pub fn measure(&self, time: Duration) -> Floor {
        std::thread::sleep(time.mul_f64(WARM_UP_SHARE));
        let (begun, bytes, cpu) = (Instant::now(), self.each(), self.cpu());
        std::thread::sleep(time);
        let did = self.each().into_iter().zip(bytes).map(|(after, before)| after - before);
        Floor {
            seconds: begun.elapsed().as_secs_f64(),
            bytes: did.min().unwrap_or(0),
            cpu: self.cpu() - cpu,
            latency: None,
        }
    }
}

/// The first error of any thread.
pub fn join(threads: Vec<std::thread::ScopedJoinHandle<'_, Result<(), BenchError>>>) -> Result<(), BenchError> {
    let ended: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("no thread of a loop panics")).collect();
    ended.into_iter().collect()
}
