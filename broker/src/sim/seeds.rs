//! Which seeds a simulation runs.
//!
//! `MILLSTREAM_SIM_SEED` runs one, printing all that happens; `MILLSTREAM_SIM_SEEDS` says how many, `MILLSTREAM_SIM_FIRST`
//! from which on. A seed that fails prints the command that runs it again. `MILLSTREAM_SIM_TRACES` names a file to which
//! the fingerprint of every seed is added: a change that only moves code leaves all of them as they are.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Instant;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

/// Prints how to run a seed again, if the test panics meanwhile.
struct Replay<'a> {
    test: &'a str,
    seed: u64,
}

impl Drop for Replay<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Replay { test, seed } = self;
            eprintln!(
                "replay: MILLSTREAM_SIM_SEED={seed} cargo test -p millstream --lib {test} -- --exact --nocapture"
            );
        }
    }
}

/// Runs a simulation of a test for every seed that is asked for, `count` of them unless the environment says otherwise.
/// It returns the fingerprint of what happened.
pub fn run(test: &str, count: u64, mut simulate: impl FnMut(u64, bool) -> Result<u64, String>) {
    let one = number("MILLSTREAM_SIM_SEED");
    let first = one.or_else(|| number("MILLSTREAM_SIM_FIRST")).unwrap_or(0);
    let count = if one.is_some() { 1 } else { number("MILLSTREAM_SIM_SEEDS").unwrap_or(count) };
    println!("seeds {first} to {}", first + count - 1);
    let mut traces = std::env::var_os("MILLSTREAM_SIM_TRACES").map(|path| {
        OpenOptions::new().create(true).append(true).open(&path).unwrap_or_else(|error| panic!("{path:?}: {error}"))
    });
    let start = Instant::now();
    for seed in first..first + count {
        let replay = Replay { test, seed };
        let trace = simulate(seed, one.is_some()).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        if let Some(traces) = &mut traces {
            writeln!(traces, "{test} {seed} {trace:016x}").expect("the file of traces can be written");
        }
        drop(replay);
    }
    println!("{count} seeds in {:.1} s", start.elapsed().as_secs_f64());
}
