//! Each rule is needed: without it, seeds fail. `docs/2026-11-28-replica.md` says how many of them; the ranges here are short,
//! around one that does. Where the model changes, `MILLSTREAM_SIM_FIRST` and `MILLSTREAM_SIM_SEEDS` look for others.

use std::ops::Range;

use millstream_storage::seeds::Options;

use super::simulate;
use crate::rule::{Rule, switch_off};

/// What a seed fails with, if it does.
fn failure(seed: u64) -> Option<String> {
    match std::panic::catch_unwind(|| simulate(Options { seed, is_verbose: false })) {
        Ok(Ok(_)) => None,
        Ok(Err(why)) => Some(why),
        Err(_) => Some("an assertion failed".to_string()),
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Without the rule, one of the seeds must fail, and say which invariant does not hold; with it, that one passes.
fn is_needed(rule: Rule, words: &str, seeds: Range<u64>) {
    let first = number("MILLSTREAM_SIM_FIRST").unwrap_or(seeds.start);
    let seeds = first..number("MILLSTREAM_SIM_SEEDS").map_or(seeds.end, |count| first + count);
    let off = switch_off(rule);
    let mut failures = seeds.clone().filter_map(|seed| failure(seed).map(|why| (seed, why)));
    let found = failures.find(|(_, why)| why.contains(words));
    drop(off);
    let Some((seed, why)) = found else { panic!("{rule:?}: nothing is {words:?} with any of seeds {seeds:?}") };
    println!("{rule:?}: seed {seed}: {why}");
    assert_eq!(failure(seed), None, "seed {seed} with {rule:?}");
}

#[test]
fn few_have_what_is_committed_where_the_high_watermark_moves_below_min_insync() {
    is_needed(Rule::HoldBelowMinInsync, "D3", 0..50);
}

#[test]
fn what_is_committed_is_cut_where_followers_cut_at_their_high_watermark() {
    is_needed(Rule::TruncateByEpoch, "D4", 1_740..1_770);
    is_needed(Rule::TruncateByEpoch, "D1", 9_110..9_130);
    is_needed(Rule::CutWhereEpochEnds, "D4", 1_740..1_770);
}

#[test]
fn who_has_less_than_the_leader_before_this_one_joins_where_the_epoch_start_is_not_compared() {
    is_needed(Rule::JoinAtEpochStart, "D4", 15_105..15_120);
}

#[test]
fn who_has_less_becomes_a_member_where_only_committed_members_count() {
    is_needed(Rule::CountProposed, "D4", 440..460);
}

#[test]
fn who_has_less_becomes_a_member_where_what_was_refused_counts_no_more() {
    is_needed(Rule::CountRefused, "D4", 85_575..85_590);
}

#[test]
fn who_is_a_member_lacks_something_where_those_who_are_to_leave_do_not_count() {
    is_needed(Rule::CountLeaving, "D4", 0..50);
}

#[test]
fn an_old_proposal_comes_true_where_partition_epochs_are_not_compared() {
    is_needed(Rule::ComparePartitionEpoch, "D4", 840..860);
}

#[test]
fn who_has_lost_something_is_a_member_where_it_stays_as_the_last() {
    is_needed(Rule::UncleanRestartLeaves, "D4", 20..50);
}

#[test]
fn another_process_becomes_a_member_where_broker_epochs_are_not_compared() {
    is_needed(Rule::CheckMemberEpochs, "D4", 489_830..489_845);
}

/// The model finds that who follows is taken for who followed before, and is sent nothing.
#[test]
fn what_is_sent_goes_astray_where_older_processes_are_listened_to() {
    is_needed(Rule::IgnoreOlderProcesses, "D9", 4_540..4_555);
}

#[test]
fn an_offset_is_given_twice_in_an_epoch_where_a_process_goes_on_as_the_one_before_it() {
    is_needed(Rule::AwaitOwnRegistration, "D5", 30..60);
}

#[test]
fn what_is_committed_is_lost_where_it_was_only_received() {
    is_needed(Rule::AckWhenDurable, "D3", 0..50);
    is_needed(Rule::AckWhenDurable, "D4", 0..50);
}

#[test]
fn what_only_the_leader_has_is_committed_where_its_end_is_the_high_watermark() {
    is_needed(Rule::CountFollowers, "D4", 0..50);
}

/// A follower that takes the answer to an older question for the newest waits for what is never sent.
#[test]
fn a_follower_waits_for_ever_where_any_answer_is_for_the_newest_question() {
    is_needed(Rule::MatchAnswers, "D9", 830..850);
}

#[test]
fn what_was_committed_is_another_record_where_a_dead_branch_is_kept() {
    is_needed(Rule::DropUnknownBranch, "D2", 825..840);
}

#[test]
fn what_was_deleted_is_back_where_only_the_leader_has_deleted_it() {
    is_needed(Rule::CountLogStarts, "D10", 100..130);
}

#[test]
fn what_was_deleted_is_back_where_who_joins_has_not_deleted_it() {
    is_needed(Rule::JoinAtLogStart, "D10", 645..660);
}

/// It cuts what was skipped, and skips it again.
#[test]
fn a_follower_does_not_get_past_what_is_compacted_away_where_it_is_not_told_the_epoch() {
    is_needed(Rule::EpochOfSkipped, "D9", 2_900..2_915);
}
