//! Cold reading: file ranges of responses are brought into the page cache before they are sent, because a `sendfile`
//! that misses it would block the core.
//!
//! It has a budget of its own, so that a backfill is not felt by producers and tail consumers: who exceeds it waits
//! for those before him.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use millstream_storage::DiskError;

use super::connection::SentRange;
use crate::shard::event::{Effect, PrefetchToken, RequestId};

/// Bytes that are brought into the page cache at once, over all responses of a shard. One response may exceed it
/// alone.
pub const COLD_BYTES_IN_FLIGHT_MAX: usize = 8 << 20;

/// A response whose ranges are on their way.
#[derive(Debug)]
struct Loading {
    ranges_left: usize,
    failure: Option<DiskError>,
}

/// Cold reading of a shard.
#[derive(Debug, Default)]
pub struct ColdReads {
    /// Responses that wait for the budget, first come first.
    queue: VecDeque<(RequestId, Vec<SentRange>)>,
    loading: HashMap<RequestId, Loading>,
    ranges: HashMap<PrefetchToken, (RequestId, usize)>,
    bytes_in_flight: usize,
    next_token: u64,
}

impl ColdReads {
    /// Responses that wait or load.
    pub fn len(&self) -> usize {
        self.queue.len() + self.loading.len()
    }

    /// Bytes on their way into the page cache.
    pub fn bytes_in_flight(&self) -> usize {
        self.bytes_in_flight
    }

    /// Brings a response's ranges, of which there is at least one, into the page cache when the budget allows.
    pub fn load(&mut self, request: RequestId, ranges: Vec<SentRange>, effects: &mut Vec<Effect>) {
        assert!(!ranges.is_empty(), "a response without ranges is sent at once");
        self.queue.push_back((request, ranges));
        self.start(effects);
    }

    /// A range is there, or cannot be. Returns the response that is complete with it.
    pub fn loaded(
        &mut self,
        token: PrefetchToken,
        result: Result<(), DiskError>,
        effects: &mut Vec<Effect>,
    ) -> Option<(RequestId, Result<(), DiskError>)> {
        let (request, bytes) = self.ranges.remove(&token).expect("a prefetch finishes once");
        assert!(self.bytes_in_flight >= bytes, "what is on its way is counted");
        self.bytes_in_flight -= bytes;
        let mut complete = None;
        // It may be gone: its connection is closed.
        if let Entry::Occupied(mut entry) = self.loading.entry(request) {
            let loading = entry.get_mut();
            assert!(loading.ranges_left > 0, "a range is loaded once");
            loading.ranges_left -= 1;
            loading.failure = loading.failure.take().or(result.err());
            if loading.ranges_left == 0 {
                complete = Some((request, entry.remove().failure.map_or(Ok(()), Err)));
            }
        }
        self.start(effects);
        complete
    }

    /// Forgets a response whose connection is gone; what was asked for already comes and is counted until then.
    pub fn cancel(&mut self, request: RequestId) {
        self.queue.retain(|(queued, _)| *queued != request);
        self.loading.remove(&request);
    }

    fn start(&mut self, effects: &mut Vec<Effect>) {
        while let Some((request, ranges)) = self.queue.pop_front() {
            let bytes: usize = ranges.iter().map(|range| range.bytes).sum();
            if self.bytes_in_flight > 0 && self.bytes_in_flight + bytes > COLD_BYTES_IN_FLIGHT_MAX {
                return self.queue.push_front((request, ranges));
            }
            self.loading.insert(request, Loading { ranges_left: ranges.len(), failure: None });
            for SentRange { path, position, bytes } in ranges {
                let token = PrefetchToken(self.next_token);
                self.next_token += 1;
                self.ranges.insert(token, (request, bytes));
                self.bytes_in_flight += bytes;
                effects.push(Effect::Prefetch { token, path, position, bytes });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::event::ConnectionId;

    fn request(sequence: u64) -> RequestId {
        RequestId { connection: ConnectionId(0), sequence }
    }

    fn range(bytes: usize) -> SentRange {
        SentRange { path: "segment".into(), position: 0, bytes }
    }

    fn tokens(effects: &mut Vec<Effect>) -> Vec<PrefetchToken> {
        let token = |effect: Effect| match effect {
            Effect::Prefetch { token, .. } => token,
            other => panic!("{other:?}"),
        };
        effects.drain(..).map(token).collect()
    }

    #[test]
    fn the_budget_admits_in_order_and_a_large_response_alone() {
        let mut effects = Vec::new();
        let mut cold = ColdReads::default();
        cold.load(request(0), vec![range(COLD_BYTES_IN_FLIGHT_MAX), range(1)], &mut effects);
        cold.load(request(1), vec![range(1)], &mut effects);
        let first = tokens(&mut effects);
        assert_eq!(first.len(), 2);
        assert_eq!(cold.bytes_in_flight(), COLD_BYTES_IN_FLIGHT_MAX + 1);
        assert_eq!(cold.loaded(first[0], Ok(()), &mut effects), None);
        let second = tokens(&mut effects);
        assert_eq!(second.len(), 1, "there is room for the next");
        let failure = Err(DiskError::NotFound);
        assert_eq!(cold.loaded(first[1], failure.clone(), &mut effects), Some((request(0), failure)));
        assert_eq!(cold.loaded(second[0], Ok(()), &mut effects), Some((request(1), Ok(()))));
        assert_eq!((cold.len(), cold.bytes_in_flight()), (0, 0));
    }

    #[test]
    fn a_response_that_is_gone_is_counted_until_its_ranges_came() {
        let mut effects = Vec::new();
        let mut cold = ColdReads::default();
        cold.load(request(0), vec![range(COLD_BYTES_IN_FLIGHT_MAX)], &mut effects);
        cold.load(request(1), vec![range(1)], &mut effects);
        cold.load(request(2), vec![range(1)], &mut effects);
        let first = tokens(&mut effects);
        cold.cancel(request(0));
        cold.cancel(request(1));
        assert_eq!(cold.bytes_in_flight(), COLD_BYTES_IN_FLIGHT_MAX);
        assert_eq!(cold.loaded(first[0], Ok(()), &mut effects), None);
        assert_eq!(tokens(&mut effects).len(), 1);
        assert_eq!((cold.len(), cold.bytes_in_flight()), (1, 1));
    }
}
