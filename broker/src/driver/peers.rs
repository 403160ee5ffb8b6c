//! The sockets of a node's own thread: connections to and from its peers, as [`crate::peer::links`] wants them.
//!
//! One thread waits for all of them and for what other threads have to say ([`Peers::waker`]). Nothing here blocks it but
//! [`Peers::wait`]: names are looked up by threads of their own, connections are made and written to as far as that is
//! possible at once.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, IoSlice, Read};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::task::{Wake, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::Errno;

use super::clock::Clock;
use super::names::{Name, NameThreads, Names};
use super::sys::{self, SocketBuffers};
use crate::peer::frame::{FIRST_FRAME_BYTES_MAX, FRAME_BYTES_MAX, cut};
use crate::peer::links::{DialError, Effect, Event, LinkId};

/// How long a connection may take to be made, the look-up of the name included.
pub(super) const DIAL_MAX: Duration = Duration::from_secs(1);
/// A connection to which more bytes than this wait to be sent is closed instead of being given another message. What waits
/// may be as much and one message.
const QUEUED_BYTES_MAX: usize = 64 << 20;
/// Connections that are accepted before the others get their turn.
const ACCEPTED_AT_ONCE_MAX: usize = 16;
/// How long accepting rests after an error, such as too many open files.
const ACCEPT_REST: Duration = Duration::from_millis(100);
/// What is read at a time...
const READ_BYTES: usize = 64 * 1024;
/// ...and how often, before other connections get their turn.
const READS_AT_ONCE_MAX: usize = 16;
/// Slices that are written at a time.
const SLICES_MAX: usize = 16;

/// All sockets of the node's thread.
pub struct Peers {
    clock: Clock,
    wake_up: Arc<WakeUp>,
    listeners: Vec<TcpListener>,
    /// Nothing is accepted before.
    rests_until: Option<Duration>,
    accepted: u64,
    dials: BTreeMap<LinkId, Dial>,
    connections: BTreeMap<LinkId, Connection>,
    names: Names,
    name_threads: NameThreads,
    found: Receiver<(Name, Option<SocketAddr>)>,
    /// To be given out by the next wait.
    happened: Vec<Event>,
    buffer: Vec<u8>,
}

/// A connection that is being made.
struct Dial {
    /// It has failed then.
    until: Duration,
    /// `None`: the name is being looked up.
    socket: Option<TcpStream>,
}

struct Connection {
    socket: TcpStream,
    /// Of a frame that is not complete.
    input: BytesMut,
    has_greeted: bool,
    output: VecDeque<Bytes>,
    queued_bytes: usize,
}

/// What the thread waits for.
#[derive(Clone, Copy)]
enum Source {
    WakeUp,
    Listener(usize),
    Dial(LinkId),
    Connection(LinkId),
}

/// Ends a wait from another thread.
struct WakeUp(OwnedFd);

impl Wake for WakeUp {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // It fails only if it is signalled 2^64 times already.
        let _ = rustix::io::write(&self.0, &1u64.to_ne_bytes());
    }
}

impl Peers {
    /// Listens on sockets that are bound already; none for a node that is alone.
    pub fn listen(clock: Clock, sockets: Vec<OwnedFd>, backlog: i32) -> io::Result<Peers> {
        let mut listeners = Vec::new();
        for socket in sockets {
            sys::listen(&socket, backlog)?;
            let listener = TcpListener::from(socket);
            listener.set_nonblocking(true)?;
            listeners.push(listener);
        }
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let wake_up = Arc::new(WakeUp(event));
        let name_threads = NameThreads::default();
        let (names, found) = names(&name_threads, &wake_up);
        Ok(Peers {
            clock,
            wake_up,
            listeners,
            rests_until: None,
            accepted: 0,
            dials: BTreeMap::new(),
            connections: BTreeMap::new(),
            names,
            name_threads,
            found,
            happened: Vec::new(),
            buffer: vec![0; READ_BYTES],
        })
    }

    /// Ends a wait, or the next one: for a [`super::mailbox::Mailbox`] that the thread drains after each.
    pub fn waker(&self) -> Waker {
        Waker::from(Arc::clone(&self.wake_up))
    }

    /// Waits until something has happened, somebody wakes it, or this time of the clock has come; it may also return before.
    /// Adds to `events` what has happened. Returns whether it was woken.
    pub fn wait(&mut self, deadline: Option<Duration>, events: &mut Vec<Event>) -> bool {
        let ready = self.poll(deadline);
        let mut was_woken = false;
        for (source, flags) in ready {
            match source {
                Source::WakeUp => {
                    // Cleared before anybody looks for what it was for.
                    let _ = rustix::io::read(&self.wake_up.0, &mut [0; 8]);
                    was_woken = true;
                }
                Source::Listener(index) => self.accept(index),
                Source::Dial(link) => self.connected(link),
                Source::Connection(link) => {
                    if flags.contains(PollFlags::OUT) {
                        self.write(link);
                    }
                    if flags.intersects(!PollFlags::OUT) {
                        self.read(link);
                    }
                }
            }
        }
        self.connect_to_names();
        let now = self.clock.elapsed();
        self.rests_until = self.rests_until.filter(|until| *until > now);
        let late = self.dials.iter().filter(|(_, dial)| dial.until <= now).map(|(link, _)| *link);
        for link in late.collect::<Vec<_>>() {
            self.not_connected(link, DialError::Failed);
        }
        events.append(&mut self.happened);
        was_woken
    }

    /// Does what is to be done. What comes of it is told by the next wait.
    pub fn execute(&mut self, effect: Effect) {
        match effect {
            Effect::Dial { link, host, port } => self.dial(link, host, port),
            Effect::Send { link, bytes } => self.send(link, bytes),
            Effect::Close { link } => {
                self.dials.remove(&link);
                self.connections.remove(&link);
            }
        }
    }

    /// Closes every connection and gives up those that are being made: who wanted them is no more.
    pub fn hang_up(&mut self) {
        self.dials.clear();
        self.connections.clear();
        self.happened.clear();
        // Nobody waits for an address any more.
        (self.names, self.found) = names(&self.name_threads, &self.wake_up);
    }

    /// What is ready, after waiting for it if need be.
    fn poll(&self, deadline: Option<Duration>) -> Vec<(Source, PollFlags)> {
        let mut sources = vec![Source::WakeUp];
        let mut polled = vec![PollFd::new(&self.wake_up.0, PollFlags::IN)];
        if self.rests_until.is_none() {
            for (index, listener) in self.listeners.iter().enumerate() {
                sources.push(Source::Listener(index));
                polled.push(PollFd::new(listener, PollFlags::IN));
            }
        }
        for (link, dial) in &self.dials {
            if let Some(socket) = &dial.socket {
                sources.push(Source::Dial(*link));
                polled.push(PollFd::new(socket, PollFlags::OUT));
            }
        }
        for (link, Connection { socket, output, .. }) in &self.connections {
            let out = if output.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
            sources.push(Source::Connection(*link));
            polled.push(PollFd::new(socket, PollFlags::IN | out));
        }
        let ends = self.dials.values().map(|dial| dial.until).chain(self.rests_until).chain(deadline);
        let wait = match ends.min() {
            _ if !self.happened.is_empty() => Some(Duration::ZERO),
            Some(end) => Some(end.saturating_sub(self.clock.elapsed())),
            None => None,
        };
        let timeout = wait.map(|wait| Timespec {
            tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: wait.subsec_nanos().into(),
        });
        match rustix::event::poll(&mut polled, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Vec::new(),
            Err(error) => panic!("a process that cannot wait for its sockets cannot go on: {error}"),
        }
        let ready = sources.into_iter().zip(polled.iter().map(PollFd::revents));
        ready.filter(|(_, flags)| !flags.is_empty()).collect()
    }

    fn accept(&mut self, index: usize) {
        for _ in 0..ACCEPTED_AT_ONCE_MAX {
            match self.listeners[index].accept() {
                Ok((socket, _)) => {
                    // A peer that has gone already; dropping the socket closes it.
                    if sys::prepare_connection(&socket, SocketBuffers::default()).is_err() {
                        continue;
                    }
                    let link = LinkId(self.accepted);
                    self.accepted += 1;
                    self.connections.insert(link, Connection::new(socket));
                    self.happened.push(Event::Accepted { link });
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // The peer has gone already, or there are no descriptors or no memory. Trying again at once would spin.
                Err(_) => {
                    self.rests_until = Some(self.clock.elapsed() + ACCEPT_REST);
                    return;
                }
            }
        }
    }

    fn dial(&mut self, link: LinkId, host: String, port: u16) {
        self.dials.insert(link, Dial { until: self.clock.elapsed() + DIAL_MAX, socket: None });
        match host.parse::<IpAddr>() {
            Ok(address) => self.connect(link, SocketAddr::new(address, port)),
            Err(_) => {
                if self.names.look_up(link, host, port).is_err() {
                    self.not_connected(link, DialError::Failed);
                }
            }
        }
    }

    /// Begins the connections of which the names were looked up.
    fn connect_to_names(&mut self) {
        while let Ok((name, result)) = self.found.try_recv() {
            for link in self.names.found(&name) {
                match result {
                    _ if !self.dials.contains_key(&link) => {}
                    Some(address) => self.connect(link, address),
                    None => self.not_connected(link, DialError::Failed),
                }
            }
        }
    }

    fn connect(&mut self, link: LinkId, address: SocketAddr) {
        match sys::connect(address) {
            Ok(socket) => {
                if let Some(dial) = self.dials.get_mut(&link) {
                    dial.socket = Some(socket);
                }
            }
            Err(error) => self.not_connected(link, dial_error(&error)),
        }
    }

    fn not_connected(&mut self, link: LinkId, error: DialError) {
        self.dials.remove(&link);
        self.happened.push(Event::Dialed { link, result: Err(error) });
    }

    /// A connection was made, or was not.
    fn connected(&mut self, link: LinkId) {
        let Some(socket) = self.dials.remove(&link).and_then(|dial| dial.socket) else { return };
        let result = dialled(&socket);
        if result.is_ok() {
            self.connections.insert(link, Connection::new(socket));
        }
        self.happened.push(Event::Dialed { link, result });
    }

    fn send(&mut self, link: LinkId, bytes: Bytes) {
        let Some(connection) = self.connections.get_mut(&link) else { return };
        if connection.queued_bytes > QUEUED_BYTES_MAX {
            return self.gone(link);
        }
        let is_first = connection.output.is_empty();
        connection.queued_bytes += bytes.len();
        connection.output.push_back(bytes);
        if is_first {
            self.write(link);
        }
    }

    fn write(&mut self, link: LinkId) {
        let Some(connection) = self.connections.get_mut(&link) else { return };
        if connection.write().is_err() {
            self.gone(link);
        }
    }

    fn read(&mut self, link: LinkId) {
        let Some(connection) = self.connections.get_mut(&link) else { return };
        if connection.read(&mut self.buffer, link, &mut self.happened).is_err() {
            self.gone(link);
        }
    }

    fn gone(&mut self, link: LinkId) {
        self.connections.remove(&link);
        self.happened.push(Event::Closed { link });
    }
}

/// The connection is of no use any more: it was closed, it is broken, or nonsense came.
struct Ended;

impl Connection {
    fn new(socket: TcpStream) -> Connection {
        let output = VecDeque::new();
        Connection { socket, input: BytesMut::new(), has_greeted: false, output, queued_bytes: 0 }
    }

    /// Writes what can be written at once.
    fn write(&mut self) -> Result<(), Ended> {
        while !self.output.is_empty() {
            let slices: Vec<IoSlice<'_>> =
                self.output.iter().take(SLICES_MAX).map(|bytes| IoSlice::new(bytes)).collect();
            let mut sent = match sys::send_slices(&self.socket, &slices, false) {
                Ok(sent) => sent,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(Ended),
            };
            self.queued_bytes -= sent;
            while let Some(first) = self.output.front_mut()
                && sent > 0
            {
                let bytes = sent.min(first.len());
                first.advance(bytes);
                sent -= bytes;
                if first.is_empty() {
                    self.output.pop_front();
                }
            }
        }
        Ok(())
    }

    /// Reads what is there, a share of it.
    fn read(&mut self, buffer: &mut [u8], link: LinkId, happened: &mut Vec<Event>) -> Result<(), Ended> {
        for _ in 0..READS_AT_ONCE_MAX {
            let count = match self.socket.read(buffer) {
                Ok(0) => return Err(Ended),
                Ok(count) => count,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(_) => return Err(Ended),
            };
            self.input.extend_from_slice(&buffer[..count]);
            loop {
                let bytes_max = if self.has_greeted { FRAME_BYTES_MAX } else { FIRST_FRAME_BYTES_MAX };
                let Some(bytes) = cut(&mut self.input, bytes_max).map_err(|_| Ended)? else { break };
                self.has_greeted = true;
                happened.push(Event::Received { link, bytes });
            }
            if self.input.is_empty() {
                // Frames that are kept hold no more memory than was read with them.
                self.input = BytesMut::new();
            }
            if count < buffer.len() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Whether a socket that is ready is connected.
pub(super) fn dialled(socket: &TcpStream) -> Result<(), DialError> {
    match socket.take_error() {
        Ok(None) => match (socket.local_addr(), socket.peer_addr()) {
            // Where nobody listens at a port of the range from which sockets take theirs, one may find itself.
            (Ok(local), Ok(peer)) if local == peer => Err(DialError::Refused),
            (Ok(_), Ok(_)) => Ok(()),
            _ => Err(DialError::Failed),
        },
        Ok(Some(error)) | Err(error) => Err(dial_error(&error)),
    }
}

/// Names that are looked up, and where they are told.
fn names(threads: &NameThreads, wake_up: &Arc<WakeUp>) -> (Names, Receiver<(Name, Option<SocketAddr>)>) {
    let (sender, found) = channel();
    let wake_up = Arc::clone(wake_up);
    let names = Names::new(threads.clone(), move |name, address| {
        // The node may have stopped.
        if sender.send((name, address)).is_ok() {
            wake_up.wake_by_ref();
        }
    });
    (names, found)
}

/// Why a connection was not made.
pub(super) fn dial_error(error: &io::Error) -> DialError {
    if error.kind() == ErrorKind::ConnectionRefused { DialError::Refused } else { DialError::Failed }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::time::Instant;

    use super::super::mailbox::Mailbox;
    use super::super::sys::PortUse;
    use super::*;
    use crate::peer::frame::{Frame, PIECE_BYTES_MAX, in_pieces};
    use crate::peer::links::{Identity, Links, Told};

    /// Whatever is waited for comes long before.
    const PATIENCE: Duration = Duration::from_secs(30);

    fn bound() -> (OwnedFd, u16) {
        let any = "127.0.0.1:0".parse().expect("an address");
        let socket = sys::bind(any, PortUse::Exclusive).expect("bound");
        let port = sys::local_address(&socket).expect("bound").port();
        (socket, port)
    }

    fn listening() -> (Peers, u16) {
        let (socket, port) = bound();
        (Peers::listen(Clock::start(), vec![socket], 50).expect("it listens"), port)
    }

    fn alone() -> Peers {
        Peers::listen(Clock::start(), Vec::new(), 50).expect("it listens to nobody")
    }

    fn dial(peers: &mut Peers, number: u64, host: &str, port: u16) -> LinkId {
        let link = LinkId(1 << 63 | number);
        peers.execute(Effect::Dial { link, host: host.to_owned(), port });
        link
    }

    /// Waits for so many events.
    fn events(peers: &mut Peers, count: usize) -> Vec<Event> {
        let mut events = Vec::new();
        let start = Instant::now();
        while events.len() < count {
            assert!(start.elapsed() < PATIENCE, "{events:?}");
            peers.wait(Some(peers.clock.elapsed() + PATIENCE), &mut events);
        }
        events
    }

    /// A connection between two, with its number at either end.
    fn connection(from: &mut Peers, to: &mut Peers, port: u16) -> (LinkId, LinkId) {
        let link = dial(from, 7, "127.0.0.1", port);
        assert_eq!(events(from, 1), [Event::Dialed { link, result: Ok(()) }]);
        let [Event::Accepted { link: accepted }] = events(to, 1)[..] else { panic!("it was accepted") };
        (link, accepted)
    }

    fn frame(bytes: &'static [u8]) -> Bytes {
        Frame::Raft { is_last: true, bytes: Bytes::from_static(bytes) }.to_bytes()
    }

    #[test]
    fn frames_go_both_ways_in_order() {
        let (mut one, port) = listening();
        let mut other = alone();
        let (link, accepted) = connection(&mut other, &mut one, port);
        other.execute(Effect::Send { link, bytes: frame(b"greeting") });
        assert_eq!(events(&mut one, 1), [Event::Received { link: accepted, bytes: frame(b"greeting").slice(4..) }]);
        one.execute(Effect::Send { link: accepted, bytes: frame(b"welcome") });
        one.execute(Effect::Send { link: accepted, bytes: frame(b"and more") });
        assert_eq!(events(&mut other, 2).len(), 2);

        let long: Bytes = (0..5 * PIECE_BYTES_MAX).map(|at| (at / 11) as u8).collect();
        let bytes = in_pieces(&long, |is_last, bytes| Frame::Raft { is_last, bytes });
        other.execute(Effect::Send { link, bytes });
        other.execute(Effect::Send { link, bytes: frame(b"last") });
        let mut received = Vec::new();
        let start = Instant::now();
        while received.len() < long.len() + 4 {
            assert!(start.elapsed() < PATIENCE);
            let mut events = Vec::new();
            // What the kernel does not take at once leaves when it does.
            other.wait(Some(Duration::ZERO), &mut events);
            one.wait(Some(Duration::ZERO), &mut events);
            for event in events {
                let Event::Received { link, bytes } = event else { panic!("{event:?}") };
                assert_eq!(link, accepted);
                let Ok(Frame::Raft { bytes, .. }) = Frame::decode(&bytes) else { panic!("a piece") };
                received.extend_from_slice(&bytes);
            }
        }
        assert_eq!((&received[..long.len()], &received[long.len()..]), (&long[..], &b"last"[..]));

        // What was sent before a connection is closed arrives.
        other.execute(Effect::Send { link, bytes: frame(b"bye") });
        other.execute(Effect::Close { link });
        other.execute(Effect::Send { link, bytes: frame(b"lost") });
        let bye = Event::Received { link: accepted, bytes: frame(b"bye").slice(4..) };
        assert_eq!(events(&mut one, 2), [bye, Event::Closed { link: accepted }]);
    }

    #[test]
    fn who_hangs_up_has_no_connections_and_still_listens() {
        let (mut one, port) = listening();
        let mut other = alone();
        let (link, accepted) = connection(&mut other, &mut one, port);
        one.hang_up();
        assert_eq!(events(&mut other, 1), [Event::Closed { link }]);
        one.execute(Effect::Send { link: accepted, bytes: frame(b"lost") });
        connection(&mut other, &mut one, port);
    }

    #[test]
    fn refused_is_told_from_failed() {
        let mut peers = alone();
        // Bound, and nobody listens.
        let (_socket, port) = bound();
        let link = dial(&mut peers, 1, "127.0.0.1", port);
        assert_eq!(events(&mut peers, 1), [Event::Dialed { link, result: Err(DialError::Refused) }]);
        let link = dial(&mut peers, 2, "localhost", port);
        assert_eq!(events(&mut peers, 1), [Event::Dialed { link, result: Err(DialError::Refused) }]);
        let link = dial(&mut peers, 3, "no-such-host.invalid", port);
        assert_eq!(events(&mut peers, 1), [Event::Dialed { link, result: Err(DialError::Failed) }]);

        // Whoever does not accept, and has as many that wait as it wants.
        let full = TcpListener::from(bound().0);
        rustix::net::listen(&full, 0).expect("it listens");
        let address = full.local_addr().expect("bound");
        let waiting: Vec<_> = (0..4).map(|_| sys::connect(address).expect("begun")).collect();
        let link = dial(&mut peers, 4, "127.0.0.1", address.port());
        assert_eq!(events(&mut peers, 1), [Event::Dialed { link, result: Err(DialError::Failed) }]);
        drop(waiting);

        // Whoever does not want to know any more is told nothing.
        let link = dial(&mut peers, 5, "localhost", port);
        peers.execute(Effect::Close { link });
        let link = dial(&mut peers, 6, "localhost", port);
        assert_eq!(events(&mut peers, 1), [Event::Dialed { link, result: Err(DialError::Refused) }]);
    }

    #[test]
    fn lengths_that_cannot_be_close_the_connection() {
        let (mut peers, port) = listening();
        let first_max = FIRST_FRAME_BYTES_MAX as i32;
        let max = FRAME_BYTES_MAX as i32;
        for (first, second) in [(0, None), (-1, None), (first_max + 1, None), (1, Some(max + 1)), (1, Some(0))] {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
            let mut bytes = first.to_be_bytes().to_vec();
            if let Some(second) = second {
                bytes.push(3);
                bytes.extend(second.to_be_bytes());
            }
            stream.write_all(&bytes).expect("sent");
            let [Event::Accepted { link }, rest @ ..] = &events(&mut peers, 2 + usize::from(second.is_some()))[..]
            else {
                panic!("it was accepted")
            };
            assert_eq!(rest.last(), Some(&Event::Closed { link: *link }));
            // What was not read makes it a reset.
            assert!(matches!(stream.read(&mut [0; 1]), Ok(0) | Err(_)));
        }
        assert!(peers.connections.is_empty());
    }

    #[test]
    fn other_threads_end_a_wait() {
        let mut peers = alone();
        let mailbox = Arc::new(Mailbox::default());
        mailbox.register(&peers.waker());
        let pusher = Arc::clone(&mailbox);
        let thread = std::thread::spawn(move || (0..100).for_each(|item| pusher.push(item)));
        let (mut items, mut happened) = (Vec::new(), Vec::new());
        let start = Instant::now();
        while items.len() < 100 {
            assert!(start.elapsed() < PATIENCE, "{items:?}");
            let was_woken = peers.wait(Some(peers.clock.elapsed() + PATIENCE), &mut happened);
            assert!(was_woken, "nothing else ends it");
            mailbox.drain(&mut items);
        }
        thread.join().expect("it has pushed all");
        peers.waker().wake();
        assert!(peers.wait(None, &mut happened), "also before it begins");
        assert!(!peers.wait(Some(Duration::ZERO), &mut happened));
        assert!(happened.is_empty());
    }

    #[test]
    fn a_peer_that_takes_nothing_is_cut_off() {
        let (mut one, port) = listening();
        let mut other = alone();
        let (link, _) = connection(&mut other, &mut one, port);
        let bytes = Bytes::from(vec![0; 1 << 20]);
        let mut sent = 0;
        while other.happened.is_empty() {
            other.execute(Effect::Send { link, bytes: bytes.clone() });
            sent += bytes.len();
            assert!(sent < 4 * QUEUED_BYTES_MAX, "the kernel does not take so much");
        }
        assert!(sent > QUEUED_BYTES_MAX);
        assert_eq!(events(&mut other, 1), [Event::Closed { link }]);
        // One large message is never too much.
        let (mut third, port) = listening();
        let (link, _) = connection(&mut other, &mut third, port);
        other.execute(Effect::Send { link, bytes: Bytes::from(vec![0; 2 * QUEUED_BYTES_MAX]) });
        assert!(other.happened.is_empty());
    }

    /// A node with real sockets.
    struct Node {
        links: Links,
        peers: Peers,
        told: Vec<Told>,
    }

    impl Node {
        fn start(node_id: i32, incarnation: u8, ports: &[u16], socket: OwnedFd) -> Node {
            let identity = Identity {
                cluster_id: Some([1; 16]),
                node_id,
                directory_id: [node_id as u8; 16],
                incarnation: [incarnation; 16],
                address: None,
                is_forming: false,
            };
            let mut links = Links::new(identity, 1);
            let to = (1..).zip(ports).map(|(node_id, port)| (Some(node_id), "127.0.0.1".to_owned(), *port));
            links.set_peers(Duration::ZERO, &to.collect::<Vec<_>>());
            let peers = Peers::listen(Clock::start(), vec![socket], 50).expect("it listens");
            Node { links, peers, told: Vec::new() }
        }

        fn step(&mut self) {
            let mut events = Vec::new();
            let soon = self.peers.clock.elapsed() + Duration::from_millis(1);
            self.peers.wait(Some(self.links.next_deadline().map_or(soon, |due| due.min(soon))), &mut events);
            let now = self.peers.clock.elapsed();
            if self.links.next_deadline().is_some_and(|due| due <= now) {
                events.push(Event::Tick);
            }
            for event in events {
                let mut effects = Vec::new();
                self.links.handle(now, event, &mut effects, &mut self.told);
                effects.into_iter().for_each(|effect| self.peers.execute(effect));
            }
        }
    }

    fn run(nodes: &mut [Node], until: impl Fn(&[Node]) -> bool) {
        let start = Instant::now();
        while !until(nodes) {
            assert!(start.elapsed() < PATIENCE);
            nodes.iter_mut().for_each(Node::step);
        }
    }

    #[test]
    fn three_nodes_find_each_other_and_notice_who_is_gone() {
        let mut sockets: Vec<_> = (0..3).map(|_| bound()).collect();
        let ports: Vec<u16> = sockets.iter().map(|(_, port)| *port).collect();
        let mut nodes: Vec<Node> = (1..)
            .zip(sockets.drain(..))
            .map(|(node_id, (socket, _))| Node::start(node_id, node_id as u8, &ports, socket))
            .collect();
        run(&mut nodes, |nodes| nodes.iter().all(|node| node.links.peers().count() == 2));

        let mut effects = Vec::new();
        assert!(nodes[0].links.request(3, 5, Bytes::from_static(b"who?"), &mut effects));
        effects.drain(..).for_each(|effect| nodes[0].peers.execute(effect));
        let asked = |told: &Told| matches!(told, Told::Request { id: 5, .. });
        run(&mut nodes, |nodes| nodes[2].told.iter().any(asked));
        let Some(Told::Request { link, .. }) = nodes[2].told.iter().find(|told| asked(told)).cloned() else {
            panic!("it was found")
        };
        nodes[2].links.respond(link, 5, 9, Bytes::from_static(b"me"), &mut effects);
        effects.drain(..).for_each(|effect| nodes[2].peers.execute(effect));
        run(&mut nodes, |nodes| {
            nodes[0].told.iter().any(|told| matches!(told, Told::Response { id: 5, offset: 9, .. }))
        });

        drop(nodes.pop());
        let down = Told::Down { node_id: 3, is_refused: true };
        run(&mut nodes, |nodes| nodes.iter().all(|node| node.told.contains(&down)));
        nodes.iter_mut().for_each(|node| node.told.clear());

        let address = SocketAddr::from(([127, 0, 0, 1], ports[2]));
        let socket = sys::bind(address, PortUse::Exclusive).expect("free again");
        nodes.push(Node::start(3, 33, &ports, socket));
        run(&mut nodes, |nodes| nodes.iter().all(|node| node.links.peers().count() == 2));
        let is_new = |told: &Told| matches!(told, Told::Up { peer } if peer.incarnation == [33; 16]);
        assert!(nodes[..2].iter().all(|node| node.told.iter().any(is_new)));
    }
}
