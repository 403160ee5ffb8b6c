//! A shard's connections with shards of other nodes: the sockets of [`crate::shard::peers`], on the shard's ring.
//!
//! They are a class of their own. No limit of clients' connections counts them, they are not closed for idleness but by their
//! own rules, they are read into memory of their own, also while that of the process is full, and what comes by them is
//! handled before clients' requests, a bounded share a turn.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{self, ErrorKind, Read};
use std::mem;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Inbound;
use super::clock::Clock;
use super::disk::Disk;
use super::frames::{FrameReader, ReadMemory};
use super::mailbox::Mailbox;
use super::names::{Name, NameThreads, Names};
use super::output::{Output, Piece, SendCounters, Sent};
use super::peers::{DIAL_MAX, dial_error, dialled};
use super::ring::{Ring, Watch};
use super::sys::{self, SocketBuffers};
use crate::metrics::{Kind, Sample};
use crate::peer::links::{DialError, Event, LinkId};
use crate::peer::stream::FRAME_BYTES_MAX;
use crate::shard::SendPart;

/// Connections of one shard with others' shards, at most, however they came to be. Those beyond are closed at once.
pub const STREAMS_MAX: usize = 4096;
/// A connection to which more bytes than this wait to be sent is closed instead of being given another frame. What waits may
/// be as much and one frame: windows are far smaller.
const QUEUED_BYTES_MAX: usize = 64 << 20;
/// Memory for frames that are being received, of one shard; one frame may go beyond it.
const RECEIVING_BYTES_MAX: usize = 64 << 20;
/// Events that may wait before nothing more is read.
const EVENTS_MAX: usize = 4096;
/// Bytes that are read of a connection at a time.
const READ_BYTES_MAX: usize = 1 << 20;
/// Keys of these connections on the ring have this bit, and those of clients do not.
const KEY: u64 = 1 << 55;

/// All connections of one shard with shards of other nodes.
pub struct Streams {
    clock: Clock,
    buffers: SocketBuffers,
    memory: ReadMemory,
    names: Names,
    accepted: u64,
    keys: u64,
    dials: BTreeMap<LinkId, Dial>,
    connections: BTreeMap<LinkId, Connection>,
    by_key: HashMap<u64, LinkId>,
    readable: VecDeque<LinkId>,
    dirty: VecDeque<LinkId>,
    /// Connections whose large frames wait for memory.
    waiting: Vec<LinkId>,
    happened: VecDeque<Event>,
    counters: SendCounters,
    received_bytes: u64,
    refused: u64,
    illegal: u64,
}

/// A connection that is being made.
struct Dial {
    /// It has failed then.
    until: Duration,
    /// `None`: the name is being looked up.
    socket: Option<(u64, TcpStream)>,
}

struct Connection {
    key: u64,
    stream: TcpStream,
    reader: FrameReader,
    output: Output,
    queued_bytes: usize,
    is_blocked: bool,
    is_dirty: bool,
    is_readable: bool,
    has_ended: bool,
}

impl Connection {
    fn new(key: u64, stream: TcpStream) -> Connection {
        Connection {
            key,
            stream,
            reader: FrameReader::new(FRAME_BYTES_MAX),
            output: Output::default(),
            queued_bytes: 0,
            is_blocked: false,
            is_dirty: false,
            is_readable: false,
            has_ended: false,
        }
    }
}

/// Whether a key on the ring is that of such a connection.
pub fn is_key(key: u64) -> bool {
    key & KEY != 0
}

impl Streams {
    /// No connections yet. Names that are found come by the mailbox, and back to [`Streams::found`].
    pub fn new(clock: Clock, buffers: SocketBuffers, names: NameThreads, mailbox: Arc<Mailbox<Inbound>>) -> Streams {
        Streams {
            clock,
            buffers,
            memory: ReadMemory::new(RECEIVING_BYTES_MAX),
            names: Names::new(names, move |name, address| mailbox.push(Inbound::Named { name, address })),
            accepted: 0,
            keys: 0,
            dials: BTreeMap::new(),
            connections: BTreeMap::new(),
            by_key: HashMap::new(),
            readable: VecDeque::new(),
            dirty: VecDeque::new(),
            waiting: Vec::new(),
            happened: VecDeque::new(),
            counters: SendCounters::default(),
            received_bytes: 0,
            refused: 0,
            illegal: 0,
        }
    }

    fn has_room(&self) -> bool {
        self.connections.len() + self.dials.len() < STREAMS_MAX
    }

    fn next_key(&mut self, link: LinkId) -> u64 {
        let key = KEY | self.keys;
        self.keys += 1;
        self.by_key.insert(key, link);
        key
    }

    /// Takes a connection over on which another shard has greeted this one.
    pub fn adopt(&mut self, ring: &mut Ring, stream: TcpStream, hello: Bytes) {
        if !self.has_room() {
            self.refused += 1;
            return;
        }
        let link = LinkId(self.accepted);
        self.accepted += 1;
        self.happened.push_back(Event::Accepted { link });
        self.happened.push_back(Event::Received { link, bytes: hello });
        let key = self.next_key(link);
        self.open(ring, link, key, stream);
    }

    fn open(&mut self, ring: &mut Ring, link: LinkId, key: u64, stream: TcpStream) {
        ring.watch(&stream, Watch::Read, key);
        let mut connection = Connection::new(key, stream);
        // What came before the watch.
        connection.is_readable = true;
        self.readable.push_back(link);
        self.connections.insert(link, connection);
    }

    /// Connects to another node.
    pub fn dial(&mut self, ring: &mut Ring, link: LinkId, host: String, port: u16) {
        if !self.has_room() {
            self.refused += 1;
            return self.not_connected(link, DialError::Failed);
        }
        self.dials.insert(link, Dial { until: self.clock.elapsed() + DIAL_MAX, socket: None });
        match host.parse::<IpAddr>() {
            Ok(address) => self.connect(ring, link, SocketAddr::new(address, port)),
            Err(_) => {
                if self.names.look_up(link, host, port).is_err() {
                    self.not_connected(link, DialError::Failed);
                }
            }
        }
    }

    /// A name was looked up.
    pub fn found(&mut self, ring: &mut Ring, name: &Name, address: Option<SocketAddr>) {
        for link in self.names.found(name) {
            match address {
                _ if !self.dials.contains_key(&link) => {}
                Some(address) => self.connect(ring, link, address),
                None => self.not_connected(link, DialError::Failed),
            }
        }
    }

    fn connect(&mut self, ring: &mut Ring, link: LinkId, address: SocketAddr) {
        match sys::connect(address) {
            Ok(stream) => {
                let key = self.next_key(link);
                ring.watch(&stream, Watch::Write, key);
                self.dials.get_mut(&link).expect("it is dialled").socket = Some((key, stream));
            }
            Err(error) => self.not_connected(link, dial_error(&error)),
        }
    }

    fn not_connected(&mut self, link: LinkId, error: DialError) {
        if let Some(Dial { socket: Some((key, _)), .. }) = self.dials.remove(&link) {
            self.by_key.remove(&key);
        }
        self.happened.push_back(Event::Dialed { link, result: Err(error) });
    }

    /// A socket is ready.
    pub fn ready(&mut self, ring: &mut Ring, watch: Watch, key: u64, has_ended: bool, must_renew: bool) {
        let Some(link) = self.by_key.get(&key).copied() else { return };
        if let Some(connection) = self.connections.get_mut(&link) {
            match watch {
                Watch::Read => {
                    connection.has_ended |= has_ended;
                    if must_renew && !has_ended {
                        ring.watch(&connection.stream, watch, key);
                    }
                    if !mem::replace(&mut connection.is_readable, true) {
                        self.readable.push_back(link);
                    }
                }
                Watch::Write | Watch::Accept => {
                    connection.is_blocked = false;
                    self.mark(link);
                }
            }
        } else if let Some(Dial { socket: Some((key, stream)), .. }) = self.dials.remove(&link) {
            match dialled(&stream)
                .and_then(|()| sys::prepare_connection(&stream, self.buffers).map_err(|error| dial_error(&error)))
            {
                Ok(()) => {
                    self.happened.push_back(Event::Dialed { link, result: Ok(()) });
                    self.open(ring, link, key, stream);
                }
                Err(error) => {
                    self.by_key.remove(&key);
                    self.happened.push_back(Event::Dialed { link, result: Err(error) });
                }
            }
        }
    }

    /// When a dial has taken too long.
    pub fn due_at(&self) -> Option<Duration> {
        self.dials.values().map(|dial| dial.until).min()
    }

    /// Gives up the dials that have taken too long, and memory that nobody needs.
    pub fn tick(&mut self, ring: &mut Ring, now: Duration) {
        let late = self.dials.iter().filter(|(_, dial)| dial.until <= now).map(|(link, _)| *link);
        for link in late.collect::<Vec<_>>() {
            if let Some(Dial { socket: Some((key, _)), .. }) = self.dials.get(&link) {
                ring.unwatch(Watch::Write, *key);
            }
            self.not_connected(link, DialError::Failed);
        }
    }

    /// Gives back memory of quiet connections.
    pub fn give_up_idle(&mut self) {
        for connection in self.connections.values_mut() {
            connection.reader.release_idle(&mut self.memory);
        }
        self.memory.give_up_idle();
    }

    /// Whether there is something to read, or may be.
    pub fn has_readable(&self) -> bool {
        !self.readable.is_empty() && self.happened.len() < EVENTS_MAX
    }

    /// Reads from each readable connection once, unless too much waits to be handled.
    pub fn receive(&mut self, ring: &mut Ring) {
        if !self.waiting.is_empty() && self.memory.take_released() {
            for link in mem::take(&mut self.waiting) {
                if let Some(connection) = self.connections.get_mut(&link)
                    && !mem::replace(&mut connection.is_readable, true)
                {
                    self.readable.push_back(link);
                }
            }
        }
        for _ in 0..self.readable.len() {
            if self.happened.len() >= EVENTS_MAX {
                return;
            }
            let Some(link) = self.readable.pop_front() else { return };
            let Some(connection) = self.connections.get_mut(&link) else { continue };
            connection.is_readable = false;
            if !connection.reader.try_promise(&mut self.memory) {
                self.waiting.push(link);
                continue;
            }
            let received = receive(connection, &mut self.memory, |bytes| {
                self.happened.push_back(Event::Received { link, bytes });
            });
            match received {
                Ok(Received { bytes, may_have_more }) => {
                    self.received_bytes += bytes as u64;
                    if may_have_more {
                        connection.is_readable = true;
                        self.readable.push_back(link);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock && !connection.has_ended => {}
                Err(error) if error.kind() == ErrorKind::Interrupted => {
                    connection.is_readable = true;
                    self.readable.push_back(link);
                }
                Err(error) => {
                    self.illegal += u64::from(error.kind() == ErrorKind::InvalidData);
                    self.gone(ring, link);
                }
            }
        }
    }

    /// The connection is gone, whoever has ended it.
    fn gone(&mut self, ring: &mut Ring, link: LinkId) {
        self.forget(ring, link);
        self.happened.push_back(Event::Closed { link });
    }

    fn forget(&mut self, ring: &mut Ring, link: LinkId) {
        if let Some(mut connection) = self.connections.remove(&link) {
            connection.reader.release(&mut self.memory);
            ring.unwatch(Watch::Read, connection.key);
            if connection.is_blocked {
                ring.unwatch(Watch::Write, connection.key);
            }
            self.by_key.remove(&connection.key);
            self.waiting.retain(|waiting| *waiting != link);
        }
        if let Some(Dial { socket: Some((key, _)), .. }) = self.dials.remove(&link) {
            ring.unwatch(Watch::Write, key);
            self.by_key.remove(&key);
        }
    }

    /// Queues parts for a connection, with files of this disk; [`Streams::flush`] sends them.
    pub fn send(&mut self, ring: &mut Ring, disk: &mut Disk, link: LinkId, parts: Vec<SendPart>) {
        // A connection that is gone is no error: the shard will hear of it.
        let Some(connection) = self.connections.get_mut(&link) else { return };
        if connection.queued_bytes > QUEUED_BYTES_MAX {
            return self.gone(ring, link);
        }
        for part in parts {
            let (piece, bytes) = match part {
                SendPart::Memory(bytes) => {
                    let length = bytes.len();
                    (Piece::Memory(bytes), length)
                }
                SendPart::File { path, position, bytes } => match disk.buffered(&path) {
                    Ok(file) => (Piece::File { file, position, bytes }, bytes),
                    Err(error) => {
                        super::warn("streams", &format!("closing a stream: cannot send {path}: {error}"));
                        return self.gone(ring, link);
                    }
                },
            };
            connection.queued_bytes += bytes;
            connection.output.push(piece);
        }
        self.mark(link);
    }

    fn mark(&mut self, link: LinkId) {
        if let Some(connection) = self.connections.get_mut(&link)
            && !mem::replace(&mut connection.is_dirty, true)
        {
            self.dirty.push_back(link);
        }
    }

    /// Closes a connection, after what was sent has left as far as there is room for it now.
    pub fn hang_up(&mut self, ring: &mut Ring, link: LinkId) {
        if let Some(connection) = self.connections.get_mut(&link)
            && !connection.is_blocked
        {
            // What does not go now, or cannot, is lost with the connection.
            let _ = connection.output.send(&connection.stream, &mut self.counters);
        }
        self.forget(ring, link);
    }

    /// Whether something can be sent.
    pub fn has_unsent(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Sends what was queued: a share of each connection's, as far as the sockets have room; the ring says when one has some.
    pub fn flush(&mut self, ring: &mut Ring) {
        for _ in 0..self.dirty.len() {
            let Some(link) = self.dirty.pop_front() else { return };
            let Some(connection) = self.connections.get_mut(&link) else { continue };
            connection.is_dirty = false;
            if connection.is_blocked {
                continue;
            }
            let sent_before = self.counters.memory_bytes + self.counters.sendfile_bytes;
            let sent = connection.output.send(&connection.stream, &mut self.counters);
            let sent_now = self.counters.memory_bytes + self.counters.sendfile_bytes - sent_before;
            connection.queued_bytes -= sent_now as usize;
            match sent {
                Ok(Sent::All) => {}
                Ok(Sent::Paused) => self.mark(link),
                Ok(Sent::Blocked) => {
                    connection.is_blocked = true;
                    ring.watch(&connection.stream, Watch::Write, connection.key);
                }
                Err(_) => self.gone(ring, link),
            }
        }
    }

    /// The next thing that has happened.
    pub fn next_event(&mut self) -> Option<Event> {
        self.happened.pop_front()
    }

    /// Whether something has happened.
    pub fn has_events(&self) -> bool {
        !self.happened.is_empty()
    }

    /// Counters for a scrape.
    pub fn samples(&self, samples: &mut Vec<Sample>) {
        let mut sample = |name, help, kind, value: u64| {
            samples.push(Sample { name, help, kind, labels: Vec::new(), value: value as f64 });
        };
        let (counter, gauge) = (Kind::Counter, Kind::Gauge);
        let connections = (self.connections.len() + self.dials.len()) as u64;
        let help = "Connections with shards of other nodes, and those that are being made.";
        sample("millstream_peer_connections", help, gauge, connections);
        let help = "The bound of millstream_peer_connections.";
        sample("millstream_peer_connections_max", help, gauge, STREAMS_MAX as u64);
        let help = "Connections with shards of other nodes that were refused for that bound.";
        sample("millstream_peer_connections_refused_total", help, counter, self.refused);
        let help = "Connections with shards of other nodes that were closed for an impossible length.";
        sample("millstream_peer_illegal_frames_total", help, counter, self.illegal);
        let help = "Bytes received from shards of other nodes.";
        sample("millstream_peer_received_bytes_total", help, counter, self.received_bytes);
        let sent = self.counters.memory_bytes + self.counters.sendfile_bytes;
        sample("millstream_peer_sent_bytes_total", "Bytes sent to shards of other nodes.", counter, sent);
        let queued = self.connections.values().map(|connection| connection.queued_bytes as u64).sum();
        let help = "Bytes that wait to be sent to shards of other nodes.";
        sample("millstream_peer_queued_bytes", help, gauge, queued);
    }
}

/// What one read brought.
struct Received {
    bytes: usize,
    may_have_more: bool,
}

/// Reads once. The error says that nothing is there, or that the connection is of no use any more.
fn receive(connection: &mut Connection, memory: &mut ReadMemory, frame: impl FnMut(Bytes)) -> io::Result<Received> {
    let buffer = connection.reader.buffer(memory);
    let room = buffer.len().min(READ_BYTES_MAX);
    let bytes = connection.stream.read(&mut buffer[..room])?;
    if bytes == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let cut = connection.reader.received(bytes, memory, frame);
    cut.map_err(|error| io::Error::new(ErrorKind::InvalidData, error.to_string()))?;
    // The kernel had no more than that; what comes later is announced.
    Ok(Received { bytes, may_have_more: bytes == room || connection.has_ended })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Instant;

    use super::super::disk::Pools;
    use super::super::files::tests::TestDirectory;
    use super::super::ring::Completion;
    use super::super::sys::PortUse;
    use super::*;
    use crate::peer::stream::frame::FromFollower;

    /// Whatever is waited for comes long before.
    const PATIENCE: Duration = Duration::from_secs(30);

    /// A shard's connections, and all that they need.
    struct End {
        streams: Streams,
        ring: Ring,
        disk: Disk,
        mailbox: Arc<Mailbox<Inbound>>,
        happened: Vec<Event>,
    }

    impl End {
        fn new(directory: &TestDirectory) -> End {
            let mailbox = Arc::new(Mailbox::default());
            let names = NameThreads::default();
            let streams = Streams::new(Clock::start(), SocketBuffers::default(), names, Arc::clone(&mailbox));
            let disk = Disk::new(&directory.0, 10, Pools::start().expect("threads"), Arc::clone(&mailbox));
            End { streams, ring: Ring::new().expect("a ring"), disk, mailbox, happened: Vec::new() }
        }

        /// What a turn does.
        fn step(&mut self) {
            let (mut completions, mut inbound) = (Vec::new(), Vec::new());
            self.ring.submit().expect("submitted");
            self.ring.take(&mut completions).expect("taken");
            for completion in completions {
                match completion {
                    Completion::Ready { watch, key, has_ended, must_renew } => {
                        assert!(is_key(key));
                        self.streams.ready(&mut self.ring, watch, key, has_ended, must_renew);
                    }
                    other => panic!("not of the network: {other:?}"),
                }
            }
            self.mailbox.drain(&mut inbound);
            for inbound in inbound {
                let Inbound::Named { name, address } = inbound else { panic!("{inbound:?}") };
                self.streams.found(&mut self.ring, &name, address);
            }
            let now = self.streams.clock.elapsed();
            self.streams.tick(&mut self.ring, now);
            self.streams.receive(&mut self.ring);
            self.happened.extend(std::iter::from_fn(|| self.streams.next_event()));
            self.streams.flush(&mut self.ring);
        }

        fn send(&mut self, link: LinkId, bytes: Bytes) {
            self.streams.send(&mut self.ring, &mut self.disk, link, vec![SendPart::Memory(bytes)]);
        }

        fn dial(&mut self, number: u64, host: &str, port: u16) -> LinkId {
            let link = LinkId(LinkId::DIALLED | number);
            self.streams.dial(&mut self.ring, link, host.to_owned(), port);
            link
        }

        /// Waits for so many events, and takes them.
        fn events(&mut self, count: usize) -> Vec<Event> {
            let began = Instant::now();
            while self.happened.len() < count {
                assert!(began.elapsed() < PATIENCE, "{:?}", self.happened);
                self.step();
                std::thread::yield_now();
            }
            std::mem::take(&mut self.happened)
        }
    }

    fn ping() -> Bytes {
        FromFollower::Ping.to_bytes()
    }

    /// Two shards and a connection between them.
    fn connected(directory: &TestDirectory, host: &str) -> (End, LinkId, End, LinkId) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let (mut follower, mut leader) = (End::new(directory), End::new(directory));
        let link = follower.dial(7, host, listener.local_addr().expect("bound").port());
        assert_eq!(follower.events(1), [Event::Dialed { link, result: Ok(()) }]);
        let (stream, _) = listener.accept().expect("connected");
        sys::prepare_connection(&stream, SocketBuffers::default()).expect("prepared");
        let hello = Bytes::from_static(b"hello");
        leader.streams.adopt(&mut leader.ring, stream, hello.clone());
        let accepted = LinkId(0);
        let expected = [Event::Accepted { link: accepted }, Event::Received { link: accepted, bytes: hello }];
        assert_eq!(leader.events(2), expected);
        (follower, link, leader, accepted)
    }

    #[test]
    fn frames_go_both_ways_in_order_however_large() {
        let directory = TestDirectory::new("streams_frames");
        let (mut follower, link, mut leader, accepted) = connected(&directory, "127.0.0.1");
        follower.send(link, ping());
        follower.send(link, ping());
        follower.step();
        let received = Event::Received { link: accepted, bytes: ping().slice(4..) };
        assert_eq!(leader.events(2), [received.clone(), received]);

        let long: Bytes = (0..5_000_000u32).map(|at| (at / 11) as u8).collect();
        leader.send(accepted, [&(long.len() as i32).to_be_bytes()[..], &long].concat().into());
        leader.send(accepted, ping());
        let began = Instant::now();
        while follower.happened.len() < 2 {
            assert!(began.elapsed() < PATIENCE);
            leader.step();
            follower.step();
        }
        let expected = [Event::Received { link, bytes: long }, Event::Received { link, bytes: ping().slice(4..) }];
        assert!(std::mem::take(&mut follower.happened) == expected);
        assert_eq!(leader.streams.connections[&accepted].queued_bytes, 0);

        // What was sent before a connection is closed arrives.
        follower.send(link, ping());
        follower.streams.hang_up(&mut follower.ring, link);
        follower.step();
        let received = Event::Received { link: accepted, bytes: ping().slice(4..) };
        assert_eq!(leader.events(2), [received, Event::Closed { link: accepted }]);
        assert!(follower.streams.by_key.is_empty() && leader.streams.by_key.is_empty());
        assert_eq!(leader.streams.memory.promised_bytes(), 0);
    }

    #[test]
    fn names_are_looked_up_elsewhere_and_refused_is_told_from_failed() {
        let directory = TestDirectory::new("streams_dials");
        let (mut follower, _, _leader, _) = connected(&directory, "localhost");
        // Bound, and nobody listens.
        let socket = sys::bind("127.0.0.1:0".parse().expect("an address"), PortUse::Exclusive).expect("bound");
        let port = sys::local_address(&socket).expect("bound").port();
        let link = follower.dial(8, "localhost", port);
        assert_eq!(follower.events(1), [Event::Dialed { link, result: Err(DialError::Refused) }]);
        let link = follower.dial(9, "no-such-host.invalid", port);
        assert_eq!(follower.events(1), [Event::Dialed { link, result: Err(DialError::Failed) }]);
        // Whoever does not want to know any more is told nothing.
        let gone = follower.dial(10, "localhost", port);
        follower.streams.hang_up(&mut follower.ring, gone);
        let link = follower.dial(11, "localhost", port);
        assert_eq!(follower.events(1), [Event::Dialed { link, result: Err(DialError::Refused) }]);
    }

    #[test]
    fn an_impossible_length_closes_the_connection() {
        let directory = TestDirectory::new("streams_length");
        let (mut follower, link, mut leader, accepted) = connected(&directory, "127.0.0.1");
        leader.send(accepted, (FRAME_BYTES_MAX as i32 + 1).to_be_bytes().to_vec().into());
        leader.step();
        assert_eq!(follower.events(1), [Event::Closed { link }]);
        assert_eq!(follower.streams.illegal, 1);
        // The socket closes when its watch has ended.
        follower.step();
        assert_eq!(leader.events(1), [Event::Closed { link: accepted }]);
    }

    #[test]
    fn who_takes_nothing_is_cut_off() {
        let directory = TestDirectory::new("streams_stuck");
        let (mut follower, link, _leader, _) = connected(&directory, "127.0.0.1");
        let bytes = Bytes::from(vec![0; 1 << 20]);
        let mut sent = 0;
        while follower.happened.is_empty() {
            follower.send(link, bytes.clone());
            follower.step();
            sent += bytes.len();
            assert!(sent < 4 * QUEUED_BYTES_MAX, "the kernel does not take so much");
        }
        assert!(sent > QUEUED_BYTES_MAX);
        assert_eq!(follower.happened, [Event::Closed { link }]);
    }
}
