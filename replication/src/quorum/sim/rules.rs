//! Each rule of `docs/quorum-protocol.md` is seen to break when its bug is planted.

use std::ops::Range;

use millstream_storage::bug::{self, Bug};

use super::*;

/// A bug that is planted must be found by one of these seeds, with words that say which rule is broken.
fn breaks(words: &str, bug: Bug, seeds: Range<u64>) {
    let _planted = bug::plant(bug);
    let mut others = Vec::new();
    for seed in seeds.clone() {
        let run = || simulate(Options { seed, is_verbose: false });
        let why = match std::panic::catch_unwind(run) {
            Ok(Ok(_)) => continue,
            Ok(Err(why)) => why,
            Err(_) => "an assertion failed".to_string(),
        };
        if why.contains(words) {
            println!("{bug:?}: seed {seed}: {why}; after {} other failures", others.len());
            return;
        }
        others.push((seed, why));
    }
    others.truncate(3);
    panic!("{bug:?} breaks no {words:?} with any of seeds {seeds:?}; what fails instead: {others:?}");
}

#[test]
fn r1_members_would_elect_two_in_a_term_if_they_voted_again() {
    breaks("votes twice in term", Bug::VoteAgain, 0..300);
}

/// A member is told that more is committed than it has, and says so: its log has kept what the leader's has replaced.
#[test]
fn r2_logs_differ_where_replaced_entries_stay() {
    breaks("is said to be committed here, where the log ends at", Bug::KeepReplacedEntries, 0..100);
}

/// A member finds the gap itself, and gives up.
#[test]
fn r3_there_is_a_gap_where_an_entry_is_skipped() {
    breaks("cannot be applied: its records begin at offset", Bug::SkipEntry, 0..100);
}

#[test]
fn r4_a_leader_lacks_entries_where_anybody_is_voted_for() {
    breaks("R4:", Bug::VoteForAnybody, 0..300);
}

/// Something else is at an index that was acknowledged, which the next member to apply it shows before the ending does; most seeds
/// find by other rules first that whoever was voted for lacks it.
#[test]
fn r5_what_was_acknowledged_is_gone_where_anybody_is_voted_for() {
    breaks("R2:", Bug::VoteForAnybody, 1440..1500);
}

/// Most seeds find the first of these by R9: so they do not begin with 0.
#[test]
fn r6_a_promise_is_forgotten_where_it_was_not_written() {
    breaks("R6:", Bug::SayBeforeWrite, 150..250);
    breaks("R6:", Bug::ForgetVote, 0..100);
}

/// A member finds the gap itself, and gives up.
#[test]
fn r8_an_image_is_another_where_a_snapshot_does_not_replace_it() {
    breaks("cannot be applied: its records begin at offset", Bug::KeepOldImage, 0..100);
}

#[test]
fn r9_what_is_committed_is_at_a_minority_where_members_say_before_they_write() {
    breaks("R9:", Bug::SayBeforeWrite, 0..100);
}

#[test]
fn r10_nobody_comes_to_rest_where_a_lost_snapshot_is_not_missed() {
    breaks("it does not come to rest", Bug::ForgetLostSnapshots, 0..1000);
}

#[test]
fn r11_a_seed_does_different_things_where_something_else_is_drawn() {
    let _planted = bug::plant(Bug::DrawOutsideTheSeed);
    let trace = || simulate(Options { seed: 1, is_verbose: false }).map(|outcome| outcome.trace);
    assert_ne!(trace(), trace());
}

#[test]
fn r12_a_leader_is_confirmed_where_another_one_leads_if_nobody_is_asked() {
    breaks("R12:", Bug::ConfirmUnasked, 0..100);
}
