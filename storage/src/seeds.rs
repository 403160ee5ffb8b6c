//! Which seeds a simulation runs, and that a seed means one thing: some are run twice, and what happened must be the same to
//! the last byte. (Every hash map of the standard library has an order of its own, also in one process: code whose effects
//! follow one gives itself away.)
//!
//! `MILLSTREAM_SIM_SEED` runs one, printing all that happens; `MILLSTREAM_SIM_SEEDS` says how many, `MILLSTREAM_SIM_FIRST`
//! from which on. A seed that fails prints the command that runs it again. `MILLSTREAM_SIM_TRACES` names a file to which
//! the fingerprint of every seed is added: a change that only moves code leaves all of them as they are.

use std::fmt::Debug;
use std::fs::OpenOptions;
use std::io::Write;
use std::time::Instant;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

/// Prints how to run a seed again, if the test panics meanwhile.
struct Replay<'a> {
    package: &'a str,
    test: &'a str,
    seed: u64,
}

impl Drop for Replay<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Replay { package, test, seed } = self;
            eprintln!("replay: MILLSTREAM_SIM_SEED={seed} cargo test -p {package} --lib {test} -- --exact --nocapture");
        }
    }
}

/// How a simulation goes.
#[derive(Clone, Debug)]
pub struct Options {
    /// Everything follows from it.
    pub seed: u64,
    /// Prints what happens.
    pub is_verbose: bool,
}

/// What a simulation that found nothing wrong did.
pub trait Outcome: Debug + PartialEq {
    /// Fingerprint of everything that happened.
    fn trace(&self) -> u64;
}

/// One seed in so many is run twice.
const RUN_TWICE_ONE_IN: u64 = 5;

/// Runs a simulation of a test for every seed that is asked for, `count` of them unless the environment says otherwise.
/// Panics where a simulation finds something, or does not do twice the same.
pub fn run<O: Outcome>(
    package: &str,
    test: &str,
    count: u64,
    simulate: impl Fn(Options) -> Result<O, String>,
) -> Vec<O> {
    let one = number("MILLSTREAM_SIM_SEED");
    let first = one.or_else(|| number("MILLSTREAM_SIM_FIRST")).unwrap_or(0);
    let count = if one.is_some() { 1 } else { number("MILLSTREAM_SIM_SEEDS").unwrap_or(count) };
    println!("seeds {first} to {}", first + count - 1);
    let mut traces = std::env::var_os("MILLSTREAM_SIM_TRACES").map(|path| {
        OpenOptions::new().create(true).append(true).open(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
    });
    let start = Instant::now();
    let mut outcomes = Vec::new();
    for seed in first..first + count {
        let replay = Replay { package, test, seed };
        let options = Options { seed, is_verbose: one.is_some() };
        let is_twice = one.is_none() && seed.is_multiple_of(RUN_TWICE_ONE_IN);
        let outcome = run_one(&options, is_twice, &simulate);
        if let Some(traces) = &mut traces {
            writeln!(traces, "{test} {seed} {:016x}", outcome.trace()).expect("the file of traces can be written");
        }
        outcomes.push(outcome);
        drop(replay);
    }
    println!("{count} seeds in {:.1} s", start.elapsed().as_secs_f64());
    outcomes
}

/// Runs one seed, perhaps twice.
fn run_one<O: Outcome>(options: &Options, is_twice: bool, simulate: impl Fn(Options) -> Result<O, String>) -> O {
    let seed = options.seed;
    let run = || simulate(options.clone()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    let outcome = run();
    if is_twice {
        assert_eq!(run(), outcome, "seed {seed} means two things");
    }
    outcome
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    impl Outcome for u64 {
        fn trace(&self) -> u64 {
            *self
        }
    }

    #[test]
    fn a_seed_that_means_two_things_is_noticed() {
        let options = Options { seed: 5, is_verbose: false };
        assert_eq!(run_one(&options, true, |options| Ok(options.seed)), 5);
        let runs = Cell::new(0);
        let count_up = |_| Ok(runs.replace(runs.get() + 1));
        let result = catch_unwind(AssertUnwindSafe(|| run_one(&options, true, count_up)));
        assert!(result.is_err(), "{result:?}");
    }
}
