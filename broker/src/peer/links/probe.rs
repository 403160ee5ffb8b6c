//! Finding out whether the process of a node is gone that cannot be dialled as a peer: somewhere it listens for clients.

use std::time::Duration;

use super::LinkId;

/// So often it is tried as long as somebody takes the connection: the kernel does for a process that is just ending.
const TRIES_MAX: u32 = 4;
/// Nodes that are looked for at a time: as many as a cluster has.
pub(super) const PROBES_MAX: usize = 32;
/// Before it is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(20);

/// One node that is looked for.
#[derive(Debug)]
pub(super) struct Probe {
    pub(super) node_id: i32,
    pub(super) host: String,
    pub(super) port: u16,
    tries: u32,
    stage: Stage,
}

#[derive(Debug, PartialEq, Eq)]
enum Stage {
    Waiting { until: Duration },
    Dialling { link: LinkId },
}

impl Probe {
    pub(super) fn new(node_id: i32, host: String, port: u16, now: Duration) -> Probe {
        Probe { node_id, host, port, tries: 0, stage: Stage::Waiting { until: now } }
    }

    /// Whether it is to be dialled now.
    pub(super) fn is_due(&self, now: Duration) -> bool {
        matches!(self.stage, Stage::Waiting { until } if until <= now)
    }

    pub(super) fn dials(&mut self, link: LinkId) {
        self.tries += 1;
        self.stage = Stage::Dialling { link };
    }

    pub(super) fn is(&self, wanted: LinkId) -> bool {
        self.stage == Stage::Dialling { link: wanted }
    }

    /// Somebody has taken the connection. `false`: it was tried often enough.
    pub(super) fn waits(&mut self, now: Duration) -> bool {
        self.stage = Stage::Waiting { until: now + AGAIN_AFTER };
        self.tries < TRIES_MAX
    }

    pub(super) fn deadline(&self) -> Option<Duration> {
        match self.stage {
            Stage::Waiting { until } => Some(until),
            Stage::Dialling { .. } => None,
        }
    }
}
