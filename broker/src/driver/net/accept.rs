//! Accepts connections, or refuses them: too many, too fast, or no memory for more.

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use super::super::clock::Clock;
use super::super::limits::{Admission, ConnectionLimits};
use super::super::memory::Pressure;
use super::super::ring::{Ring, Watch};
use super::super::sys;
use super::NetOptions;
use crate::metrics::{Kind, Sample};

/// Connections that are accepted before the others get their turn.
const ACCEPTED_AT_ONCE_MAX: usize = 64;
/// How long accepting rests after an error, such as too many open files, or when there are as many connections as there
/// may be.
pub(super) const ACCEPT_REST: Duration = Duration::from_millis(100);
/// The longest that accepting rests at once because connections come too fast: the limit may change.
const ACCEPT_REST_MAX: Duration = Duration::from_secs(1);
/// Connections that are kept, unread, to be closed later because their address opens them too fast. More are closed at
/// once.
const TOO_FAST_KEPT_MAX: usize = 1024;
/// The longest that one of them is kept.
const TOO_FAST_TIME_MAX: Duration = Duration::from_secs(10);

/// Connections of one shard that are taken beyond the limits of clients, at the listener of brokers: as long as they have not
/// said whether they are of a node, and [`super::greet::GREETING_MAX`] at most.
pub(super) const UNCOUNTED_MAX: usize = 16;

/// A listening socket.
struct Listener {
    socket: TcpListener,
    /// Its place in the configuration.
    number: usize,
    /// Connections wait.
    is_ready: bool,
    /// After an error, such as too many open files, it rests until then.
    rests_until: Option<Instant>,
}

/// A connection that has been let in.
pub(super) struct Accepted {
    /// The place of its listener in the configuration.
    pub listener: usize,
    pub stream: TcpStream,
    pub peer: SocketAddr,
    /// It is one of those that the limits count. The others are taken only to see whether they are of a node.
    pub is_counted: bool,
}

/// A connection that the kernel has handed out.
struct Coming {
    stream: TcpStream,
    peer: SocketAddr,
    /// There are as many as there may be already.
    is_beyond: bool,
    /// It may be let in all the same, to see whether it is of a node.
    may_exceed: bool,
}

/// A shard's listening sockets.
#[derive(Default)]
pub(super) struct Listeners {
    listeners: Vec<Listener>,
    has_stopped: bool,
    /// Refused connections, by when they are closed.
    too_fast: Vec<(Instant, TcpStream)>,
    accepted: u64,
    refused: u64,
}

impl Listeners {
    /// Accepts connections on a listening socket, the `number`th of the configuration.
    pub fn add(&mut self, ring: &mut Ring, number: usize, socket: OwnedFd) -> io::Result<()> {
        let socket = TcpListener::from(socket);
        socket.set_nonblocking(true)?;
        ring.watch(&socket, Watch::Accept, self.listeners.len() as u64);
        self.listeners.push(Listener { socket, number, is_ready: false, rests_until: None });
        Ok(())
    }

    /// Accepts no more connections.
    pub fn stop(&mut self) {
        self.has_stopped = true;
    }

    /// Connections wait at a socket.
    pub fn ready(&mut self, ring: &mut Ring, key: u64, must_renew: bool) {
        let listener = &mut self.listeners[key as usize];
        listener.is_ready = true;
        if must_renew {
            ring.watch(&listener.socket, Watch::Accept, key);
        }
    }

    /// Whether connections wait that may be accepted.
    pub fn are_due(&self) -> bool {
        self.listeners.iter().any(|listener| listener.is_ready && listener.rests_until.is_none())
    }

    /// Whether one rests: nobody wakes for it.
    pub fn any_rests(&self) -> bool {
        self.listeners.iter().any(|listener| listener.rests_until.is_some())
    }

    /// Accepts what waits, a share of it, and gives what is let in to `admitted`.
    pub fn accept(
        &mut self,
        limits: &ConnectionLimits,
        options: &NetOptions,
        clock: Clock,
        mut uncounted: usize,
        mut admitted: impl FnMut(Accepted),
    ) {
        for place in 0..self.listeners.len() {
            let listener = &mut self.listeners[place];
            if !listener.is_ready || listener.rests_until.is_some_and(|until| Instant::now() < until) {
                continue;
            }
            listener.rests_until = None;
            for _ in 0..ACCEPTED_AT_ONCE_MAX {
                let listener = &mut self.listeners[place];
                let is_for_peers = options.peers.is_some_and(|peers| peers.listener == listener.number);
                let may_exceed = is_for_peers && uncounted < UNCOUNTED_MAX;
                let Some(coming) = listener.next(limits, clock, may_exceed) else { break };
                let (listener, peer) = (listener.number, coming.peer);
                // After the stop the kernel may still hand out one that waited: dropping it closes it.
                if !self.has_stopped
                    && let Some((stream, is_counted)) = self.admit(limits, options, clock, coming)
                {
                    uncounted += usize::from(!is_counted);
                    admitted(Accepted { listener, stream, peer, is_counted });
                }
            }
        }
    }

    /// Lets a connection in, counted or not.
    fn admit(
        &mut self,
        limits: &ConnectionLimits,
        options: &NetOptions,
        clock: Clock,
        coming: Coming,
    ) -> Option<(TcpStream, bool)> {
        let Coming { stream, peer, is_beyond, may_exceed } = coming;
        // A peer that has gone already; dropping the stream closes it.
        sys::prepare_connection(&stream, options.buffers).ok()?;
        let admission = match options.memory.pressure() {
            _ if is_beyond => Admission::TooMany,
            Pressure::Full => Admission::TooMany,
            _ => limits.admit(clock.elapsed(), peer.ip()),
        };
        if admission == Admission::Admitted {
            self.accepted += 1;
            return Some((stream, true));
        }
        if may_exceed {
            return Some((stream, false));
        }
        self.refused += 1;
        if let Admission::TooFast(wait) = admission
            && self.too_fast.len() < TOO_FAST_KEPT_MAX
        {
            self.too_fast.push((Instant::now() + wait.min(TOO_FAST_TIME_MAX), stream));
        }
        None
    }

    /// Closes the refused connections whose time has come.
    pub fn close_refused(&mut self, now: Instant) {
        self.too_fast.retain(|(until, _)| now < *until);
    }

    /// Counters for a scrape.
    pub fn samples(&self, samples: &mut Vec<Sample>) {
        let mut sample = |name, help, value: u64| {
            samples.push(Sample { name, help, kind: Kind::Counter, labels: Vec::new(), value: value as f64 });
        };
        sample("millstream_connections_accepted_total", "Connections accepted.", self.accepted);
        let help = "Connections closed at once: max.connections.per.ip, or the connection rate of their address.";
        sample("millstream_connections_refused_total", help, self.refused);
    }
}

impl Listener {
    /// The next connection that waits, if one may be accepted now.
    fn next(&mut self, limits: &ConnectionLimits, clock: Clock, may_exceed: bool) -> Option<Coming> {
        let wait = limits.must_wait(clock.elapsed());
        if let Some(wait) = wait
            && !may_exceed
        {
            self.rests_until = Some(Instant::now() + wait.clamp(ACCEPT_REST, ACCEPT_REST_MAX));
            return None;
        }
        match self.socket.accept() {
            Ok((stream, peer)) => Some(Coming { stream, peer, is_beyond: wait.is_some(), may_exceed }),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                self.is_ready = false;
                None
            }
            // The peer has gone already, or there are no descriptors or no memory. Trying again at once would spin.
            Err(_) => {
                self.rests_until = Some(Instant::now() + ACCEPT_REST);
                None
            }
        }
    }
}
