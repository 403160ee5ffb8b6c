//! Looks at all connections every now and then, and says which are to be closed: idle ones, those that hold memory others
//! need and do nothing with it, and those whose peers do not close their side.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::super::memory::Pressure;
use super::super::sys;
use super::NetOptions;
use super::connection::Connection;
use super::greet::GREETING_MAX;
use super::receive::Receiver;
use crate::metrics::{Kind, Sample};
use crate::shard::ConnectionId;

/// How long a connection may take for a large request besides [`RECEIVE_RATE_MIN`] while others wait for its memory.
const RECEIVE_TIME: Duration = Duration::from_secs(1);
/// The slowest that a large request may come while others wait for its memory, in bytes a second.
const RECEIVE_RATE_MIN: u64 = 4 << 20;
/// How long a connection may take no byte of its responses while memory is tight.
const STUCK_TIGHT: Duration = Duration::from_secs(5);
/// The same while memory is full, or send no byte of a request that it has begun.
const STUCK_FULL: Duration = Duration::from_secs(1);
/// How often connections are looked at for idleness.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// The same while requests wait for memory.
const SWEEP_INTERVAL_WAITING: Duration = Duration::from_millis(250);
/// How long the peer of a connection that we have closed may take to read the rest and close its side.
const LINGER: Duration = Duration::from_secs(5);

/// When connections are looked at, and how many were closed for it.
pub(super) struct Sweeper {
    /// In the clock's time.
    due_at: Duration,
    idle_closed: u64,
    /// For holding memory that others wait for.
    stuck_closed: u64,
}

/// What all connections have in common while they are looked at.
struct Look<'a> {
    now: Instant,
    options: &'a NetOptions,
    pressure: Pressure,
    /// Requests wait for memory.
    is_waited_for: bool,
}

impl Sweeper {
    /// Looks at the connections first one interval after `now`.
    pub fn new(now: Duration) -> Sweeper {
        Sweeper { due_at: now + SWEEP_INTERVAL, idle_closed: 0, stuck_closed: 0 }
    }

    /// When it is time to look.
    pub fn due_at(&self) -> Duration {
        self.due_at
    }

    /// Looks at the connections, closes those that are to be closed, and has the receiver clean up behind them. Gives memory
    /// of quiet ones back. `elapsed` is `now` in the clock's time.
    pub fn sweep(
        &mut self,
        now: Instant,
        elapsed: Duration,
        options: &NetOptions,
        connections: &mut HashMap<ConnectionId, Connection>,
        receiver: &mut Receiver,
    ) {
        let look = Look { now, options, pressure: options.memory.pressure(), is_waited_for: receiver.waiting() > 0 };
        let (mut stuck, mut last_stuck) = (0, None);
        #[expect(clippy::iter_over_hash_type, reason = "each connection is looked at for itself")]
        for connection in connections.values_mut() {
            if look.quiet(connection) >= SWEEP_INTERVAL {
                connection.reader.release_idle(&mut receiver.memory);
            }
            if look.is_stuck(connection) {
                stuck += 1;
                last_stuck = Some(connection.peer);
            } else if !look.has_gone(connection) {
                let is_idle = look.is_idle(connection);
                self.idle_closed += u64::from(is_idle);
                if !is_idle && !look.is_overdue(connection) && !look.is_silent(connection) {
                    continue;
                }
            }
            connection.end();
            receiver.queue(connection);
        }
        self.stuck_closed += stuck;
        if let Some(peer) = last_stuck {
            let message = format!("closed {stuck} connections that held memory others need, such as {peer}");
            super::super::warn("net", &message);
        }
        let interval = if receiver.waiting() > 0 { SWEEP_INTERVAL_WAITING } else { SWEEP_INTERVAL };
        self.due_at = elapsed + interval;
    }

    /// Counters for a scrape.
    pub fn samples(&self, samples: &mut Vec<Sample>) {
        let mut sample = |name, help, value: u64| {
            samples.push(Sample { name, help, kind: Kind::Counter, labels: Vec::new(), value: value as f64 });
        };
        let help = "Connections closed for connections.max.idle.ms.";
        sample("millstream_connections_idle_closed_total", help, self.idle_closed);
        let help = "Connections closed because they held memory that others needed.";
        sample("millstream_connections_stuck_closed_total", help, self.stuck_closed);
    }
}

impl Look<'_> {
    fn since(&self, instant: Instant) -> Duration {
        self.now.saturating_duration_since(instant)
    }

    /// For how long no byte has moved.
    fn quiet(&self, connection: &Connection) -> Duration {
        self.since(connection.moved_at)
    }

    /// Whether a connection holds memory that is needed elsewhere and does nothing with it.
    fn is_stuck(&self, connection: &Connection) -> bool {
        let reader = &connection.reader;
        // While we do not read from it, the peer cannot be blamed.
        let is_read = connection.is_reading && !reader.is_waiting() && !connection.is_stopped;
        let receives = is_read && reader.is_partial();
        let since = connection.receiving_since.filter(|_| receives);
        let time_max = RECEIVE_TIME + Duration::from_secs(reader.promised_bytes() as u64 / RECEIVE_RATE_MIN);
        let holds_up = self.is_waited_for
            && reader.promised_bytes() > 0
            && since.is_some_and(|since| self.since(since) > time_max);
        let takes_nothing = || connection.output.holds_memory();
        let quiet = self.quiet(connection);
        holds_up
            || match self.pressure {
                Pressure::None => false,
                Pressure::Tight => quiet >= STUCK_TIGHT && takes_nothing(),
                Pressure::Full => quiet >= STUCK_FULL && (receives || takes_nothing()),
            }
    }

    /// Whether the peer has gone while its request waits for memory: nobody reads from it, so nobody would notice.
    fn has_gone(&self, connection: &Connection) -> bool {
        connection.is_waiting && self.quiet(connection) >= SWEEP_INTERVAL && sys::peer_has_ended(&connection.stream)
    }

    /// Whether we have closed it long ago and its peer has not.
    fn is_overdue(&self, connection: &Connection) -> bool {
        connection.closing_since.is_some_and(|since| self.since(since) >= LINGER) && self.quiet(connection) >= LINGER
    }

    /// Whether it was let in to say that it is a node's, and does not.
    fn is_silent(&self, connection: &Connection) -> bool {
        !connection.is_counted && self.since(connection.came_at) >= GREETING_MAX
    }

    fn is_idle(&self, connection: &Connection) -> bool {
        // While the shard holds back its requests, the peer cannot be blamed for silence, unless it does not take its
        // responses.
        let is_waited_for = connection.is_reading || !connection.output.is_empty();
        is_waited_for && self.options.idle_max.is_some_and(|max| self.quiet(connection) >= max)
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::frames::ReadMemory;
    use super::super::super::memory::MemoryBudget;
    use super::super::super::sys::SocketBuffers;
    use super::super::connection::{self, Phase};
    use super::*;
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;

    const IDLE: Duration = Duration::from_secs(60);

    /// A connection with this key, and its peer's end.
    fn connect(listener: &TcpListener, key: u64) -> (Connection, TcpStream) {
        let client = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        let (stream, peer) = listener.accept().expect("connected");
        (Connection::new(connection::name(0, key), 0, peer, stream, 1000), client)
    }

    #[test]
    fn idle_and_overdue_connections_are_closed_and_looked_at_by_the_receiver() {
        let options = NetOptions {
            request_bytes_max: 1000,
            idle_max: Some(IDLE),
            buffers: SocketBuffers::default(),
            memory: Arc::new(MemoryBudget::for_tests()),
            peers: None,
        };
        let listener = TcpListener::bind("127.0.0.1:0").expect("bound");
        let mut receiver = Receiver::new(ReadMemory::new(1 << 20));
        let mut sweeper = Sweeper::new(Duration::ZERO);
        let (idle, _first) = connect(&listener, 1);
        let (mut held_back, _second) = connect(&listener, 2);
        let (mut closed, _third) = connect(&listener, 3);
        let start = idle.moved_at.max(held_back.moved_at).max(closed.moved_at);
        // The shard wants no more of its requests: its silence is ours.
        held_back.is_reading = false;
        closed.phase = Phase::Closing;
        closed.closing_since = Some(start);
        let mut connections: HashMap<_, _> = [idle, held_back, closed].map(|known| (known.id, known)).into();

        let mut sweep = |after: Duration| {
            sweeper.sweep(start + after, after, &options, &mut connections, &mut receiver);
            assert_eq!(sweeper.due_at(), after + SWEEP_INTERVAL);
            let mut ended = Vec::new();
            while let Some(id) = receiver.next() {
                let connection = connections.remove(&id).expect("in the table");
                assert_eq!(connection.phase, Phase::Gone);
                ended.push(connection.key());
            }
            (ended, sweeper.idle_closed)
        };
        assert_eq!(sweep(SWEEP_INTERVAL), (vec![], 0));
        assert_eq!(sweep(LINGER), (vec![3], 0), "its peer had time enough to close its side");
        assert_eq!(sweep(IDLE), (vec![1], 1));
        assert_eq!(sweep(10 * IDLE), (vec![], 1), "what we do not read from is not idle");
    }
}
