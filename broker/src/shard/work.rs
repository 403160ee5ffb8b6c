//! Names for what a core does in a turn, so that the driver can say where a turn's time went.

use super::message::Message;
use super::stages::Kind;
use super::{EndStep, Event};

/// A kind of work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Parsing and checking Produce requests.
    Produce,
    /// Appending.
    Append,
    /// Parsing Fetch requests.
    Fetch,
    /// Reading for fetches, and watching for them.
    Read,
    /// All other requests, and questions about offsets.
    Request,
    /// Consumer groups.
    Groups,
    /// Metadata records, and the partitions they open and close.
    Metadata,
    /// Results of disk operations, and answering who waits for them.
    Disk,
    /// Connections that come, drain and go.
    Connection,
    /// Requests whose time is up.
    Deadlines,
    /// Building commit groups.
    Commit,
    /// Checkpoints.
    Checkpoint,
    /// Write-back to segments, and closing them.
    WriteBack,
    /// Retention, removals, eviction.
    Retention,
    /// Reading for fetches that were woken.
    Wake,
    /// Starting disk operations, and handing messages over.
    Effects,
    /// Sending.
    Send,
    /// Taking messages, and answering scrapes.
    Gather,
    /// Accepting connections, and reading from them.
    Receive,
}

impl Work {
    /// All kinds, in their order.
    pub const ALL: [Work; 19] = [
        Work::Produce,
        Work::Append,
        Work::Fetch,
        Work::Read,
        Work::Request,
        Work::Groups,
        Work::Metadata,
        Work::Disk,
        Work::Connection,
        Work::Deadlines,
        Work::Commit,
        Work::Checkpoint,
        Work::WriteBack,
        Work::Retention,
        Work::Wake,
        Work::Effects,
        Work::Send,
        Work::Gather,
        Work::Receive,
    ];

    /// The value of the label `work`.
    pub fn name(self) -> &'static str {
        match self {
            Work::Produce => "produce",
            Work::Append => "append",
            Work::Fetch => "fetch",
            Work::Read => "read",
            Work::Request => "request",
            Work::Groups => "groups",
            Work::Metadata => "metadata",
            Work::Disk => "disk",
            Work::Connection => "connection",
            Work::Deadlines => "deadlines",
            Work::Commit => "commit",
            Work::Checkpoint => "checkpoint",
            Work::WriteBack => "write-back",
            Work::Retention => "retention",
            Work::Wake => "wake",
            Work::Effects => "effects",
            Work::Send => "send",
            Work::Gather => "gather",
            Work::Receive => "receive",
        }
    }

    /// What handling an event is: [`super::Shard::take`] and [`super::Shard::settle`].
    pub fn of(event: &Event) -> (Work, Work) {
        let one = |work| (work, work);
        match event {
            Event::Request { frame, .. } => match Kind::of(frame) {
                Kind::Produce => (Work::Produce, Work::Append),
                Kind::Fetch => (Work::Fetch, Work::Read),
                Kind::Other => one(Work::Request),
            },
            Event::Connected { .. } | Event::Drained { .. } | Event::Disconnected { .. } => one(Work::Connection),
            Event::Disk { .. } | Event::Prefetched { .. } | Event::FreeSpace { .. } => one(Work::Disk),
            Event::Message(message) => one(match message {
                Message::Metadata { .. } => Work::Metadata,
                Message::Controller { .. }
                | Message::Query(_)
                | Message::QueryDone(_)
                | Message::Survey(_)
                | Message::Surveyed(_)
                | Message::QuotaUse(_) => Work::Request,
                Message::Append(_) => Work::Append,
                Message::Appended(_) => Work::Produce,
                Message::Read(_) | Message::Watch(_) | Message::Unwatch { .. } => Work::Read,
                Message::ReadDone(_) | Message::Wake { .. } => Work::Fetch,
                Message::Group(_) | Message::GroupDone { .. } => Work::Groups,
            }),
        }
    }
}

impl From<EndStep> for Work {
    fn from(step: EndStep) -> Work {
        match step {
            EndStep::Metadata => Work::Metadata,
            EndStep::Deadlines => Work::Deadlines,
            EndStep::Quotas => Work::Deadlines,
            EndStep::Survey => Work::Request,
            EndStep::Groups => Work::Groups,
            EndStep::Commit => Work::Commit,
            EndStep::Checkpoint => Work::Checkpoint,
            EndStep::WriteBack => Work::WriteBack,
            EndStep::Retention => Work::Retention,
            EndStep::Wake => Work::Wake,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_its_place() {
        for (index, work) in Work::ALL.into_iter().enumerate() {
            assert_eq!(work as usize, index);
        }
    }
}
