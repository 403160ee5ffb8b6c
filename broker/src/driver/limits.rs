//! Whether a new connection is let in: one count of the connections of all shards, and of how fast they come.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::config::ConnectionRules;
use crate::rate::{Rate, Window};

/// Addresses whose rates are counted one by one; those beyond are not let in faster than one address would be.
const ADDRESSES_MAX: usize = 10_000;

/// What is to become of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Admission {
    /// It is in; [`ConnectionLimits::leave`] follows.
    Admitted,
    /// Its address has too many: it is closed.
    TooMany,
    /// Its address opens them too fast: it is closed after this time, so that the client does not come back at once.
    TooFast(Duration),
}

/// Counts the connections of the whole process.
#[derive(Debug)]
pub struct ConnectionLimits {
    /// What the process's descriptors allow.
    descriptors_max: usize,
    window: Window,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rules: Arc<ConnectionRules>,
    count: usize,
    by_address: HashMap<IpAddr, usize>,
    rate: Rate,
    /// Of addresses whose rate is limited; `None`: of all those that are not counted one by one.
    rates: HashMap<Option<IpAddr>, Rate>,
}

impl ConnectionLimits {
    /// No connections yet. Rates are taken over `window`.
    pub fn new(descriptors_max: usize, window: Window, rules: ConnectionRules) -> ConnectionLimits {
        let state = State {
            rules: Arc::new(rules),
            count: 0,
            by_address: HashMap::new(),
            rate: Rate::default(),
            rates: HashMap::new(),
        };
        ConnectionLimits { descriptors_max, window, state: Mutex::new(state) }
    }

    /// Other rules hold from now on, for new connections.
    pub fn change(&self, rules: Arc<ConnectionRules>) {
        let mut state = self.state();
        if rules.address_rate.is_none() && rules.address_rates.is_empty() {
            state.rates.clear();
        }
        state.rules = rules;
    }

    /// Whether a connection may be accepted now, whoever it is from. If not, it waits in the kernel's queue, as with
    /// Kafka, for at least this long.
    pub fn must_wait(&self, now: Duration) -> Option<Duration> {
        let mut state = self.state();
        let state = &mut *state;
        if state.count >= state.rules.connections_max.min(self.descriptors_max) {
            return Some(Duration::ZERO);
        }
        let limit = f64::from(state.rules.creation_rate);
        if state.rules.creation_rate >= i32::MAX as u32 || state.rate.room(self.window, now, limit) > 0 {
            return None;
        }
        // Until there is room for one.
        Some(state.rate.excess(self.window, now, limit).max(Duration::from_secs(1).div_f64(limit.max(1.0))))
    }

    /// Lets a connection in, or not.
    pub fn admit(&self, now: Duration, address: IpAddr) -> Admission {
        let window = self.window;
        let mut state = self.state();
        let state = &mut *state;
        let of_address = state.by_address.get(&address).copied().unwrap_or(0);
        if of_address >= state.rules.of_address_max(address) {
            return Admission::TooMany;
        }
        if let Some(limit) = state.rules.rate_of_address(address) {
            let rate = state.rate_of(window, now, address);
            if rate.room(window, now, limit) == 0 {
                return Admission::TooFast(rate.excess(window, now, limit) + Duration::from_secs(1).div_f64(limit));
            }
            rate.record(window, now, 1);
        }
        if state.rules.creation_rate < i32::MAX as u32 {
            state.rate.record(window, now, 1);
        }
        state.count += 1;
        state.by_address.insert(address, of_address + 1);
        Admission::Admitted
    }

    /// An admitted connection has ended.
    pub fn leave(&self, address: IpAddr) {
        let mut state = self.state();
        state.count -= 1;
        let of_address = state.by_address.get_mut(&address).expect("it was admitted");
        *of_address -= 1;
        if *of_address == 0 {
            state.by_address.remove(&address);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn rate_of(&mut self, window: Window, now: Duration, address: IpAddr) -> &mut Rate {
        let mut counted = Some(address);
        if !self.rates.contains_key(&counted) && self.rates.len() >= ADDRESSES_MAX {
            self.rates.retain(|_, rate| rate.amount(window, now) > 0);
            if self.rates.len() >= ADDRESSES_MAX {
                counted = None;
            }
        }
        self.rates.entry(counted).or_default()
    }
}

#[cfg(test)]
pub mod tests {
    use millstream_replication::ClusterImage;

    use super::*;

    const WINDOW: Window = Window { samples: 3, length: Duration::from_secs(1) };

    /// Rules that limit nothing but the counts.
    pub fn rules(connections_max: usize, per_address_max: usize) -> ConnectionRules {
        let none = ConnectionRules::new(&[], ClusterImage::new().quotas());
        ConnectionRules { connections_max, per_address_max, ..none }
    }

    /// Limits of nothing but the counts.
    pub fn limits(connections_max: usize, per_address_max: usize) -> ConnectionLimits {
        ConnectionLimits::new(usize::MAX, WINDOW, rules(connections_max, per_address_max))
    }

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn seconds(seconds: f64) -> Duration {
        Duration::from_secs_f64(seconds)
    }

    #[test]
    fn counts_are_bounded_in_all_and_for_each_address() {
        let limits = limits(3, 1);
        assert_eq!(limits.admit(Duration::ZERO, address(1)), Admission::Admitted);
        assert_eq!(limits.admit(Duration::ZERO, address(1)), Admission::TooMany);
        assert_eq!(limits.admit(Duration::ZERO, address(2)), Admission::Admitted);
        assert_eq!(limits.must_wait(Duration::ZERO), None);
        let overrides = HashMap::from([(address(1), 2)]);
        limits.change(Arc::new(ConnectionRules { overrides, ..rules(3, 1) }));
        assert_eq!(limits.admit(Duration::ZERO, address(1)), Admission::Admitted);
        assert_eq!(limits.must_wait(Duration::ZERO), Some(Duration::ZERO));
        limits.leave(address(2));
        assert_eq!(limits.must_wait(Duration::ZERO), None);
        let few = ConnectionLimits::new(1, WINDOW, rules(9, 9));
        assert_eq!(few.admit(Duration::ZERO, address(1)), Admission::Admitted);
        assert!(few.must_wait(Duration::ZERO).is_some(), "there are no descriptors left");
    }

    #[test]
    fn new_connections_keep_to_the_rate() {
        let limits = limits(usize::MAX, usize::MAX);
        limits.change(Arc::new(ConnectionRules { creation_rate: 10, ..rules(usize::MAX, usize::MAX) }));
        let (mut now, mut admitted) = (Duration::ZERO, 0);
        while now < seconds(60.0) {
            match limits.must_wait(now) {
                Some(wait) => now += wait.max(Duration::from_millis(1)),
                None => {
                    assert_eq!(limits.admit(now, address(1)), Admission::Admitted);
                    admitted += 1;
                }
            }
        }
        assert!((550..700).contains(&admitted), "{admitted} in a minute");
    }

    #[test]
    fn an_address_that_is_too_fast_is_told_so_and_others_are_not() {
        let limits = limits(usize::MAX, usize::MAX);
        let address_rates = HashMap::from([(address(1), 2.0)]);
        limits.change(Arc::new(ConnectionRules { address_rates, ..rules(usize::MAX, usize::MAX) }));
        let admit = |now, last| limits.admit(seconds(now), address(last));
        for _ in 0..4 {
            assert_eq!(admit(1.0, 1), Admission::Admitted);
        }
        assert_eq!(admit(1.0, 1), Admission::TooFast(seconds(0.5)));
        assert_eq!(admit(1.0, 2), Admission::Admitted);
        assert_eq!(admit(4.0, 1), Admission::Admitted);
    }

    #[test]
    fn the_addresses_that_are_counted_are_bounded() {
        let limits = limits(usize::MAX, usize::MAX);
        limits.change(Arc::new(ConnectionRules { address_rate: Some(1.0), ..rules(usize::MAX, usize::MAX) }));
        let address = |number: u32| IpAddr::from(number.to_be_bytes());
        for number in 0..ADDRESSES_MAX as u32 {
            assert_eq!(limits.admit(Duration::ZERO, address(number)), Admission::Admitted);
        }
        let more = ADDRESSES_MAX as u32..ADDRESSES_MAX as u32 + 50;
        let admitted = more.filter(|n| limits.admit(Duration::ZERO, address(*n)) == Admission::Admitted).count();
        assert_eq!(admitted, 2, "as many as one address could open");
        assert_eq!(limits.state().rates.len(), ADDRESSES_MAX + 1);
        assert_eq!(limits.admit(seconds(9.0), address(1 << 20)), Admission::Admitted);
        assert_eq!(limits.state().rates.len(), 1);
    }
}
