//! The event loop of one load thread: epoll over non-blocking connections. What they send and what they make of the
//! answers is the `Session`'s.

use std::time::{Duration, Instant};

use rustix::event::{Timespec, epoll};
use rustix::fd::OwnedFd;

use crate::connection::Socket;
use crate::error::BenchError;

/// Events taken in one turn.
const EVENTS_MAX: usize = 256;
/// The longest sleep, so that a run that should end does.
const SLEEP_MAX: Duration = Duration::from_millis(100);

/// What a session waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// An answer, or the time of its next request.
    Read,
    /// Room in the socket too: a request is half written.
    Write,
    /// Nothing: it has ended.
    Done,
}

/// One connection of the load.
pub trait Session {
    fn socket(&self) -> &Socket;
    /// Takes what has arrived.
    fn receive(&mut self) -> Result<(), BenchError>;
    /// Sends what is due by now and may be under way.
    fn send(&mut self) -> Result<Waits, BenchError>;
    /// When its request of this index is due at a fixed rate, sent or not; `None`: there is no such time.
    fn due(&self, index: u64) -> Option<Instant>;
}

/// Runs sessions until all are done or `deadline` has come. With `spin` it never sleeps.
///
/// Sessions with a fixed rate have the same interval and are in the order in which their first requests are due: the
/// loop looks at them in turn.
pub fn drive<S: Session>(sessions: &mut [S], spin: bool, deadline: Instant) -> Result<(), BenchError> {
    // Sleeps end when they should, not up to 50 µs later: PR_SET_TIMERSLACK in prctl(2).
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    let mut poller = Poller::new(sessions)?;
    for (index, session) in sessions.iter_mut().enumerate() {
        poller.send(index, session)?;
    }
    let mut events = Vec::with_capacity(EVENTS_MAX);
    // Request `tick / sessions` of session `tick % sessions` is the next that becomes due.
    let mut tick = 0;
    while poller.running > 0 {
        let mut now = Instant::now();
        if now >= deadline {
            break;
        }
        let mut next = None;
        for _ in 0..sessions.len() {
            let index = tick % sessions.len();
            next = sessions[index].due((tick / sessions.len()) as u64);
            if next.is_none_or(|due| due > now) {
                break;
            }
            poller.send(index, &mut sessions[index])?;
            tick += 1;
            now = Instant::now();
        }
        let sleep = match next {
            _ if spin => Duration::ZERO,
            Some(due) => due.saturating_duration_since(now).min(SLEEP_MAX),
            None => SLEEP_MAX,
        };
        poller.wait(sleep, &mut events)?;
        if spin && events.is_empty() {
            // The kernel completes the disk's writes on whatever core their interrupts come to: kept from it for a
            // tick, a durable broker would wait for our polling.
            std::thread::yield_now();
        }
        for (index, readable) in events.drain(..) {
            if readable {
                sessions[index].receive()?;
            }
            poller.send(index, &mut sessions[index])?;
        }
    }
    Ok(())
}

/// The connections' epoll instance, and what it has been told of each.
struct Poller {
    epoll: OwnedFd,
    waits: Vec<Waits>,
    /// Sessions that are not done.
    running: usize,
}

impl Poller {
    fn new<S: Session>(sessions: &[S]) -> Result<Poller, BenchError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        for (index, session) in sessions.iter().enumerate() {
            let data = epoll::EventData::new_u64(index as u64);
            epoll::add(&epoll, session.socket().stream(), data, epoll::EventFlags::IN)?;
        }
        Ok(Poller { epoll, waits: vec![Waits::Read; sessions.len()], running: sessions.len() })
    }

    /// Lets a session send, and watches its connection for what it then waits for.
    fn send<S: Session>(&mut self, index: usize, session: &mut S) -> Result<(), BenchError> {
        let before = self.waits[index];
        if before == Waits::Done {
            return Ok(());
        }
        let waits = session.send()?;
        if waits == before {
            return Ok(());
        }
        self.waits[index] = waits;
        let stream = session.socket().stream();
        let data = epoll::EventData::new_u64(index as u64);
        match waits {
            Waits::Read => epoll::modify(&self.epoll, stream, data, epoll::EventFlags::IN)?,
            Waits::Write => epoll::modify(&self.epoll, stream, data, epoll::EventFlags::IN | epoll::EventFlags::OUT)?,
            Waits::Done => {
                self.running -= 1;
                epoll::delete(&self.epoll, stream)?;
            }
        }
        Ok(())
    }

    /// Appends the sessions that can go on, each with whether its connection has something to read.
    fn wait(&self, sleep: Duration, ready: &mut Vec<(usize, bool)>) -> Result<(), BenchError> {
        let timeout = Timespec::try_from(sleep).expect("100 ms at most");
        let mut buffer = [EMPTY; EVENTS_MAX];
        let taken = match epoll::wait(&self.epoll, &mut buffer, Some(&timeout)) {
            Err(rustix::io::Errno::INTR) => 0,
            taken => taken?,
        };
        // A connection that broke is read, too: that says why.
        ready.extend(
            buffer[..taken]
                .iter()
                .map(|event| ({ event.data }.u64() as usize, { event.flags } != epoll::EventFlags::OUT)),
        );
        Ok(())
    }
}

const EMPTY: epoll::Event = epoll::Event { flags: epoll::EventFlags::empty(), data: epoll::EventData::new_u64(0) };
