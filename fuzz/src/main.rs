//! Runs targets on any Rust, without libFuzzer: damaged seeds, as fast as they go, for a given time.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime};

use millstream_fuzz::mutate::mutated;
use millstream_fuzz::{Target, memory, targets};
use millstream_storage::random::Random;

const USAGE: &str = "\
mutate [--seconds N] [--seed N] [TARGET...]   damaged seeds, N seconds for each target (10); all targets if none is named
mutate --replay TARGET FILE...                these inputs
mutate --write-seeds TARGET DIRECTORY         the target's seeds, one file each
mutate --write-requests FILE                  a good request of every API and version, as they go over the wire
mutate --list                                 the targets' names";

/// No input may take longer.
const INPUT_SECONDS_MAX: u64 = 20;
/// Inputs between two looks at the clock.
const CHUNK: u64 = 64;

/// The input that is being run, and its target's name: written to a file if it fails.
static CURRENT: Mutex<(&str, Vec<u8>)> = Mutex::new(("", Vec::new()));

fn main() -> ExitCode {
    memory::on_overrun(save_current);
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        save_current();
    }));
    match run(std::env::args().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Vec<String>) -> Result<(), String> {
    let mut seconds = 10;
    let mut seed = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_nanos() as u64);
    let mut chosen = Vec::new();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        let mut number = || arguments.next().and_then(|number| number.parse().ok()).ok_or(USAGE);
        match argument.as_str() {
            "--seconds" => seconds = number()?,
            "--seed" => seed = number()?,
            "--replay" => return replay(target(arguments.next().ok_or(USAGE)?.as_str())?, arguments),
            "--write-seeds" => {
                let target = target(arguments.next().ok_or(USAGE)?.as_str())?;
                return write_seeds(target, Path::new(&arguments.next().ok_or(USAGE)?));
            }
            "--write-requests" => {
                let file = arguments.next().ok_or(USAGE)?;
                return std::fs::write(&file, targets::requests::stream()).map_err(|error| format!("{file}: {error}"));
            }
            "--list" => {
                targets::ALL.iter().for_each(|target| println!("{}", target.name));
                return Ok(());
            }
            name => chosen.push(target(name)?),
        }
    }
    if chosen.is_empty() {
        chosen.extend(targets::ALL);
    }
    chosen.into_iter().try_for_each(|target| damage(target, seed, Duration::from_secs(seconds)))
}

fn target(name: &str) -> Result<Target, String> {
    targets::ALL.into_iter().find(|target| target.name == name).ok_or_else(|| format!("no target {name}\n{USAGE}"))
}

/// Every seed as it is, then damaged ones until the time is over. The same seed gives the same inputs in the same order.
fn damage(target: Target, seed: u64, duration: Duration) -> Result<(), String> {
    println!("{}: --seed {seed}", target.name);
    let seeds = (target.seeds)();
    seeds.iter().try_for_each(|input| run_one(target, input.clone()))?;
    let start = Instant::now();
    let mut inputs = 0;
    while start.elapsed() < duration {
        for _ in 0..CHUNK {
            let mut random = Random::new(seed.wrapping_add(inputs).wrapping_mul(0x2545_f491_4f6c_dd1d));
            run_one(target, mutated(&seeds, &mut random))?;
            inputs += 1;
        }
    }
    println!("{}: {inputs} inputs from {} seeds, no failure", target.name, seeds.len());
    Ok(())
}

fn run_one(target: Target, input: Vec<u8>) -> Result<(), String> {
    let start = Instant::now();
    *CURRENT.lock().expect("a panic ends the process") = (target.name, input.clone());
    (target.run)(&input);
    if start.elapsed() > Duration::from_secs(INPUT_SECONDS_MAX) {
        save_current();
        return Err(format!("{}: an input took {:?}", target.name, start.elapsed()));
    }
    Ok(())
}

/// Keeps the input that failed, and says how to run it again.
fn save_current() {
    let Ok(current) = CURRENT.try_lock() else { return };
    let (name, input) = &*current;
    let directory = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("artifacts").join(name);
    let file = directory.join(format!("failed-{:08x}", crc32c::crc32c(input)));
    match std::fs::create_dir_all(&directory).and_then(|()| std::fs::write(&file, input)) {
        Ok(()) => eprintln!("the input is kept; again: scripts/fuzz.sh --replay {name} {}", file.display()),
        Err(error) => eprintln!("{}: {error}; the input: {input:02x?}", file.display()),
    }
}

fn replay(target: Target, files: impl Iterator<Item = String>) -> Result<(), String> {
    for file in files {
        let input = std::fs::read(&file).map_err(|error| format!("{file}: {error}"))?;
        run_one(target, input)?;
        println!("{}: {file}: no failure", target.name);
    }
    Ok(())
}

fn write_seeds(target: Target, directory: &Path) -> Result<(), String> {
    let failed = |error| format!("{}: {error}", directory.display());
    std::fs::create_dir_all(directory).map_err(failed)?;
    for (index, seed) in (target.seeds)().iter().enumerate() {
        std::fs::write(directory.join(format!("seed-{index}")), seed).map_err(failed)?;
    }
    Ok(())
}
