//! Quotas on produced and fetched bytes (KIP-13, KIP-219): who has used how much, and who has to wait.
//!
//! The bytes of a client are counted over a window ([`crate::rate`]). When they are too many, the response says how
//! long the client is to wait, and its connection is not read from for that time. A fetch gets no more than the limit
//! lets through at its time, but for its first batch; when that is nothing, it is answered at once without records.
//! (Kafka reads up to a whole window first and throws away what turns out to be too much, which halves the rate of a
//! client that is far behind.)
//!
//! **Over shards.** A connection lives on one shard, a client has connections on several. Every shard counts the whole
//! rate of each client that it knows to be limited: what its own connections used, at once, and what those of other
//! shards used, which these say every [`TELL_INTERVAL`] ([`Message::QuotaUse`]). So a limit may be overshot by what
//! passes in that time, which then has to be waited for: over a window the rate is exact. The alternatives lost: an
//! equal share for each shard gives a client with one connection a fraction of its quota, and one shard that counts for
//! all puts two messages into the way of each request.
//!
//! Without quotas a request costs one comparison.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use millstream_replication::ClientQuotas;
use millstream_replication::config::Properties;
use millstream_replication::quota::{CONSUMER_BYTE_RATE, PRODUCER_BYTE_RATE};
use millstream_storage::Now;

use crate::metrics::{Kind, Sample};
use crate::rate::{Rate, Window};
use crate::shard::event::{ConnectionId, Effect};
use crate::shard::message::{Direction, Message, Payer, Used};
use crate::shard::turn::Turn;

/// Whoever has not authenticated: Kafka's `User:ANONYMOUS`.
const ANONYMOUS: &str = "ANONYMOUS";
/// How often shards tell each other what their clients used.
pub const TELL_INTERVAL: Duration = Duration::from_millis(100);
/// Clients in one message about what was used; the others follow in the next turn.
const TOLD_AT_ONCE_MAX: usize = 512;
/// Clients counted one by one, of each direction together. Those beyond share one count for each direction.
const METERS_MAX: usize = 10_000;
/// Client ids whose limit is remembered.
const CLIENTS_MAX: usize = 10_000;
/// Connections that may be read from again in one step.
pub const RELEASED_AT_ONCE_MAX: usize = 256;

impl Direction {
    /// Both directions.
    pub const ALL: [Direction; 2] = [Direction::Produce, Direction::Fetch];

    fn key(self) -> &'static str {
        match self {
            Direction::Produce => PRODUCER_BYTE_RATE,
            Direction::Fetch => CONSUMER_BYTE_RATE,
        }
    }

    /// The API's name, for metrics.
    pub fn name(self) -> &'static str {
        match self {
            Direction::Produce => "Produce",
            Direction::Fetch => "Fetch",
        }
    }
}

impl Payer {
    /// All those for whom there is no count of their own.
    fn common(direction: Direction) -> Payer {
        Payer { direction, user: None, client_id: None }
    }
}

/// The limit that a request is under.
#[derive(Clone, Debug, PartialEq)]
pub struct Charge {
    payer: Payer,
    /// Bytes a second.
    limit: f64,
}

#[derive(Debug, Default)]
struct Meter {
    rate: Rate,
    /// What the other shards were not told yet.
    untold: u64,
}

/// What is known of quotas and of those who are under one.
#[derive(Debug)]
pub struct Quotas {
    window: Window,
    /// Whether any client is limited, by [`Direction`].
    is_set: [bool; 2],
    /// What is known to hold for a client id, by [`Direction`]: read off the image once.
    clients: [HashMap<Arc<str>, Option<Charge>>; 2],
    meters: HashMap<Payer, Meter>,
    /// When the meters were last looked through for those not in use.
    swept_at: Duration,
    /// Those whose use the other shards are to be told.
    untold: Vec<Payer>,
    tell_at: Option<Duration>,
    /// Connections that are not read from, by when they are again.
    muted: BTreeSet<(Duration, ConnectionId)>,
    /// Requests that were told to wait, by [`Direction`].
    throttled: [u64; 2],
    /// For how long, in all.
    throttled_time: [Duration; 2],
}

impl Quotas {
    /// Nobody is limited yet, in a process that was started with this configuration.
    pub fn new(file: &Properties) -> Quotas {
        Quotas {
            window: Window::configured(file),
            is_set: [false; 2],
            clients: Default::default(),
            meters: HashMap::new(),
            swept_at: Duration::ZERO,
            untold: Vec::new(),
            tell_at: None,
            muted: BTreeSet::new(),
            throttled: [0; 2],
            throttled_time: [Duration::ZERO; 2],
        }
    }

    /// The quotas have changed: what was read off them is forgotten; what was used is not.
    pub fn changed(&mut self, quotas: &ClientQuotas) {
        self.is_set = Direction::ALL.map(|direction| quotas.has(direction.key()));
        self.clients = Default::default();
    }

    /// The limit that a client's request is under, if it is under one.
    pub fn charge(&mut self, quotas: &ClientQuotas, direction: Direction, client_id: Option<&str>) -> Option<Charge> {
        if !self.is_set[direction as usize] {
            return None;
        }
        let client_id = client_id.unwrap_or("");
        let clients = &mut self.clients[direction as usize];
        if let Some(known) = clients.get(client_id) {
            return known.clone();
        }
        let charge = quotas.limit(direction.key(), ANONYMOUS, client_id).map(|limit| Charge {
            payer: Payer { direction, user: limit.user.map(Into::into), client_id: limit.client_id.map(Into::into) },
            limit: limit.rate,
        });
        if clients.len() >= CLIENTS_MAX {
            // It is read again.
            clients.clear();
        }
        clients.insert(client_id.into(), charge.clone());
        charge
    }

    /// How many bytes a fetch under this limit may be answered with now; none: how long the client is to wait first.
    pub fn room(&mut self, now: Now, charge: &Charge) -> Result<usize, Duration> {
        let payer = self.payer(now.elapsed, &charge.payer);
        let rate = &mut self.meters.entry(payer).or_default().rate;
        let excess = rate.excess(self.window, now.elapsed, charge.limit);
        let room = rate.room(self.window, now.elapsed, charge.limit);
        if excess.is_zero() {
            return Ok(usize::try_from(room).unwrap_or(usize::MAX));
        }
        self.count(charge.payer.direction, excess);
        Err(excess)
    }

    /// Counts what a produce request brought, or a fetch is answered with. Returns how long the client is to wait.
    pub fn used(&mut self, now: Now, charge: &Charge, bytes: usize, shards: usize) -> Duration {
        let (window, elapsed) = (self.window, now.elapsed);
        let payer = self.payer(elapsed, &charge.payer);
        let meter = self.meters.entry(payer.clone()).or_default();
        meter.rate.record(window, elapsed, bytes as u64);
        let excess = meter.rate.excess(window, elapsed, charge.limit);
        if shards > 1 && bytes > 0 {
            if meter.untold == 0 {
                self.untold.push(payer);
                self.tell_at.get_or_insert(elapsed + TELL_INTERVAL);
            }
            meter.untold += bytes as u64;
        }
        self.count(charge.payer.direction, excess);
        excess
    }

    fn count(&mut self, direction: Direction, excess: Duration) {
        if !excess.is_zero() {
            self.throttled[direction as usize] += 1;
            let sum = &mut self.throttled_time[direction as usize];
            *sum = sum.saturating_add(excess);
        }
    }

    /// With whom somebody's bytes are counted: by themselves, or with others when there are too many.
    fn payer(&mut self, now: Duration, payer: &Payer) -> Payer {
        if !self.meters.contains_key(payer) {
            self.make_room(now);
            if self.meters.len() >= METERS_MAX {
                return Payer::common(payer.direction);
            }
        }
        payer.clone()
    }

    /// When there are as many meters as there may be, those that were not used in a window go; once in a sample.
    fn make_room(&mut self, now: Duration) {
        let window = self.window;
        if self.meters.len() >= METERS_MAX && now >= self.swept_at + window.length {
            self.swept_at = now;
            self.meters.retain(|_, meter| meter.untold > 0 || meter.rate.amount(window, now) > 0);
        }
    }

    /// Takes what the other shards are to be told now: a bounded part of it.
    fn take_untold(&mut self, now: Duration) -> Option<Vec<Used>> {
        self.tell_at.filter(|at| *at <= now)?;
        let first = self.untold.len().saturating_sub(TOLD_AT_ONCE_MAX);
        let told = self.untold.split_off(first);
        self.tell_at = (!self.untold.is_empty()).then_some(now);
        let mut used = Vec::with_capacity(told.len());
        for payer in told {
            let meter = self.meters.get_mut(&payer).expect("what is untold is kept");
            used.push(Used { bytes: std::mem::take(&mut meter.untold), payer });
        }
        Some(used)
    }

    /// Another shard says what its clients used.
    pub fn told(&mut self, now: Now, used: &[Used]) {
        for Used { payer, bytes } in used {
            let payer = self.payer(now.elapsed, payer);
            self.meters.entry(payer).or_default().rate.record(self.window, now.elapsed, *bytes);
        }
    }

    /// A connection is not read from until this time; `before`: until when it was not to be read from so far.
    pub fn mute(&mut self, connection: ConnectionId, before: Option<Duration>, until: Duration) {
        if let Some(before) = before {
            self.muted.remove(&(before, connection));
        }
        self.muted.insert((until, connection));
    }

    /// Takes the next of the connections that are to be read from again.
    pub fn take_released(&mut self, now: Duration) -> Option<ConnectionId> {
        let &(until, connection) = self.muted.first().filter(|(until, _)| *until <= now)?;
        self.muted.remove(&(until, connection));
        Some(connection)
    }

    /// Tells the other shards what was used. Returns whether there was anything to tell.
    pub fn tell(&mut self, turn: &mut Turn<'_>) -> bool {
        let Some(used) = self.take_untold(turn.now.elapsed) else { return false };
        let used = Arc::new(used);
        for shard in (0..turn.options.shards).filter(|shard| *shard != turn.options.index) {
            turn.effects.push(Effect::ToShard { shard, message: Message::QuotaUse(Arc::clone(&used)) });
        }
        true
    }

    /// Gauges and counters, for a scrape.
    pub fn samples(&self, samples: &mut Vec<Sample>) {
        for direction in Direction::ALL {
            let labels = || vec![("api", direction.name())];
            let index = direction as usize;
            samples.push(Sample {
                labels: labels(),
                ..Sample::counter(
                    "millstream_quota_throttled_total",
                    "Requests whose client was told to wait because of a quota.",
                    self.throttled[index],
                )
            });
            samples.push(Sample {
                name: "millstream_quota_throttled_seconds_total",
                help: "Time that clients were told to wait because of a quota.",
                kind: Kind::Counter,
                labels: labels(),
                value: self.throttled_time[index].as_secs_f64(),
            });
        }
        samples.extend([
            Sample::gauge(
                "millstream_connections_muted",
                "Client connections that are not read from because of a quota.",
                self.muted.len() as u64,
            ),
            Sample::gauge(
                "millstream_quota_clients",
                "Clients and users under a quota that are counted.",
                self.meters.len() as u64,
            ),
        ]);
    }

    /// A connection is gone.
    pub fn disconnected(&mut self, connection: ConnectionId, muted_until: Option<Duration>) {
        if let Some(until) = muted_until {
            self.muted.remove(&(until, connection));
        }
    }

    /// When something is due.
    pub fn next_deadline(&self) -> Option<Duration> {
        let muted = self.muted.first().map(|(until, _)| *until);
        [muted, self.tell_at].into_iter().flatten().min()
    }
}

/// As the protocol has it: milliseconds, not less than it takes.
pub fn throttle_time_ms(time: Duration) -> i32 {
    i32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use millstream_replication::{ClusterImage, MetadataRecord, QuotaEntity, QuotaValue};

    use super::*;

    fn image() -> ClusterImage {
        let mut image = ClusterImage::new();
        image.replay(&MetadataRecord::Quota {
            entity: QuotaEntity::Client(None),
            key: PRODUCER_BYTE_RATE.to_string(),
            value: QuotaValue::new(1_000.0),
        });
        image
    }

    fn at(seconds: u64) -> Now {
        Now { elapsed: Duration::from_secs(seconds), unix_ms: 0 }
    }

    #[test]
    fn clients_that_change_their_names_are_counted_in_common_when_they_are_too_many() {
        let image = image();
        let mut quotas = Quotas::new(&Properties::new());
        quotas.changed(image.quotas());
        let mut produce = |now, name: &str| {
            let charge = quotas.charge(image.quotas(), Direction::Produce, Some(name)).expect("a default");
            let throttle = quotas.used(now, &charge, 1_000, 2);
            assert!(quotas.clients[0].len() <= CLIENTS_MAX && quotas.meters.len() <= METERS_MAX + 1);
            throttle
        };
        for client in 0..METERS_MAX {
            assert_eq!(produce(at(1), &client.to_string()), Duration::ZERO);
        }
        let throttled = (0..100).filter(|client| !produce(at(1), &format!("late-{client}")).is_zero()).count();
        assert_eq!(throttled, 90, "together they have the 10,000 bytes of one");

        // The other shards are told in pieces.
        let mut told = 0;
        while let Some(used) = quotas.take_untold(Duration::from_secs(2)) {
            assert!(used.len() <= TOLD_AT_ONCE_MAX);
            told += used.iter().map(|used| used.bytes).sum::<u64>();
        }
        assert_eq!((told, quotas.next_deadline()), (1_000 * (METERS_MAX as u64 + 100), None));

        // Those who were silent for a window make room.
        let charge = quotas.charge(image.quotas(), Direction::Produce, Some("new")).expect("a default");
        assert_eq!(quotas.used(at(20), &charge, 1_000, 2), Duration::ZERO);
        assert_eq!(quotas.meters.len(), 1);
    }

    #[test]
    fn throttle_times_are_rounded_up_and_fit_the_protocol() {
        assert_eq!(throttle_time_ms(Duration::from_micros(1)), 1);
        assert_eq!(throttle_time_ms(Duration::ZERO), 0);
        assert_eq!(throttle_time_ms(Duration::MAX), i32::MAX);
    }
}
