//! A few plain threads for file operations that block. Their results come back through mailboxes.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use super::sys;

/// The longest slice there is. The scheduler (EEVDF) prefers whoever asks for a shorter one: a thread that wakes takes the
/// processor from one with this slice at once, and does not wait for the next tick.
const NICE_SLICE: Duration = Duration::from_millis(100);

type Job = Box<dyn FnOnce() + Send>;

/// A fixed number of threads and one queue. The queue is bounded by what the shards have under way. The threads live as
/// long as the process: what was given to them is executed even when every handle is gone.
#[derive(Clone)]
pub struct Pool {
    queue: Arc<Queue>,
}

#[derive(Default)]
struct Queue {
    jobs: Mutex<VecDeque<Job>>,
    arrived: Condvar,
}

impl Pool {
    /// Starts `threads` threads named `name`. A `niceness` above 0 (at most 19) has them run when a core has nothing more
    /// urgent to do.
    pub fn start(name: &str, threads: usize, niceness: i32) -> std::io::Result<Pool> {
        assert!(threads > 0);
        let queue = Arc::new(Queue::default());
        for _ in 0..threads {
            let queue = Arc::clone(&queue);
            std::thread::Builder::new().name(name.to_owned()).spawn(move || {
                if niceness > 0 {
                    sys::set_niceness(niceness, NICE_SLICE);
                }
                queue.work();
            })?;
        }
        Ok(Pool { queue })
    }

    /// Executes the job on one of the threads, in the order of calls when there is but one thread.
    pub fn run(&self, job: impl FnOnce() + Send + 'static) {
        self.queue.jobs.lock().unwrap_or_else(PoisonError::into_inner).push_back(Box::new(job));
        self.queue.arrived.notify_one();
    }

    /// Jobs that wait for a thread.
    pub fn waiting(&self) -> usize {
        self.queue.jobs.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Queue {
    fn work(&self) {
        loop {
            let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
            let job = loop {
                match jobs.pop_front() {
                    Some(job) => break job,
                    None => jobs = self.arrived.wait(jobs).unwrap_or_else(PoisonError::into_inner),
                }
            };
            drop(jobs);
            job();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn every_job_runs() {
        let pool = Pool::start("test", 2, 0).expect("threads");
        let (sender, receiver) = mpsc::channel();
        for job in 0..100 {
            let sender = sender.clone();
            pool.run(move || sender.send(job).expect("the test waits"));
        }
        drop(sender);
        let mut done: Vec<i32> = receiver.iter().collect();
        done.sort_unstable();
        assert_eq!(done, (0..100).collect::<Vec<_>>());
        assert_eq!(pool.waiting(), 0);
    }
}
