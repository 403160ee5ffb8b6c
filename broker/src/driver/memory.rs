//! The memory budget: one setting, `millstream.memory.bytes`, split into named parts at the start and kept while running.
//!
//! Each part is bounded where it is used. What the bounds cannot foresee is seen by the count of the whole heap
//! ([`super::allocator`]): from three quarters of the budget on the broker takes less in ([`Pressure`]), and parts with
//! clients that hold memory and do nothing with it.

use std::path::Path;

use super::{allocator, control_group};
use crate::config::BrokerConfig;
use crate::metrics::{Kind, Sample};

/// The budget when none is given, as a share of the machine's (or the control group's) memory: 1 / 4.
const MACHINE_SHARE: u64 = 4;
/// What is assumed where the system does not say.
const UNKNOWN_MACHINE_BYTES: u64 = 2 << 30;
/// The smallest budget that is chosen.
const BUDGET_BYTES_MIN: u64 = 192 << 20;
/// For the program, its threads and what has no part of its own.
const BASE_BYTES: u64 = 32 << 20;
/// The same for each shard: stacks, the arena of its executor, tables.
const SHARD_BYTES: u64 = 20 << 20;
/// Groups' share of the budget, and that of idempotent producers: 1 / 16 each.
const STATE_SHARE: u64 = 16;
/// The share for requests that are being received, over all shards: 1 / 32.
const RECEIVING_SHARE: u64 = 32;
/// The least and the most of it for one shard.
const RECEIVING_BYTES: std::ops::RangeInclusive<u64> = (2 << 20)..=(64 << 20);
/// A journal is not made smaller than this to fit the budget,
const JOURNAL_BYTES_MIN: u64 = 16 << 20;
/// nor the memory for the newest records than this,
const TAIL_BYTES_MIN: u64 = 4 << 20;
/// nor what compactions remember than this,
const CLEANER_MAP_BYTES_MIN: u64 = 4 << 20;
/// nor the largest request than this.
const REQUEST_BYTES_MIN: u64 = 4 << 20;

/// How much of the budget is in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pressure {
    /// Less than three quarters.
    None,
    /// Three quarters: few requests a turn are handled, and clients that take nothing for some seconds are cut.
    Tight,
    /// Nine tenths: nothing is read or accepted until there is less, and clients are cut sooner.
    Full,
}

/// The budget and its parts, in bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryBudget {
    /// All of it.
    pub total: u64,
    /// The part for the program, its threads and what has no part of its own.
    base: u64,
    /// What is received of requests that are not complete, for one shard; large ones have half as much besides, and one
    /// more request of each kind may go beyond it.
    pub receiving_of_shard: usize,
    /// The state of all groups.
    pub groups: usize,
    /// Idempotent producers of all partitions.
    pub producers: usize,
    /// The parts by name, for people.
    parts: Vec<(&'static str, u64)>,
}

impl MemoryBudget {
    /// Splits the budget. What was not configured explicitly is made smaller until it fits: the largest request, the
    /// journals, the memory for the newest records. The error is one line for people.
    pub fn plan(config: &mut BrokerConfig, shards: usize, machine_bytes: u64) -> Result<MemoryBudget, String> {
        let total = config.memory_bytes.unwrap_or_else(|| (machine_bytes / MACHINE_SHARE).max(BUDGET_BYTES_MIN));
        loop {
            let budget = MemoryBudget::split(config, shards as u64, total);
            let needed: u64 = budget.parts.iter().map(|(_, bytes)| bytes).sum();
            if needed <= tight(total) {
                return Ok(budget);
            }
            if !shrink(config, shards as u64) {
                let parts: Vec<String> =
                    budget.parts.iter().map(|(name, bytes)| format!("{name} {} MiB", bytes >> 20)).collect();
                return Err(format!(
                    "millstream.memory.bytes is {} MiB, three quarters of it must hold {}: raise it, or lower \
                     socket.request.max.bytes, millstream.journal.bytes, millstream.tail.memory.bytes, \
                     log.cleaner.dedupe.buffer.size or millstream.shards",
                    total >> 20,
                    parts.join(", ")
                ));
            }
        }
    }

    fn split(config: &BrokerConfig, shards: u64, total: u64) -> MemoryBudget {
        let receiving = (total / RECEIVING_SHARE / shards).clamp(*RECEIVING_BYTES.start(), *RECEIVING_BYTES.end());
        let state = total / STATE_SHARE;
        let tail = config.tail_memory_bytes as u64;
        let bytes = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let base = BASE_BYTES + shards * SHARD_BYTES;
        MemoryBudget {
            total,
            base,
            receiving_of_shard: bytes(receiving),
            groups: bytes(state),
            producers: bytes(state),
            parts: vec![
                ("base", base),
                // The newest; all that is in the journals and not in segments yet is among them. A quarter more is kept
                // for reuse.
                ("records", shards * (config.journal_bytes.max(tail) + tail / 4)),
                // Half as much for large ones; a block may be twice as large as what it is for; and as much again is kept
                // for reuse.
                ("requests received", 4 * shards * receiving),
                // The one that goes beyond, which is copied once as it grows.
                ("largest requests", 2 * shards * config.request_bytes_max as u64),
                ("groups", state),
                ("producers", state),
                // The keys that compactions remember.
                ("compaction", config.cleaner_map_bytes),
            ],
        }
    }

    /// A budget that is never reached.
    #[cfg(test)]
    pub fn for_tests() -> MemoryBudget {
        MemoryBudget {
            total: u64::MAX,
            base: 0,
            receiving_of_shard: 4 << 20,
            groups: 1 << 20,
            producers: 1 << 20,
            parts: Vec::new(),
        }
    }

    /// How much of it is in use: the heap, and what the process has besides.
    pub fn pressure(&self) -> Pressure {
        self.pressure_at(allocator::live_bytes() + self.base)
    }

    fn pressure_at(&self, live: u64) -> Pressure {
        if live < tight(self.total) {
            Pressure::None
        } else if live < self.total / 10 * 9 {
            Pressure::Tight
        } else {
            Pressure::Full
        }
    }

    /// The parts, for the log.
    pub fn describe(&self) -> String {
        let parts: Vec<String> = self.parts.iter().map(|(name, bytes)| format!("{name} {}", bytes >> 20)).collect();
        format!("memory budget {} MiB, at most: {}", self.total >> 20, parts.join(", "))
    }

    /// The process's figures for a scrape.
    pub fn samples(&self, samples: &mut Vec<Sample>) {
        let mut gauge = |name, help, value: u64| {
            samples.push(Sample { name, help, kind: Kind::Gauge, labels: Vec::new(), value: value as f64 });
        };
        gauge("millstream_memory_budget_bytes", "millstream.memory.bytes, or what was chosen.", self.total);
        gauge("millstream_memory_heap_bytes", "Heap in use by the process.", allocator::live_bytes());
        let pressure = self.pressure() as u64;
        gauge("millstream_memory_pressure", "0: enough memory, 1: tight, 2: full, nothing is read.", pressure);
    }
}

/// The machine's memory, or that of the control group if it has less.
pub fn machine_bytes() -> u64 {
    let machine = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| total_of(&text));
    let group = control_group::memory_bytes(Path::new("/"));
    machine.into_iter().chain(group).min().unwrap_or(UNKNOWN_MACHINE_BYTES)
}

/// `MemTotal` of `/proc/meminfo`, in bytes.
fn total_of(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn tight(total: u64) -> u64 {
    total / 4 * 3
}

/// Halves the largest part that may be halved; false when there is none.
fn shrink(config: &mut BrokerConfig, shards: u64) -> bool {
    let is_given = |name: &str| config.properties.contains_key(name);
    let journal = shards * config.journal_bytes;
    let tail = shards * config.tail_memory_bytes as u64;
    let requests = 2 * shards * config.request_bytes_max as u64;
    let map = config.cleaner_map_bytes;
    let candidates = [
        (map, map, CLEANER_MAP_BYTES_MIN, "log.cleaner.dedupe.buffer.size"),
        (requests, config.request_bytes_max as u64, REQUEST_BYTES_MIN, "socket.request.max.bytes"),
        (journal, config.journal_bytes, JOURNAL_BYTES_MIN, "millstream.journal.bytes"),
        (tail, config.tail_memory_bytes as u64, TAIL_BYTES_MIN, "millstream.tail.memory.bytes"),
    ];
    let largest = candidates
        .into_iter()
        .filter(|(_, bytes, least, name)| bytes / 2 >= *least && !is_given(name))
        .max_by_key(|(part, ..)| *part);
    match largest {
        Some((_, bytes, _, "millstream.journal.bytes")) => config.journal_bytes = bytes / 2,
        Some((_, bytes, _, "log.cleaner.dedupe.buffer.size")) => config.cleaner_map_bytes = bytes / 2,
        Some((_, bytes, _, "millstream.tail.memory.bytes")) => config.tail_memory_bytes = (bytes / 2) as usize,
        Some((_, bytes, ..)) => config.request_bytes_max = (bytes / 2) as usize,
        None => return false,
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(overrides: &[&str]) -> BrokerConfig {
        let overrides: Vec<String> = overrides.iter().map(ToString::to_string).collect();
        BrokerConfig::load(None, &overrides).expect("legal")
    }

    #[test]
    fn a_large_machine_keeps_the_defaults() {
        let mut config = load(&[]);
        let budget = MemoryBudget::plan(&mut config, 2, 32 << 30).expect("it fits");
        assert_eq!(budget.total, 8 << 30);
        assert_eq!(config.request_bytes_max, 100 << 20);
        assert_eq!((config.journal_bytes, config.tail_memory_bytes), (128 << 20, 128 << 20));
    }

    #[test]
    fn on_a_small_machine_everything_that_was_not_given_shrinks() {
        let mut config = load(&[]);
        let budget = MemoryBudget::plan(&mut config, 2, 2 << 30).expect("it fits");
        assert_eq!(budget.total, 512 << 20);
        assert!(config.request_bytes_max < 100 << 20 && config.request_bytes_max >= REQUEST_BYTES_MIN as usize);
        assert!(config.journal_bytes >= JOURNAL_BYTES_MIN);
        let mut config = load(&["socket.request.max.bytes=52428800", "millstream.memory.bytes=805306368"]);
        MemoryBudget::plan(&mut config, 2, 2 << 30).expect("it fits");
        assert_eq!(config.request_bytes_max, 50 << 20, "what was given stays");
    }

    #[test]
    fn what_cannot_fit_is_refused_with_the_names_to_change() {
        let mut config = load(&["millstream.memory.bytes=268435456", "millstream.journal.bytes=134217728"]);
        let why = MemoryBudget::plan(&mut config, 4, 2 << 30).expect_err("too much");
        assert!(why.contains("256 MiB") && why.contains("records 516 MiB"), "{why}");
    }

    #[test]
    fn the_machine_has_memory() {
        assert_eq!(total_of("MemFree: 1 kB\nMemTotal:       24560 kB\n"), Some(24_560 << 10));
        assert_eq!(total_of("nothing"), None);
        assert!(machine_bytes() > 64 << 20);
    }

    #[test]
    fn pressure_grows_with_what_is_in_use() {
        let budget = MemoryBudget::plan(&mut load(&[]), 2, 32 << 30).expect("it fits");
        let at = |percent: u64| budget.pressure_at((budget.total / 100) * percent);
        assert_eq!([at(10), at(74), at(76), at(89), at(91)].map(|pressure| pressure as u8), [0, 0, 1, 1, 2]);
    }
}
