//! Whatever ends a comparison, no broker and no data are left behind.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const WAIT_MAX: Duration = Duration::from_secs(30);

fn directory(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.{}", std::process::id()));
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// A comparison of one "broker", whose process id is written to `directory/pid`.
fn compare(directory: &Path, broker: &str) -> Command {
    let data = directory.join("data");
    std::fs::create_dir_all(&data).unwrap();
    let pid = directory.join("pid").display().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_millstream-bench"));
    command
        .args(["compare", "--tiny", "--data-parent", &data.display().to_string(), "--broker"])
        .arg(format!("fake=sh -c \"echo \\$\\$ > {pid}; mkdir {{data}}; {broker}\" # {{port}}"))
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < WAIT_MAX, "{what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn assert_nothing_is_left(directory: &Path) {
    let pid = std::fs::read_to_string(directory.join("pid")).unwrap();
    wait_for("the broker runs on", || !Path::new(&format!("/proc/{}", pid.trim())).exists());
    wait_for("data are left", || std::fs::read_dir(directory.join("data")).unwrap().next().is_none());
    std::fs::remove_dir_all(directory).unwrap();
}

#[test]
fn a_broker_that_ends_is_an_error_that_shows_its_output() {
    let directory = directory("ends");
    let output = compare(&directory, "echo out of luck; exit 3").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("ended before it was ready"), "{said}");
    assert!(said.contains("out of luck"), "{said}");
    assert_nothing_is_left(&directory);
}

/// Of a cluster the node that has ended is named, though another one would still be waited for.
#[test]
fn a_node_that_ends_is_an_error_that_names_it() {
    let directory = directory("node");
    let broker = r#"if test {node} = 2; then echo {voters}; exit 3; fi; exec sleep 300"#;
    let output = compare(&directory, broker).args(["--nodes", "2"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("broker fake, node 2: it ended before it was ready"), "{said}");
    assert!(said.contains("1@127.0.0.1:") && said.contains(",2@127.0.0.1:"), "{said}");
    assert_nothing_is_left(&directory);
}

/// It is ready and takes no connections: the first load fails.
#[test]
fn an_error_in_the_load_stops_the_broker() {
    let directory = directory("load");
    let output = compare(&directory, "echo ready; exec sleep 300").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("cannot connect"), "{said}");
    assert_nothing_is_left(&directory);
}

/// Even the signal that nothing can catch.
#[test]
fn a_comparison_that_is_killed_leaves_nothing() {
    let directory = directory("killed");
    let mut comparison = compare(&directory, "exec sleep 300").spawn().unwrap();
    wait_for("the broker does not start", || {
        std::fs::read_to_string(directory.join("pid")).is_ok_and(|pid| pid.ends_with('\n'))
    });
    // The comparison has started it and is about to say so to the process that cleans up.
    std::thread::sleep(Duration::from_millis(500));
    comparison.kill().unwrap();
    comparison.wait().unwrap();
    assert_nothing_is_left(&directory);
}
