//! A turn of a shard: what its parts are given while they work, the steps that end it, and names for what a core does
//! in one, so that the driver can say where a turn's time went.

use std::collections::VecDeque;

use millstream_storage::Now;

use super::event::{Effect, ShardIndex};
use super::message::Message;
use super::metadata::Metadata;
use super::options::ShardOptions;

/// What every part of a shard is given while it works: the time, what it may know, and where its effects go.
pub struct Turn<'a> {
    /// The time.
    pub now: Now,
    /// What the shard is, and its limits.
    pub options: &'a ShardOptions,
    /// What is known of the cluster.
    pub metadata: &'a Metadata,
    /// What the driver is to do, in its order.
    pub effects: &'a mut Vec<Effect>,
    /// Messages of this shard to itself: handled in the same turn.
    pub to_self: &'a mut VecDeque<Message>,
}

impl Turn<'_> {
    /// Says something to a shard, perhaps to this one.
    pub fn tell(&mut self, shard: ShardIndex, message: Message) {
        if shard == self.options.index {
            self.to_self.push_back(message);
        } else {
            self.effects.push(Effect::ToShard { shard, message });
        }
    }
}

/// Tells the time between the parts of a turn.
///
/// The driver's clock goes on, and remembers how long each part took. A [`Now`] is a clock that stands still.
pub trait Clock {
    /// The time when the last part ended.
    fn now(&self) -> Now;

    /// A part has ended: it was work of this kind.
    fn lap(&mut self, work: Work);
}

impl Clock for Now {
    fn now(&self) -> Now {
        *self
    }

    fn lap(&mut self, _: Work) {}
}

impl<C: Clock> Clock for &mut C {
    fn now(&self) -> Now {
        (**self).now()
    }

    fn lap(&mut self, work: Work) {
        (**self).lap(work);
    }
}

/// A part of the end of a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndStep {
    /// A piece of what metadata records mean for partitions.
    Metadata,
    /// Requests whose time is up.
    Deadlines,
    /// Clients that have waited for their quota are read from again.
    Quotas,
    /// A round of a survey.
    Survey,
    /// Groups: what has fallen due, what is still loading.
    Groups,
    /// Streams with other nodes: what is due, what was taken, and what has something to send.
    Peers,
    /// What was appended is put into a commit group.
    Commit,
    /// A piece of a checkpoint.
    Checkpoint,
    /// From the journal to the segments.
    WriteBack,
    /// A piece of retention, and what follows from it; the next step of a compaction is started.
    Retention,
    /// Fetches that wait for what was committed.
    Wake,
}

impl EndStep {
    /// All of them, in their order.
    pub const ALL: [EndStep; 11] = [
        EndStep::Metadata,
        EndStep::Deadlines,
        EndStep::Quotas,
        EndStep::Survey,
        EndStep::Groups,
        EndStep::Peers,
        EndStep::Commit,
        EndStep::Checkpoint,
        EndStep::WriteBack,
        EndStep::Retention,
        EndStep::Wake,
    ];
}

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
    /// Streams with other nodes.
    Peers,
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
    pub const ALL: [Work; 20] = [
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
        Work::Peers,
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
            Work::Peers => "peers",
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

    /// What handling a message is.
    pub fn of(message: &Message) -> Work {
        match message {
            Message::Metadata { .. } | Message::Propose(_) | Message::Altered(_) => Work::Metadata,
            Message::Controller { .. }
            | Message::Query(_)
            | Message::EndQuery { .. }
            | Message::QueryDone(_)
            | Message::Survey(_)
            | Message::Surveyed(_)
            | Message::QuotaUse(_) => Work::Request,
            Message::Append(_) => Work::Append,
            Message::Appended(_) => Work::Produce,
            Message::Read(_) | Message::Watch(_) | Message::Unwatch { .. } => Work::Read,
            Message::ReadReply(_) | Message::Wake { .. } => Work::Fetch,
            Message::Group(_) | Message::GroupDone { .. } => Work::Groups,
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
            EndStep::Peers => Work::Peers,
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
