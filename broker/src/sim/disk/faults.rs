//! How a disk misbehaves while it has power.

use millstream_storage::random::Random;

/// How the disk misbehaves apart from losing power.
#[derive(Clone, Debug, Default)]
pub struct DiskFaults {
    /// Space for files, in bytes; `None` is without limit.
    pub capacity_bytes: Option<u64>,
    /// One write or sync in this many fails; 0 is none.
    pub fail_one_in: u64,
    /// One sync in this many fails besides; 0 is none.
    pub fail_sync_one_in: u64,
    /// Operations on these files take longer.
    pub slow: Option<Slow>,
    /// One read in this many, of a block or more, brings a flipped bit; 0 is none.
    pub flip_read_one_in: u64,
}

/// A disk that is slow for a while.
#[derive(Clone, Debug)]
pub struct Slow {
    /// How many times longer operations take.
    pub times: u64,
    /// Part of the paths of the files that are concerned; empty is all of them.
    pub paths: String,
}

impl DiskFaults {
    /// Becomes slow in some way, or quick again.
    pub fn turn_slow(&mut self, random: &mut Random) {
        self.slow = match self.slow {
            Some(_) => None,
            None => {
                let paths = ["", "", "/shard-0/", "/shard-1/", "topics/", "metadata/"][random.index(6)].to_string();
                Some(Slow { times: random.between(5, 50), paths })
            }
        };
    }
}
