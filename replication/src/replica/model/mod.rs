//! The model: replicas as they are shipped, and the decisions of the controller as they are shipped, with messages that are
//! delayed and lost, processes that pause, stop and crash, and disks that lose what was not durable, or that lie. There are
//! no bytes in it, so that it runs more than a thousand seeds a second: some rules are missed once in many thousand.

mod checks;
mod controller;
mod log;
mod network;
mod rules;
mod steps;
mod world;

use millstream_storage::seeds::{self, Options};

use crate::random_id;

/// What a run that found nothing wrong did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Outcome {
    trace: u64,
    acknowledged: u64,
    committed: u64,
    elections: u64,
    altered: u64,
    refused: u64,
    crashes: u64,
    restarts: u64,
}

impl seeds::Outcome for Outcome {
    fn trace(&self) -> u64 {
        self.trace
    }
}

fn trace(before: u64, seen: u64) -> u64 {
    random_id::mix(before ^ seen)
}

fn simulate(options: Options) -> Result<Outcome, String> {
    world::World::new(&options).run()
}

const TEST: &str = "replica::model::replicas_keep_what_is_committed";

#[test]
fn replicas_keep_what_is_committed() {
    let outcomes = seeds::run(env!("CARGO_PKG_NAME"), TEST, 3_000, simulate);
    let sum = |count: fn(&Outcome) -> u64| outcomes.iter().map(count).sum::<u64>();
    let all = [
        ("acknowledged", sum(|outcome| outcome.acknowledged)),
        ("committed", sum(|outcome| outcome.committed)),
        ("elections", sum(|outcome| outcome.elections)),
        ("in-sync sets altered", sum(|outcome| outcome.altered)),
        ("proposals refused", sum(|outcome| outcome.refused)),
        ("crashes", sum(|outcome| outcome.crashes)),
        ("logs cut", sum(|outcome| outcome.restarts)),
    ];
    println!("{all:?}");
    if outcomes.len() >= 50 {
        assert!(all.iter().all(|(_, count)| *count > 0), "{all:?}");
    }
}
