//! Who may touch what: the arrows of `docs/architecture.md`, held against the imports and names in the sources.

use std::path::{Path, PathBuf};

/// What only a driver does; whatever is pure names none of it.
const OUTSIDE_WORLD: &[&str] = &[
    "std::fs::",
    "std::thread",
    "std::env::",
    "Instant::now",
    "SystemTime::now",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "rustix::",
    "libc::",
    "io_uring::",
    "glommio",
];
/// A path below the workspace, and what no source at or below it may name.
const FORBIDDEN: &[(&str, &[&str])] = &[
    ("storage/src", OUTSIDE_WORLD),
    ("replication/src", OUTSIDE_WORLD),
    ("broker/src/protocol", OUTSIDE_WORLD),
    ("broker/src/group", OUTSIDE_WORLD),
    ("broker/src/api", OUTSIDE_WORLD),
    ("broker/src/shard", OUTSIDE_WORLD),
    ("broker/src/controller", OUTSIDE_WORLD),
    ("broker/src/node", OUTSIDE_WORLD),
    ("broker/src/peer", OUTSIDE_WORLD),
    (
        "broker/src/protocol",
        &["crate::api", "crate::group", "crate::shard", "crate::controller", "crate::node", "crate::driver"],
    ),
    ("broker/src/group", &["crate::api", "crate::shard", "crate::controller", "crate::node", "crate::driver"]),
    ("broker/src/api", &["crate::group", "crate::shard", "crate::controller", "crate::node", "crate::driver"]),
    ("broker/src/shard", &["crate::controller", "crate::node", "crate::driver"]),
    ("broker/src/controller", &["crate::node", "crate::driver"]),
    ("broker/src/node", &["crate::driver"]),
    (
        "broker/src/peer",
        &["crate::api", "crate::group", "crate::shard", "crate::controller", "crate::node", "crate::driver"],
    ),
    ("broker/src/driver", &["crate::cli"]),
    // The two halves of a shard speak by messages only.
    ("broker/src/shard/session", &["owner::"]),
    ("broker/src/shard/owner", &["session::"]),
    ("broker/src/shard/event.rs", &["owner::", "session::"]),
    ("broker/src/shard/message.rs", &["owner::", "session::"]),
    ("broker/src/shard/options.rs", &["owner::", "session::"]),
    ("broker/src/shard/turn.rs", &["owner::", "session::"]),
    ("broker/src/shard/metadata", &["owner::", "session::"]),
];
/// The words that both halves of a shard use. What they import of `crate::shard` is of one of these, never of `mod.rs`.
const SHARED_BY_HALVES: [&str; 5] = ["event", "message", "metadata", "options", "turn"];
/// Files that are not shipped.
const ONLY_FOR_TESTS: [&str; 5] = ["tests.rs", "samples.rs", "testing.rs", "sim.rs", "seeds.rs"];
/// The only files with unsafe code, in order.
const UNSAFE: [&str; 4] =
    ["broker/src/driver/allocator.rs", "broker/src/driver/ring.rs", "broker/src/driver/sys.rs", "storage/src/block.rs"];
/// The only files that know the runtime, in order.
const RUNTIME: [&str; 2] = ["broker/src/driver/executor.rs", "broker/src/driver/sys.rs"];

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("it is a member").to_path_buf()
}

/// The lines that are shipped, of every source at or below a path: no tests, no comments. Each with its file and number.
fn shipped_lines(path: &str) -> Vec<(String, usize, String)> {
    let mut lines = Vec::new();
    let mut left = vec![workspace().join(path)];
    while let Some(path) = left.pop() {
        let name = path.file_name().expect("it has a name").to_string_lossy().into_owned();
        if path.is_dir() {
            if !["tests", "sim", "model"].contains(&name.as_str()) {
                left.extend(std::fs::read_dir(&path).expect("a folder of sources").map(|entry| entry.unwrap().path()));
            }
        } else if name.ends_with(".rs") && !ONLY_FOR_TESTS.contains(&name.as_str()) {
            let file = path.strip_prefix(workspace()).expect("below it").display().to_string();
            let text = std::fs::read_to_string(&path).expect("a source");
            for (number, line) in (1..).zip(text.lines()) {
                if line == "#[cfg(test)]" {
                    // Tests stand last in a file; other things are only for them as well.
                    if text.lines().nth(number).is_some_and(|next| next.contains("mod ") && next.ends_with('{')) {
                        break;
                    }
                }
                if !line.trim_start().starts_with("//") {
                    lines.push((file.clone(), number, line.to_string()));
                }
            }
        }
    }
    assert!(!lines.is_empty(), "there is nothing at {path}");
    lines
}

/// The files at or below the paths that name any of these, in order.
fn files_naming(paths: &[&str], names: &[&str]) -> Vec<String> {
    let lines = paths.iter().flat_map(|path| shipped_lines(path));
    let mut files: Vec<String> =
        lines.filter(|(_, _, line)| names.iter().any(|name| line.contains(name))).map(|(file, _, _)| file).collect();
    files.sort();
    files.dedup();
    files
}

#[test]
fn arrows_run_one_way() {
    let mut wrong = Vec::new();
    for (path, forbidden) in FORBIDDEN {
        for (file, number, line) in shipped_lines(path) {
            if let Some(name) = forbidden.iter().find(|name| line.contains(**name)) {
                wrong.push(format!("{file}:{number} names {name}"));
            }
        }
    }
    assert!(wrong.is_empty(), "docs/architecture.md says why not:\n{}", wrong.join("\n"));
}

#[test]
fn the_halves_of_a_shard_import_only_what_they_share() {
    let mut seen = 0;
    // Replicas are the owners', and so are the streams that replicate them.
    for (half, own) in [("broker/src/shard/session", None), ("broker/src/shard/owner", Some("peers"))] {
        for (file, number, line) in shipped_lines(half) {
            for (at, prefix) in line.match_indices("crate::shard::") {
                let rest = &line[at + prefix.len()..];
                let mut rooms = SHARED_BY_HALVES.iter().copied().chain(own);
                let is_shared = rooms.any(|room| rest.starts_with(&format!("{room}::")));
                assert!(is_shared, "{file}:{number}: {line}");
                seen += 1;
            }
        }
    }
    assert!(seen > 20, "the halves import next to nothing: is this test looking at the right place?");
}

#[test]
fn unsafe_code_and_the_runtime_are_where_they_belong() {
    let sources = ["storage/src", "replication/src", "broker/src", "bench/src"];
    assert_eq!(files_naming(&sources, &["unsafe {", "unsafe impl", "unsafe fn"]), UNSAFE);
    assert_eq!(files_naming(&sources, &["glommio::"]), RUNTIME);
}
