//! The simulator finds what it is there to find: each deliberate bug is planted, and seeds have to notice it.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};

use millstream_replication::rule::{Rule, switch_off};
use millstream_storage::bug::{Bug, plant};

use super::logs;
use super::world::World;
use millstream_storage::seeds::Options;

/// Seeds that have to notice a bug...
const NOTICED_MIN: usize = 3;
/// ...among so many.
const SEEDS_MAX: u64 = 100;
/// Among so many where it takes a crash of one node at one moment.
const SEEDS_MAX_RARE: u64 = 500;

/// Plants the bug, and runs seeds until enough have noticed it.
fn is_noticed(bug: Bug, simulate: impl Fn(u64) -> Result<(), String>) {
    is_noticed_among(SEEDS_MAX, bug, simulate);
}

fn is_noticed_among(seeds_max: u64, bug: Bug, simulate: impl Fn(u64) -> Result<(), String>) {
    let _planted = plant(bug);
    fails_among(seeds_max, bug, simulate);
}

/// Runs seeds until enough have failed.
fn fails_among(seeds_max: u64, bug: impl Debug, simulate: impl Fn(u64) -> Result<(), String>) {
    let mut noticed = 0;
    for seed in 0..seeds_max {
        // A panic of the broker, or of its own assertions, is as good as a checker's word.
        match catch_unwind(AssertUnwindSafe(|| simulate(seed))) {
            Ok(Ok(())) => continue,
            Ok(Err(error)) => println!("{bug:?}: seed {seed}: {error}"),
            Err(_) => println!("{bug:?}: seed {seed}: panic"),
        }
        noticed += 1;
        if noticed == NOTICED_MIN {
            return;
        }
    }
    panic!("{bug:?}: only {noticed} of {seeds_max} seeds noticed");
}

fn logs_notice(bug: Bug) {
    is_noticed(bug, |seed| logs::Simulation::run(Options { seed, is_verbose: false }).map(drop));
}

fn the_node_notices(bug: Bug) {
    is_noticed(bug, |seed| World::run(Options { seed, is_verbose: false }).map(drop));
}

fn several_nodes_notice(bug: Bug) {
    is_noticed(bug, |seed| World::run_several(Options { seed, is_verbose: false }).map(drop));
}

#[test]
fn acknowledging_before_the_commit_is_noticed() {
    logs_notice(Bug::AcknowledgeBeforeCommit);
    the_node_notices(Bug::AcknowledgeBeforeCommit);
    several_nodes_notice(Bug::AcknowledgeBeforeCommit);
}

#[test]
fn skipping_a_checksum_is_noticed() {
    logs_notice(Bug::SkipChecksum);
    the_node_notices(Bug::SkipChecksum);
}

#[test]
fn forgetting_a_truncation_is_noticed() {
    logs_notice(Bug::ForgetLogStart);
    the_node_notices(Bug::ForgetLogStart);
}

#[test]
fn retrying_a_failed_sync_is_noticed() {
    logs_notice(Bug::RetryFailedSync);
    the_node_notices(Bug::RetryFailedSync);
}

#[test]
fn compacting_a_last_value_away_is_noticed() {
    logs_notice(Bug::CompactLastValue);
}

#[test]
fn removing_segments_before_their_replacement_is_noticed() {
    logs_notice(Bug::RemoveBeforeReplaced);
}

#[test]
fn deleting_what_an_old_image_does_not_know_is_noticed() {
    logs_notice(Bug::DeleteStrays);
}

#[test]
fn beginning_a_generation_before_the_sync_is_noticed() {
    logs_notice(Bug::BeginBeforeSync);
    the_node_notices(Bug::BeginBeforeSync);
}

#[test]
fn forgetting_the_names_of_files_is_noticed() {
    logs_notice(Bug::ForgetNames);
}

#[test]
fn reusing_an_offset_is_noticed() {
    logs_notice(Bug::ReuseOffset);
    the_node_notices(Bug::ReuseOffset);
}

#[test]
fn answering_before_the_write_is_noticed() {
    the_node_notices(Bug::AnswerBeforeWrite);
    several_nodes_notice(Bug::AnswerBeforeWrite);
}

#[test]
fn telling_of_a_removal_before_it_is_known_for_ever_is_noticed() {
    let simulate = |seed| World::run_several(Options { seed, is_verbose: false }).map(drop);
    is_noticed_among(SEEDS_MAX_RARE, Bug::TellBeforeWrite, simulate);
}

#[test]
fn deciding_before_an_entry_of_the_own_term_is_committed_is_noticed() {
    several_nodes_notice(Bug::DecideBeforeOwnTerm);
}

#[test]
fn unfencing_who_has_not_caught_up_is_noticed() {
    several_nodes_notice(Bug::UnfenceBeforeCaughtUp);
}

#[test]
fn leading_while_fenced_is_noticed() {
    several_nodes_notice(Bug::LeadWhileFenced);
}

#[test]
fn answering_a_deletion_before_followers_have_deleted_is_noticed() {
    let rule = Rule::CountLogStarts;
    let _off = switch_off(rule);
    let simulate = |seed| World::run_several(Options { seed, is_verbose: false }).map(drop);
    fails_among(SEEDS_MAX_RARE, rule, simulate);
}

fn logs_notice_among(seeds_max: u64, bug: Bug) {
    is_noticed_among(seeds_max, bug, |seed| logs::Simulation::run(Options { seed, is_verbose: false }).map(drop));
}

#[test]
fn appending_before_a_restart_is_durable_is_noticed() {
    logs_notice(Bug::AppendBeforeRestart);
}

#[test]
fn keeping_the_producers_of_what_was_cut_is_noticed() {
    logs_notice(Bug::KeepCutProducers);
}

#[test]
fn compacting_what_is_not_committed_is_noticed() {
    logs_notice_among(SEEDS_MAX_RARE, Bug::CompactAboveCommitted);
}

#[test]
fn serving_what_is_not_committed_is_noticed() {
    logs_notice(Bug::ServeAboveCommitted);
}
