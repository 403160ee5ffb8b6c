//! What is done with the answer to a read before it is sent: it is measured, and cut to a limit.

use super::{ReadPart, ReadPlan};

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
    use bytes::Bytes;

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
