//! The rules by which replicas keep what is committed, each with a switch, so that the model can show what is lost without
//! it: a model that finds nothing then proves nothing. The switches exist in tests and with the feature `simulated-bugs`;
//! without them [`holds`] is a constant `true`. `docs/2026-11-28-replica.md` says how soon each is missed.

/// A rule that may be switched off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// The high watermark stands still while fewer are in sync than `min.insync.replicas` (KIP-966).
    HoldBelowMinInsync,
    /// A follower cuts where the leader's epochs say, not at its high watermark without asking (KIP-101, KIP-279).
    TruncateByEpoch,
    /// A follower that has diverged cuts where the common epoch ends, not at its high watermark.
    CutWhereEpochEnds,
    /// Joining the in-sync set takes a durable end at or past the start of the leader's epoch.
    JoinAtEpochStart,
    /// The high watermark counts those who are only proposed for the in-sync set, too.
    CountProposed,
    /// Who is to leave the in-sync set counts until the controller says that it has left.
    CountLeaving,
    /// A proposal that was refused counts until the partition epoch shows that it cannot come true any more.
    CountRefused,
    /// The controller compares the partition epoch of a proposal with that of the partition.
    ComparePartitionEpoch,
    /// A broker that has stopped uncleanly leaves the in-sync set, even as its last member.
    UncleanRestartLeaves,
    /// The controller compares the broker epochs of a proposal with those that are registered (KIP-903).
    CheckMemberEpochs,
    /// The leader ignores what a process has said that has been followed by another.
    IgnoreOlderProcesses,
    /// A process does nothing by an image from before its own registration.
    AwaitOwnRegistration,
    /// A follower says that it has what is durable, not what it has received.
    AckWhenDurable,
    /// The high watermark is what all in sync have, not what is durable at the leader.
    CountFollowers,
    /// An answer of the leader is for the question that it names, and is ignored if another was asked since.
    MatchAnswers,
    /// A follower that ends where the leader's log starts, and not in the epoch that goes on there, begins anew: nobody can tell
    /// whether what it holds is dead.
    DropUnknownBranch,
    /// Records count as deleted for good when all in sync have deleted them, not when the leader has (KIP-107).
    CountLogStarts,
    /// Joining the in-sync set takes a log start at or past what clients were promised to stay deleted.
    JoinAtLogStart,
    /// The leader says of which epoch a range is in which nothing is left.
    EpochOfSkipped,
}

#[cfg(any(test, feature = "simulated-bugs"))]
thread_local! {
    static OFF: std::cell::Cell<Option<Rule>> = const { std::cell::Cell::new(None) };
}

/// A rule is off in this thread until this is dropped.
#[cfg(any(test, feature = "simulated-bugs"))]
#[derive(Debug)]
pub struct Off(());

#[cfg(any(test, feature = "simulated-bugs"))]
impl Drop for Off {
    fn drop(&mut self) {
        OFF.set(None);
    }
}

/// Switches a rule off in this thread.
#[cfg(any(test, feature = "simulated-bugs"))]
#[must_use]
pub fn switch_off(rule: Rule) -> Off {
    OFF.set(Some(rule));
    Off(())
}

/// Whether the rule holds in this thread.
#[cfg(any(test, feature = "simulated-bugs"))]
pub fn holds(rule: Rule) -> bool {
    OFF.get() != Some(rule)
}

/// Whether the rule holds: always.
#[cfg(not(any(test, feature = "simulated-bugs")))]
pub const fn holds(_: Rule) -> bool {
    true
}
