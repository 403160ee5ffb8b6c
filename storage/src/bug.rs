//! Deliberate bugs, for the simulator to find: a simulator that finds none of them proves nothing. They exist only with
//! the feature `simulated-bugs`; without it `is_planted` is a constant `false`.

/// A deliberate bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    /// Says that appends are durable when their group is handed to the disk, not when it is on it.
    AcknowledgeBeforeCommit,
    /// Takes journal groups and extents for whole without comparing their checksums.
    SkipChecksum,
    /// Forgets at the restart that DeleteRecords or retention moved the log start.
    ForgetLogStart,
    /// Tries a failed write-back or sync again, as if a sync that succeeds then had written what the first one lost.
    RetryFailedSync,
    /// Gives the last offset before a restart to another record after it.
    ReuseOffset,
    /// Compacts away the last record of a key, too, now and then.
    CompactLastValue,
    /// Removes the segments that a compaction has copied before the journal says so.
    RemoveBeforeReplaced,
    /// Takes what the controller decides for true when it is handed to the disk, not when it is on it.
    AnswerBeforeWrite,
    /// A member of the quorum says what it promises before that is durable.
    SayBeforeWrite,
    /// A member of the quorum does not write whom it voted for.
    ForgetVote,
    /// A member of the quorum keeps the entries that a new leader replaces.
    KeepReplacedEntries,
    /// A member of the quorum votes again in a term in which it has voted.
    VoteAgain,
    /// A member of the quorum votes for who lacks entries that it has.
    VoteForAnybody,
    /// A member of the quorum leaves out an entry now and then when it applies them.
    SkipEntry,
    /// A member of the quorum that is sent a snapshot keeps the image that it had.
    KeepOldImage,
    /// A leader of the quorum does not find out that a snapshot was lost.
    ForgetLostSnapshots,
    /// A member of the quorum draws from what is not in the seed.
    DrawOutsideTheSeed,
    /// A member of the quorum tells its process of a removal before it would know of it after a crash.
    TellBeforeWrite,
    /// A leader of the quorum decides before an entry of its own term is committed.
    DecideBeforeOwnTerm,
    /// A leader of the quorum takes itself to be one without asking the others.
    ConfirmUnasked,
    /// The active controller answers heartbeats before the quorum has confirmed that it still is.
    LeaseUnconfirmed,
    /// A broker takes its lease to last for two sessions.
    LeaseTooLong,
    /// A broker is unfenced that has not applied its own registration.
    UnfenceBeforeCaughtUp,
    /// A node gives an answer before its shards have applied what it is about.
    AnswerBeforeApplied,
    /// Brokers that are fenced may lead.
    LeadWhileFenced,
    /// Begins a new generation before what a recovery wrote back is durable in its segments.
    BeginBeforeSync,
    /// Does not make the names of files durable that a recovery has created.
    ForgetNames,
    /// Deletes at the start what the cluster image does not know, instead of setting it aside.
    DeleteStrays,
    /// Says that a log was cut when it is so in memory, not when the journal says so.
    AppendBeforeRestart,
    /// Keeps what is known of producers from batches that were cut.
    KeepCutProducers,
    /// Compacts records that are not committed.
    CompactAboveCommitted,
    /// Gives a consumer all that a segment's file holds, whether it is committed or not.
    ServeAboveCommitted,
}

#[cfg(feature = "simulated-bugs")]
thread_local! {
    static PLANTED: std::cell::Cell<Option<Bug>> = const { std::cell::Cell::new(None) };
}

/// A bug that this thread's broker has until this is dropped.
#[cfg(feature = "simulated-bugs")]
#[derive(Debug)]
pub struct Planted(());

#[cfg(feature = "simulated-bugs")]
impl Drop for Planted {
    fn drop(&mut self) {
        PLANTED.set(None);
    }
}

/// Plants a bug in this thread.
#[cfg(feature = "simulated-bugs")]
#[must_use]
pub fn plant(bug: Bug) -> Planted {
    PLANTED.set(Some(bug));
    Planted(())
}

/// Whether this thread has the bug.
#[cfg(feature = "simulated-bugs")]
pub fn is_planted(bug: Bug) -> bool {
    PLANTED.get() == Some(bug)
}

/// Whether this thread has the bug: never.
#[cfg(not(feature = "simulated-bugs"))]
pub const fn is_planted(_: Bug) -> bool {
    false
}

/// What no seed determines: the number of calls in this process, if the bug is planted.
#[cfg(feature = "simulated-bugs")]
pub fn outside_the_seed() -> u64 {
    static CALLS: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    if is_planted(Bug::DrawOutsideTheSeed) { CALLS.fetch_add(1, std::sync::atomic::Ordering::Relaxed) } else { 0 }
}

/// What no seed determines: nothing.
#[cfg(not(feature = "simulated-bugs"))]
pub const fn outside_the_seed() -> u64 {
    0
}
