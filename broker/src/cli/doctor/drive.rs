//! What the system says of the file system and the drive that a directory is on.

use std::path::{Path, PathBuf};

use super::Finding;
use super::machine::read;
use crate::driver::sys::Space;

/// File systems on which the broker is tested.
const FILE_SYSTEMS: [&str; 2] = ["ext4", "xfs"];

/// A line of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Mount {
    /// `major:minor`
    device: String,
    point: PathBuf,
    file_system: String,
    /// Those of the mount and those of the file system.
    options: Vec<String>,
}

/// Looks at what a canonical path is on.
pub fn look(path: &Path, proc: &Path, sys: &Path) -> Vec<Finding> {
    let mounts = read(&proc.join("self/mountinfo")).unwrap_or_default();
    let Some(mount) = mount_of(&mounts, path) else { return Vec::new() };
    let mut findings = vec![file_system(&mount)];
    findings.extend(barriers(&mount));
    findings.extend(drive(&mount.device, sys));
    findings
}

/// The mount that a path lies in: of those that hold it the longest, and of equal ones the last, which covers the others.
fn mount_of(mountinfo: &str, path: &Path) -> Option<Mount> {
    let mounts = mountinfo.lines().filter_map(parse).filter(|mount| path.starts_with(&mount.point));
    mounts.max_by_key(|mount| mount.point.components().count())
}

fn parse(line: &str) -> Option<Mount> {
    // After the mount's own fields come optional ones, then a hyphen, then those of the file system.
    let (own, of_file_system) = line.split_once(" - ")?;
    let own: Vec<&str> = own.split(' ').collect();
    let mut of_file_system = of_file_system.split(' ');
    let file_system = of_file_system.next()?.to_owned();
    let options = own.get(5)?.split(',').chain(of_file_system.nth(1).unwrap_or_default().split(','));
    Some(Mount {
        device: (*own.get(2)?).to_owned(),
        point: PathBuf::from(unescape(own.get(4)?)),
        file_system,
        options: options.map(str::to_owned).collect(),
    })
}

/// Blanks and the like are written as three octal digits behind a backslash.
fn unescape(text: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(text.to_owned(), |text, (written, meant)| text.replace(written, meant))
}

fn file_system(mount: &Mount) -> Finding {
    const CHECK: &str = "file system";
    let message = format!("{} at {}", mount.file_system, mount.point.display());
    if mount.options.iter().any(|option| option == "ro") {
        let fix = format!("`mount -o remount,rw {}`", mount.point.display());
        return Finding::fail_with(CHECK, format!("{message} is mounted read-only"), fix);
    }
    if FILE_SYSTEMS.contains(&&*mount.file_system) {
        return Finding::ok(CHECK, message);
    }
    Finding::warn(CHECK, format!("{message} is not among those that are tested"), "put log.dirs on ext4 or xfs")
}

/// Whether what is synced may still be lost; `None` where nothing says so.
fn barriers(mount: &Mount) -> Option<Finding> {
    let off = mount.options.iter().find(|option| matches!(&***option, "nobarrier" | "barrier=0"))?;
    Some(Finding::fail_with(
        "barriers",
        format!("{} is mounted with {off}: what was acknowledged may be lost with the power", mount.point.display()),
        format!("`mount -o remount,barrier {}`", mount.point.display()),
    ))
}

/// The drive behind a device number; nothing where there is none, as with network and layered file systems.
fn drive(device: &str, sys: &Path) -> Vec<Finding> {
    const CHECK: &str = "drive";
    let Ok(block) = sys.join("dev/block").join(device).canonicalize() else {
        return vec![Finding::ok(
            CHECK,
            "the file system has no block device of its own: nothing is known of its cache",
        )];
    };
    // A partition has its queue at the drive.
    let drive = if block.join("queue").exists() { block } else { block.parent().map(Path::to_owned).unwrap_or(block) };
    let name = drive.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let queue = |file: &str| read(&drive.join("queue").join(file));
    let mut findings = Vec::new();
    match queue("write_cache").as_deref() {
        Some("write back") => {
            let has_fua = queue("fua").as_deref() == Some("1");
            findings.push(if has_fua {
                Finding::ok(CHECK, format!("{name} has a volatile cache and writes past it where asked (FUA)"))
            } else {
                Finding::warn(
                    CHECK,
                    format!(
                        "{name} has a volatile cache and no FUA: each commit is a write and a flush, safe but slower"
                    ),
                    "a drive with FUA or with power-loss protection; with the latter, and only then, \
                     `echo write through > /sys/block/DRIVE/queue/write_cache`"
                        .replace("DRIVE", &name),
                )
            });
        }
        Some(cache) => findings.push(Finding::ok(
            CHECK,
            format!("{name} says that it has no volatile cache ({cache}): what it has written stays"),
        )),
        None => {}
    }
    if queue("rotational").as_deref() == Some("1") {
        findings.push(Finding::warn(
            "drive kind",
            format!("{name} says that it rotates: a commit takes milliseconds"),
            "put log.dirs on an SSD; virtual drives may say this wrongly",
        ));
    }
    findings
}

/// Whether there is room for journals that are to be made, and for what producers write.
pub fn space(space: Space, floor_bytes: u64, journal_bytes: u64) -> Finding {
    const CHECK: &str = "free space";
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64);
    let message = format!("{} of {}", gib(space.free_bytes), gib(space.total_bytes));
    if space.free_bytes < floor_bytes + journal_bytes {
        let mut needed = format!("from {} on produce requests are refused", gib(floor_bytes));
        if journal_bytes > 0 {
            needed.push_str(&format!(", and the journals take {}", gib(journal_bytes)));
        }
        let fix = "free some, or give log.dirs another place; millstream.free.space.floor.bytes and \
                   millstream.journal.bytes set the two";
        return Finding::fail_with(CHECK, format!("{message}: {needed}"), fix);
    }
    Finding::ok(CHECK, message)
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;
    use crate::driver::files::tests::TestDirectory;

    const MOUNTINFO: &str = "22 1 0:21 / /proc rw,relatime - proc proc rw
27 0 254:1 / / rw,relatime shared:1 - ext4 /dev/vda1 rw,errors=remount-ro
40 27 8:17 / /srv rw,noatime - xfs /dev/sdb1 rw,attr2
41 27 8:33 / /srv/my\\040data ro - ext4 /dev/sdc1 rw,barrier=0
42 27 0:40 / /tmp rw - tmpfs tmpfs rw";

    fn device_of(path: &str) -> String {
        mount_of(MOUNTINFO, Path::new(path)).expect("the root holds everything").device
    }

    #[test]
    fn a_path_lies_in_the_innermost_mount() {
        assert_eq!(device_of("/home"), "254:1");
        assert_eq!(device_of("/srv"), "8:17");
        assert_eq!(device_of("/srv2"), "254:1");
        assert_eq!(device_of("/srv/my data/x"), "8:33");
        assert_eq!(mount_of("nonsense", Path::new("/")), None);
    }

    #[test]
    fn drives_and_file_systems_are_told_apart() {
        let root = TestDirectory::new("doctor_drive");
        let (proc, sys) = (root.0.join("proc"), root.0.join("sys"));
        let write = |path: &str, text: &str| {
            let path = root.0.join(path);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
            std::fs::write(path, text).expect("written");
        };
        write("proc/self/mountinfo", MOUNTINFO);
        write("sys/devices/vda/queue/write_cache", "write back\n");
        write("sys/devices/vda/vda1/partition", "1\n");
        write("sys/devices/sdb/queue/write_cache", "write through\n");
        write("sys/devices/sdb/queue/rotational", "1\n");
        write("sys/devices/sdb/sdb1/partition", "1\n");
        std::fs::create_dir_all(sys.join("dev/block")).expect("made");
        for (number, target) in [("254:1", "vda/vda1"), ("8:17", "sdb/sdb1")] {
            std::os::unix::fs::symlink(format!("../../devices/{target}"), sys.join("dev/block").join(number))
                .expect("made");
        }
        let found = |path: &str| {
            let found = look(Path::new(path), &proc, &sys);
            found.into_iter().map(|finding| (finding.check, finding.status)).collect::<Vec<_>>()
        };
        assert_eq!(found("/home"), [("file system", Status::Ok), ("drive", Status::Warn)]);
        write("sys/devices/vda/queue/fua", "1\n");
        assert_eq!(found("/home"), [("file system", Status::Ok), ("drive", Status::Ok)]);
        assert_eq!(found("/srv/a"), [("file system", Status::Ok), ("drive", Status::Ok), ("drive kind", Status::Warn)]);
        assert_eq!(
            found("/srv/my data"),
            [("file system", Status::Fail), ("barriers", Status::Fail), ("drive", Status::Ok)]
        );
        assert_eq!(found("/tmp"), [("file system", Status::Warn), ("drive", Status::Ok)]);
    }

    #[test]
    fn journals_and_the_floor_must_fit() {
        let there = Space { total_bytes: 10 << 30, free_bytes: 2 << 30 };
        assert_eq!(space(there, 1 << 30, 1 << 30).status, Status::Ok);
        let tight = space(there, 1 << 30, (1 << 30) + 1);
        assert_eq!(tight.status, Status::Fail);
        assert!(tight.message.contains("2.0 GiB of 10.0 GiB: from 1.0 GiB on"), "{}", tight.message);
    }
}
