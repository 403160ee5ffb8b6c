//! A broker as a process of its own, for tests.
#![allow(dead_code, reason = "not every test uses everything")]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// A data directory that is removed when the test ends.
pub struct Data(PathBuf);

impl Data {
    /// A new one; `name` tells the tests of a program apart.
    pub fn new(name: &str) -> Data {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}_{}", std::process::id()));
        // Left over from a test that was killed.
        let _ = std::fs::remove_dir_all(&path);
        Data(path)
    }

    /// The configuration that names it.
    pub fn log_dirs(&self) -> String {
        format!("log.dirs={}", self.0.display())
    }
}

impl Drop for Data {
    fn drop(&mut self) {
        // What is left over harms no other test.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The program with one shard, any free port and no HTTP port, unless overridden.
pub fn command(overrides: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
    command.arg("serve");
    for pair in ["listeners=PLAINTEXT://127.0.0.1:0", "millstream.http.listener=", "millstream.shards=1"] {
        command.args(["--override", pair]);
    }
    for pair in overrides {
        command.args(["--override", pair]);
    }
    command
}

/// A broker that is killed when the test ends.
pub struct Broker {
    /// The process.
    pub child: Child,
    /// Its line that says that it is ready.
    pub ready: String,
}

impl Broker {
    /// Starts one and waits until it is ready.
    pub fn start(overrides: &[&str]) -> Broker {
        let mut child = command(overrides).stdout(Stdio::piped()).spawn().expect("started");
        let mut ready = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut ready).expect("read");
        assert!(ready.contains(" ready: PLAINTEXT://127.0.0.1:"), "{ready:?}");
        Broker { child, ready }
    }

    /// The port of its listener.
    pub fn port(&self) -> u16 {
        let after = self.ready.split("PLAINTEXT://127.0.0.1:").nth(1).expect("an address");
        after.split(',').next().expect("a port").parse().expect("a number")
    }

    /// Sends a signal, by its name: `-TERM`.
    pub fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status().expect("started");
        assert!(status.success());
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
