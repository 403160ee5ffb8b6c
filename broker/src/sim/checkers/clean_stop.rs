//! A node that starts knows whether its last run ended in order.
//!
//! KIP-966: a broker registers with the epoch of its last run only if that one ended cleanly, for only then may the
//! controller believe that the broker's logs have lost nothing.

use millstream_storage::recovery::LastShutdown;

/// What became of the mark that a clean stop leaves.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CleanStopMark {
    /// The node runs, or has crashed.
    #[default]
    Absent,
    /// The node went down while it was written.
    UnderWay,
    /// It is there.
    Written,
}

impl CleanStopMark {
    /// A start says how the last run ended; recovery may have been interrupted before.
    pub fn see(self, last: LastShutdown, was_interrupted: bool) -> Result<(), String> {
        let is_true = match (self, last) {
            (CleanStopMark::Absent, LastShutdown::Clean) => false,
            // The recovery that was interrupted may have had it taken away already.
            (CleanStopMark::Written, LastShutdown::Never | LastShutdown::Unclean { .. }) => was_interrupted,
            _ => true,
        };
        if is_true { Ok(()) } else { Err(format!("the last shutdown was {last:?}, and its mark was {self:?}")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_that_lies_or_is_lost_is_noticed() {
        use CleanStopMark::*;
        assert!(Absent.see(LastShutdown::Clean, true).is_err(), "nobody wrote it");
        assert_eq!(Absent.see(LastShutdown::Never, false), Ok(()));
        assert!(Written.see(LastShutdown::Never, false).is_err(), "it is lost");
        assert_eq!(Written.see(LastShutdown::Never, true), Ok(()));
        assert_eq!(Written.see(LastShutdown::Clean, false), Ok(()));
        assert_eq!(UnderWay.see(LastShutdown::Clean, false), Ok(()));
    }
}
