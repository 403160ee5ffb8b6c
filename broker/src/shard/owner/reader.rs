//! Reads of logs that wait for the disk: who each of them is for. They are in the order in which they began, so that
//! what follows from them has an order, too.

use std::collections::BTreeMap;

use millstream_storage::shard_log::{LogId, ReadToken};

use super::to_followers::Subscription;
use crate::shard::message::ReadItem;

/// How much one partition may add to a response (KIP-74).
#[derive(Clone, Copy, Debug)]
pub struct Allowance {
    /// Bytes of records.
    pub bytes: usize,
    /// Nothing was read before it: its first batch is taken however large.
    pub is_first: bool,
}

/// One partition of a fetch.
#[derive(Debug)]
pub struct FetchRead {
    /// The log that is read.
    pub log: LogId,
    /// Its read, as the reads of fetches know it.
    pub place: u32,
    /// The index of its result there.
    pub result: usize,
    /// What was asked for.
    pub item: ReadItem,
    /// What it may add.
    pub allowance: Allowance,
    /// It found its segment gone once already.
    pub again: bool,
}

/// Names one loading of the groups of one log: what comes back for another is too late.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadId {
    /// The log.
    pub log: LogId,
    /// Which of the loadings of this shard.
    pub generation: u64,
}

/// Whom a read of a log is for.
#[derive(Debug)]
pub enum Reader {
    /// For a fetch.
    Fetch(FetchRead),
    /// For groups that are being loaded.
    Groups(LoadId),
    /// For a follower of what has left memory.
    CatchUp(Subscription),
}

/// The reads under way.
#[derive(Debug, Default)]
pub struct Readers {
    by_token: BTreeMap<ReadToken, Reader>,
}

impl Readers {
    /// A read has begun.
    pub fn insert(&mut self, token: ReadToken, reader: Reader) {
        let previous = self.by_token.insert(token, reader);
        assert!(previous.is_none(), "a log names each of its reads by another token");
    }

    /// A read is done: takes out whom it is for, unless nobody waits for it any more.
    pub fn remove(&mut self, token: ReadToken) -> Option<Reader> {
        self.by_token.remove(&token)
    }

    /// Takes out the fetches that wait for a log.
    pub fn take_fetches(&mut self, log: LogId) -> Vec<FetchRead> {
        let concerns = |reader: &Reader| matches!(reader, Reader::Fetch(fetch) if fetch.log == log);
        let tokens: Vec<ReadToken> =
            self.by_token.iter().filter(|(_, reader)| concerns(reader)).map(|(token, _)| *token).collect();
        let taken = tokens.into_iter().filter_map(|token| self.by_token.remove(&token));
        taken.filter_map(|reader| if let Reader::Fetch(fetch) = reader { Some(fetch) } else { None }).collect()
    }
}
