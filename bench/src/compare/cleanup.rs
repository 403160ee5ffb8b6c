//! Leaves the machine as it was, however the comparison ends.
//!
//! A second process of this program holds the list of what to undo, and does so when the pipe from the first one closes:
//! at the end, after an error, and when a signal of any kind has ended it. It has a process group of its own, so Ctrl-C
//! does not reach it.

use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::error::BenchError;
use crate::machine;

/// The subcommand that is not shown in the help.
pub const SUBCOMMAND: &str = "clean-up";
/// How long a broker may take to stop on SIGTERM.
const STOP_WAIT_MAX: Duration = Duration::from_secs(20);

/// Undoes what it has been told of when it is dropped.
pub struct Cleanup {
    child: Child,
}

impl Cleanup {
    pub fn start() -> Result<Cleanup, BenchError> {
        let program = std::env::current_exe().map_err(BenchError::machine("this program"))?;
        let child = Command::new(program)
            .arg(SUBCOMMAND)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .map_err(BenchError::machine("the process that cleans up"))?;
        Ok(Cleanup { child })
    }

    /// Stops this process, which must be one that nobody else ends.
    pub fn process(&mut self, pid: u32) -> Result<(), BenchError> {
        self.tell(&format!("process {pid}"))
    }

    /// Removes this directory, after the processes have been stopped.
    pub fn directory(&mut self, path: &Path) -> Result<(), BenchError> {
        self.tell(&format!("directory {}", path.display()))
    }

    /// Sets the congestion control to what it was.
    pub fn congestion(&mut self, name: &str) -> Result<(), BenchError> {
        self.tell(&format!("congestion {name}"))
    }

    fn tell(&mut self, line: &str) -> Result<(), BenchError> {
        let pipe = self.child.stdin.as_mut().expect("the pipe is open until the drop");
        writeln!(pipe, "{line}").map_err(BenchError::machine("the process that cleans up"))
    }
}

impl Drop for Cleanup {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// The second process: reads what to undo to the end of its standard input, and undoes it.
pub fn run() {
    let (mut processes, mut directories, mut congestion) = (Vec::new(), Vec::new(), None);
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        match line.split_once(' ') {
            Some(("process", pid)) => processes.extend(pid.parse().ok().and_then(Pid::from_raw)),
            Some(("directory", path)) => directories.push(path.to_string()),
            Some(("congestion", name)) => congestion = Some(name.to_string()),
            _ => {}
        }
    }
    for (signal, wait) in [(Signal::TERM, STOP_WAIT_MAX), (Signal::KILL, STOP_WAIT_MAX)] {
        processes.retain(|pid| runs(*pid));
        for pid in &processes {
            let _ = kill_process(*pid, signal);
        }
        let begun = Instant::now();
        while processes.iter().any(|pid| runs(*pid)) && begun.elapsed() < wait {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    for directory in directories {
        if let Err(error) = std::fs::remove_dir_all(&directory) {
            eprintln!("millstream-bench: {directory} is left: {error}");
        }
    }
    if let Some(name) = congestion {
        let _ = machine::set_congestion_control(&name);
    }
}

/// Whether a process is there and has not ended: one that has ended stays until its parent asks for it.
fn runs(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, fields)| !fields.trim_start().starts_with(['Z', 'X']))
}
