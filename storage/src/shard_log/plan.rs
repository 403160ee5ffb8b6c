//! The answer to a read: slices of memory and ranges of files. It owns what it names, and is measured and cut to a limit
//! before it is sent.

use bytes::Bytes;

use crate::disk::FilePath;

/// A slice of a partition's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadPart {
    /// Bytes in memory.
    Memory(Bytes),
    /// A range of a segment file. The file stays for at least `file.delete.delay.ms`.
    File {
        /// The segment's file.
        path: FilePath,
        /// The first byte.
        position: u64,
        /// How many bytes.
        bytes: usize,
    },
}

/// An answer to a read: whole batches from the one containing the offset, the last possibly cut.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadPlan {
    /// Slices in order; none when there is nothing to read yet.
    pub parts: Vec<ReadPart>,
    /// Total length of `parts`.
    pub bytes: usize,
    /// Length of the first batch, which must be sent whole or not at all; 0 when there is none.
    pub first_batch_bytes: usize,
}

impl ReadPart {
    /// Length in bytes.
    pub fn bytes(&self) -> usize {
        match self {
            ReadPart::Memory(bytes) => bytes.len(),
            ReadPart::File { bytes, .. } => *bytes,
        }
    }
}

impl ReadPlan {
    /// After a read: the slices are as long as they say, and the first batch is whole.
    pub(super) fn assert_sound(&self) {
        debug_assert_eq!(self.bytes, self.parts.iter().map(ReadPart::bytes).sum::<usize>());
        assert!(self.first_batch_bytes <= self.bytes, "the first batch is whole: {self:?}");
        assert_eq!(self.bytes == 0, self.parts.is_empty(), "no slice is empty");
    }

    /// Whether it needs a file.
    pub fn has_file(&self) -> bool {
        self.parts.iter().any(|part| matches!(part, ReadPart::File { .. }))
    }

    /// Cuts it to at most `bytes_max`; a batch may be cut, as clients expect of the last one.
    pub fn cut(&mut self, bytes_max: usize) {
        if self.bytes <= bytes_max {
            return;
        }
        let mut left = bytes_max;
        self.bytes = bytes_max;
        self.parts.retain_mut(|part| {
            let keep = part.bytes().min(left);
            left -= keep;
            match part {
                ReadPart::Memory(bytes) => bytes.truncate(keep),
                ReadPart::File { bytes, .. } => *bytes = keep,
            }
            keep > 0
        });
        assert_eq!(left, 0, "a plan has as many bytes as its parts");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_cut_within_a_part_and_behind_it() {
        let memory = ReadPart::Memory(Bytes::from_static(b"abcde"));
        let file = ReadPart::File { path: "segment".into(), position: 7, bytes: 10 };
        let plan = ReadPlan { parts: vec![memory.clone(), file.clone()], bytes: 15, first_batch_bytes: 5 };
        let cut = |bytes_max| {
            let mut cut = plan.clone();
            cut.cut(bytes_max);
            assert_eq!(cut.parts.iter().map(ReadPart::bytes).sum::<usize>(), cut.bytes);
            (cut.bytes, cut.parts.len(), cut.has_file())
        };
        assert_eq!(cut(20), (15, 2, true));
        assert_eq!(cut(9), (9, 2, true));
        assert_eq!(cut(5), (5, 1, false));
        assert_eq!(cut(3), (3, 1, false));
        assert_eq!(cut(0), (0, 0, false));
    }
}
