//! Each rule is needed: without it, seeds fail. How many it takes is in `docs/2026-11-28-replica.md`; the ranges here are such
//! that each is found within a few seconds.

use millstream_storage::seeds::Options;

use super::simulate;
use crate::rule::{Rule, switch_off};

/// What a seed fails with, if it does.
fn failure(seed: u64) -> Option<String> {
    let run = || simulate(Options { seed, is_verbose: false });
    match std::panic::catch_unwind(run) {
        Ok(Ok(_)) => None,
        Ok(Err(why)) => Some(why),
        Err(_) => Some("an assertion failed".to_string()),
    }
}

/// Without the rule, a seed before `seeds` must fail.
fn is_needed(rule: Rule, seeds: u64) {
    let first: u64 = std::env::var("MILLSTREAM_RULE_FIRST").ok().and_then(|n| n.parse().ok()).unwrap_or(0);
    let all: u64 = std::env::var("MILLSTREAM_RULE_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(seeds);
    std::panic::set_hook(Box::new(|_| {}));
    let _off = switch_off(rule);
    let mut count = 0;
    let mut at = None;
    let mut kinds = std::collections::BTreeMap::new();
    for seed in first..first + all {
        if let Some(why) = failure(seed) {
            count += 1;
            let kind: String = why.split("ms: ").last().unwrap().chars().take(12).collect();
            kinds.entry(kind).or_insert((0, seed)).0 += 1;
            at.get_or_insert((seed, why));
        }
    }
    println!("RULE {rule:?}: {count} of {all}; {kinds:?} first {at:?}");
    assert!(at.is_some(), "{rule:?} is not missed by any of {seeds} seeds");
}

macro_rules! needed {
    ($($name:ident: $rule:ident, $seeds:literal;)*) => {
        $(#[test] fn $name() { is_needed(Rule::$rule, $seeds); })*
    };
}

needed! {
    a1: HoldBelowMinInsync, 3000;
    a2: TruncateByEpoch, 3000;
    a3: CutWhereEpochEnds, 3000;
    a4: JoinAtEpochStart, 3000;
    a5: CountProposed, 3000;
    a6: CountLeaving, 3000;
    a7: CountRefused, 3000;
    a8: ComparePartitionEpoch, 3000;
    a9: UncleanRestartLeaves, 3000;
    b1: CheckMemberEpochs, 3000;
    b2: IgnoreOlderProcesses, 3000;
    b3: AwaitOwnRegistration, 3000;
    b4: AckWhenDurable, 3000;
    b5: CountFollowers, 3000;
    b6: MatchAnswers, 3000;
    b7: DropUnknownBranch, 3000;
    b8: EpochOfSkipped, 3000;
}
