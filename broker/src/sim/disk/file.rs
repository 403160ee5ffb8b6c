//! A file: what reads see, and what a loss of power leaves of it.

use std::collections::BTreeMap;
use std::ops::Range;

use millstream_storage::random::Random;

/// What a disk writes all at once or not at all.
pub const SECTOR_BYTES: usize = 512;

type Sector = [u8; SECTOR_BYTES];

#[derive(Clone, Debug, Default)]
pub struct File {
    /// What reads see.
    pub content: Vec<u8>,
    /// What survives a loss of power, whatever happens.
    pub durable: Vec<u8>,
    /// Sectors that may survive in another version than the durable one: (number of the write, bytes), in order.
    pub versions: BTreeMap<usize, Vec<(u64, Box<Sector>)>>,
    /// The name survives a loss of power.
    pub is_named_durably: bool,
    pub reserved_bytes: u64,
}

impl File {
    pub fn bytes_used(&self) -> u64 {
        (self.content.len() as u64).max(self.reserved_bytes)
    }

    fn sector(&self, index: usize) -> Box<Sector> {
        let mut sector = Box::new([0; SECTOR_BYTES]);
        let start = (index * SECTOR_BYTES).min(self.content.len());
        let end = (start + SECTOR_BYTES).min(self.content.len());
        sector[..end - start].copy_from_slice(&self.content[start..end]);
        sector
    }

    /// Writes the sectors for which `chosen` says so.
    pub fn write(&mut self, write: u64, position: usize, data: &[u8], mut chosen: impl FnMut() -> bool) {
        for (index, chunk) in data.chunks(SECTOR_BYTES).enumerate() {
            if !chosen() {
                continue;
            }
            let start = position + index * SECTOR_BYTES;
            let end = start + chunk.len();
            if self.content.len() < end {
                self.content.resize(end, 0);
            }
            self.content[start..end].copy_from_slice(chunk);
            let sector = start / SECTOR_BYTES;
            let version = self.sector(sector);
            self.versions.entry(sector).or_default().push((write, version));
        }
    }

    /// Makes durable what the sectors from `first` to before `last` held after write number `until`.
    pub fn make_durable(&mut self, sectors: Range<usize>, until: u64) {
        let File { durable, versions, .. } = self;
        for (&index, versions) in versions.range_mut(sectors) {
            let settled = versions.partition_point(|(write, _)| *write <= until);
            if let Some((_, version)) = versions.drain(..settled).next_back() {
                let start = index * SECTOR_BYTES;
                let end = start + SECTOR_BYTES;
                if durable.len() < end {
                    durable.resize(end, 0);
                }
                durable[start..end].copy_from_slice(&version[..]);
            }
        }
        versions.retain(|_, versions| !versions.is_empty());
    }

    pub fn make_all_durable(&mut self) {
        self.durable.clone_from(&self.content);
        self.versions.clear();
    }

    pub fn lose_power(&mut self, random: &mut Random) {
        // Whether this file is hit at all, and how hard, differs from file to file: all or nothing must happen, too.
        let survival = random.below(5);
        let mut content = std::mem::take(&mut self.durable);
        for (index, versions) in std::mem::take(&mut self.versions) {
            let kept = match survival {
                0 => 0,
                1 => versions.len(),
                _ => random.index(versions.len() + 1),
            };
            let Some((_, version)) = kept.checked_sub(1).map(|last| &versions[last]) else { continue };
            let start = index * SECTOR_BYTES;
            if content.len() < start + SECTOR_BYTES {
                content.resize(start + SECTOR_BYTES, 0);
            }
            content[start..start + SECTOR_BYTES].copy_from_slice(&version[..]);
        }
        self.content.clone_from(&content);
        self.durable = content;
    }
}
