//! The log start offset never goes back, and reaches what was promised.
//!
//! KIP-107: when DeleteRecords is answered, records before the low watermark that it names are never readable again.

use super::Observation;

#[derive(Clone, Default)]
pub struct LogStart {
    log_start: i64,
}

impl LogStart {
    /// The log starts here or later.
    pub fn promised(&self) -> i64 {
        self.log_start
    }

    pub fn see(&mut self, observation: &Observation<'_>) -> Result<(), String> {
        if let Observation::Restarted { log_start, .. } = observation {
            self.log_start = *log_start;
        }
        if let Observation::Promised(log_start) = observation {
            self.log_start = self.log_start.max(*log_start);
        }
        let (Observation::LogStart(log_start) | Observation::Whole { log_start, .. }) = observation else {
            return Ok(());
        };
        if *log_start < self.log_start {
            return Err(format!("the log start went from {} back to {log_start}", self.log_start));
        }
        self.log_start = *log_start;
        Ok(())
    }
}
