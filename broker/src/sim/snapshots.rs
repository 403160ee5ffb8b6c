//! Counts the snapshots that controllers take of their metadata logs, and where they are interrupted: a simulation that
//! takes few shows little.

use millstream_storage::DiskOp;

/// What became of the snapshots of the metadata log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Snapshots {
    /// Snapshots that were taken.
    pub taken: usize,
    /// Ends of the node within the operations of one: the new log's beginning, the snapshot, the removal of the old log.
    pub interrupted: [usize; 3],
}

impl Snapshots {
    /// Adds what another simulation has counted.
    pub fn add_all(&mut self, other: Snapshots) {
        self.taken += other.taken;
        self.interrupted.iter_mut().zip(other.interrupted).for_each(|(sum, more)| *sum += more);
    }

    /// Which of a snapshot's operations this is, if it is one: it is recognised by its file, as an operator would.
    pub fn step(op: &DiskOp) -> Option<usize> {
        match op {
            DiskOp::Replace { path, .. } if path.ends_with(".log") => Some(0),
            DiskOp::Replace { .. } => Some(1),
            DiskOp::Remove { .. } => Some(2),
            _ => None,
        }
    }
}
