//! `millstream doctor`: whether a broker can run on this machine, and run well; and what to do where not. What `serve`
//! itself demands is checked by the same code ([`crate::driver::preflight`]); the rest is read from `/proc` and `/sys`.

mod drive;
mod machine;

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;

use super::error::CliError;
use super::output::Output;
use crate::config::BrokerConfig;
use crate::driver::memory::{self, MemoryBudget};
use crate::driver::preflight::{self, DirectoryRefusal};
use crate::driver::serve::free_space_floor;
use crate::driver::sys;
use crate::json::Json;

pub const EXAMPLES: &str = "Examples:
  millstream doctor                         as `millstream serve` would start
  millstream doctor server.properties
  millstream doctor --override log.dirs=/srv/millstream --json

It ends with 1 if a broker could not start, or would lose what it promises to keep; warnings are about speed. The data
directory is opened as `serve` would open it, but one that does not exist is not left behind.";

/// Open files that do for some thousand connections and partitions.
const OPEN_FILES_WANTED: u64 = 65_536;

/// The same as `serve` takes.
#[derive(Args, Debug)]
pub struct Options {
    /// The configuration file that the broker is to be started with
    properties: Option<PathBuf>,
    /// A property, given as name=value, that overrides the file. May be given many times
    #[arg(long = "override", value_name = "NAME=VALUE")]
    overrides: Vec<String>,
    /// Print JSON instead of lines
    #[arg(long)]
    json: bool,
}

/// How something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Status {
    Ok,
    Warn,
    Fail,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Warn => "warn",
            Status::Fail => "fail",
        }
    }
}

/// What was found.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Finding {
    check: &'static str,
    status: Status,
    message: String,
    /// What to do.
    fix: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, message: impl Into<String>) -> Finding {
        Finding { check, status: Status::Ok, message: message.into(), fix: None }
    }

    fn warn(check: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding { check, status: Status::Warn, message: message.into(), fix: Some(fix.into()) }
    }

    /// One whose message says what to do.
    fn fail(check: &'static str, message: impl Into<String>) -> Finding {
        Finding { check, status: Status::Fail, message: message.into(), fix: None }
    }

    fn fail_with(check: &'static str, message: impl Into<String>, fix: impl Into<String>) -> Finding {
        Finding { fix: Some(fix.into()), ..Finding::fail(check, message) }
    }
}

pub fn run(options: &Options) -> Result<(), CliError> {
    let findings = match BrokerConfig::load(options.properties.as_deref(), &options.overrides) {
        Ok(config) => look(config),
        Err(why) => vec![Finding::fail("configuration", why)],
    };
    let count = |status| findings.iter().filter(|finding| finding.status == status).count();
    let (failures, warnings) = (count(Status::Fail), count(Status::Warn));
    let json = || {
        Json::array(findings.iter().map(|finding| {
            Json::object([
                ("check", finding.check.into()),
                ("status", finding.status.name().into()),
                ("message", finding.message.as_str().into()),
                ("fix", finding.fix.as_deref().into()),
            ])
        }))
    };
    Output::new(options.json).print(json, || render(&findings))?;
    match (failures, warnings) {
        (0, 0) => Ok(()),
        (0, warnings) => {
            eprintln!("a broker can run here; {warnings} warning{}", if warnings == 1 { "" } else { "s" });
            Ok(())
        }
        (1, _) => Err(CliError::Refused("1 check failed".to_owned())),
        (failures, _) => Err(CliError::Refused(format!("{failures} checks failed"))),
    }
}

fn render(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { check, status, message, fix } in findings {
        let status = status.name();
        writeln!(text, "{status:<4}  {check:<width$}  {message}").expect("a string takes everything");
        if let Some(fix) = fix {
            writeln!(text, "{:<4}  {:<width$}  fix: {fix}", "", "").expect("a string takes everything");
        }
    }
    text
}

/// Looks at everything, in the order in which a start would fail.
fn look(mut config: BrokerConfig) -> Vec<Finding> {
    let processors = sys::processors();
    let shards = config.shards.unwrap_or(processors.len());
    let mut findings = vec![
        machine::kernel(&machine::read(Path::new("/proc/sys/kernel/osrelease")).unwrap_or_default()),
        match preflight::check_io_uring() {
            Ok(()) => Finding::ok("io_uring", "a ring could be set up"),
            Err(why) => Finding::fail("io_uring", why),
        },
        match preflight::check_locked_memory(shards) {
            Ok(()) => Finding::ok("locked memory", "the limit is high enough for the rings"),
            Err(why) => Finding::fail("locked memory", why),
        },
        open_files(),
        machine::processors(processors.len(), shards),
    ];
    findings.extend(machine::governor(Path::new("/sys")));
    findings.extend(machine::quota(Path::new("/"), shards));
    let machine_bytes = memory::machine_bytes();
    findings.push(match MemoryBudget::plan(&mut config, shards, machine_bytes) {
        Ok(budget) => Finding::ok("memory", budget.describe()),
        Err(why) => Finding::fail("memory", why),
    });
    findings.extend(machine::settings(Path::new("/")));
    findings.extend(machine::clock(Path::new("/sys"), sys::clock_is_synchronised()));
    let (is_in_use, of_directory) = data_directory(&config, shards);
    findings.extend(of_directory);
    findings.extend(ports(&config, shards, is_in_use));
    findings
}

fn open_files() -> Finding {
    match preflight::check_open_files() {
        Err(why) => Finding::fail("open files", why),
        Ok(limit) if limit < OPEN_FILES_WANTED => Finding::warn(
            "open files",
            format!("the limit is {limit}: connections and partitions with open files share it"),
            format!("`ulimit -n {OPEN_FILES_WANTED}`, or LimitNOFILE={OPEN_FILES_WANTED} in a systemd unit"),
        ),
        Ok(limit) => Finding::ok("open files", format!("the limit is {limit}")),
    }
}

/// What there is to say of the data directory, and whether a broker uses it now.
fn data_directory(config: &BrokerConfig, shards: usize) -> (bool, Vec<Finding>) {
    const CHECK: &str = "data directory";
    let path = &config.data_directory;
    // One that does not exist is tried beside where it would be, and not left behind.
    let is_new = !path.exists();
    let tried = if is_new {
        let existing = path.ancestors().find(|ancestor| !ancestor.as_os_str().is_empty() && ancestor.exists());
        existing.unwrap_or(Path::new(".")).join(format!(".millstream-doctor-{}", std::process::id()))
    } else {
        path.clone()
    };
    let mut is_in_use = false;
    let mut findings = Vec::new();
    let opened = preflight::open_data_directory(&tried, Duration::ZERO);
    findings.push(match &opened {
        Ok(_) if is_new => Finding::ok(CHECK, format!("{} can be made, and written to with O_DIRECT", path.display())),
        Ok(directory) => Finding::ok(CHECK, format!("{} can be written to with O_DIRECT", directory.path.display())),
        Err(refusal @ DirectoryRefusal::InUse { .. }) => {
            is_in_use = true;
            Finding::warn(CHECK, refusal.to_string(), "nothing, if that is the broker that you mean")
        }
        Err(refusal) => {
            Finding::fail(CHECK, refusal.to_string().replace(&*tried.to_string_lossy(), &path.to_string_lossy()))
        }
    });
    if let Ok(there) = tried.canonicalize() {
        findings.extend(drive::look(&there, Path::new("/proc"), Path::new("/sys")));
        if let Ok(space) = sys::space(&there) {
            let journals = if is_new { config.journal_bytes * shards as u64 } else { 0 };
            findings.push(drive::space(space, free_space_floor(config, &space), journals));
        }
    }
    drop(opened);
    if is_new {
        // What cannot be removed does not harm: it is empty but for two small files.
        let _ = std::fs::remove_dir_all(&tried);
    }
    (is_in_use, findings)
}

fn ports(config: &BrokerConfig, shards: usize, is_in_use: bool) -> Vec<Finding> {
    const CHECK: &str = "ports";
    if is_in_use {
        return vec![Finding::ok(CHECK, "not tried, as a broker uses the data directory")];
    }
    let names = config.listeners.iter().map(|listener| format!("{}:{}", listener.host, listener.port));
    let http = config.http_listener.iter().map(|(host, port)| format!("{host}:{port}"));
    let bound = preflight::bind_listeners(&config.listeners, shards, Duration::ZERO).map(drop).and_then(|()| {
        let listen = |(host, port): &(String, u16)| preflight::listen_http(host, *port, Duration::ZERO).map(drop);
        config.http_listener.as_ref().map_or(Ok(()), listen)
    });
    vec![match bound {
        Ok(()) => Finding::ok(CHECK, format!("free: {}", names.chain(http).collect::<Vec<_>>().join(", "))),
        Err(why) => Finding::fail(CHECK, why),
    }]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_stands_below_what_is_wrong() {
        let findings = [Finding::ok("a", "fine"), Finding::warn("longer", "slow", "do this"), Finding::fail("b", "no")];
        assert_eq!(
            render(&findings),
            "ok    a       fine\nwarn  longer  slow\n              fix: do this\nfail  b       no\n"
        );
    }
}
