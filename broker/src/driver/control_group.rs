//! What control groups allow this process, of version 2 (cgroups(7), the kernel's `cgroup-v2.rst`) and of version 1, whose
//! hierarchies may also be mounted beside that of version 2.
//!
//! Each group above the process's own may have a limit too: the smallest counts. In a container of version 1 the path that
//! `/proc/self/cgroup` names is often that of the host, which does not exist there; then the groups above it that do, at last
//! the root of the mount, which is the container's own group, are what there is to see.

use std::fs;
use std::path::{Path, PathBuf};

/// Where hierarchies are mounted, by every convention there is.
const MOUNT: &str = "sys/fs/cgroup";

/// The least memory that a group of this process may have, in bytes; `None` without a limit. `root` is `/`, but in tests.
pub fn memory_bytes(root: &Path) -> Option<u64> {
    // Version 1 writes "no limit" as the largest number of whole pages: no machine has as much.
    let limit = |file: PathBuf| read(&file)?.parse().ok();
    let of_unified = unified(root).into_iter().filter_map(|group| limit(group.join("memory.max")));
    let of_controller =
        controller(root, "memory").into_iter().filter_map(|group| limit(group.join("memory.limit_in_bytes")));
    of_unified.chain(of_controller).min()
}

/// The least time of processors that a group of this process may have, in cores; `None` without a limit. `root` as above.
pub fn cores(root: &Path) -> Option<f64> {
    let of_unified = unified(root).into_iter().filter_map(|group| {
        let limit = read(&group.join("cpu.max"))?;
        let (quota, period) = limit.split_once(' ')?;
        cores_of(quota, period)
    });
    let of_controller = controller(root, "cpu").into_iter().filter_map(|group| {
        let (quota, period) = (read(&group.join("cpu.cfs_quota_us"))?, read(&group.join("cpu.cfs_period_us"))?);
        cores_of(&quota, &period)
    });
    of_unified.chain(of_controller).min_by(f64::total_cmp)
}

/// No limit is `max` in version 2 and -1 in version 1.
fn cores_of(quota: &str, period: &str) -> Option<f64> {
    let quota = quota.parse::<f64>().ok().filter(|quota| *quota > 0.0)?;
    Some(quota / period.parse::<f64>().ok().filter(|period| *period > 0.0)?)
}

/// The directories of the process's group of version 2 and of all above it. They may not exist.
fn unified(root: &Path) -> Vec<PathBuf> {
    let path = groups(root).into_iter().find_map(|(controllers, path)| controllers.is_empty().then_some(path));
    up(root.join(MOUNT), path.unwrap_or_default())
}

/// The same of the hierarchy of version 1 that has this controller; nothing where none has.
fn controller(root: &Path, name: &str) -> Vec<PathBuf> {
    let found = groups(root).into_iter().find_map(|(controllers, path)| {
        let has = controllers.split(',').any(|controller| controller == name);
        // `cpu,cpuacct` has that name, and mostly also links of the names of both.
        let places = [name, &controllers].map(|directory| root.join(MOUNT).join(directory));
        places.into_iter().find(|place| has && place.is_dir()).map(|place| up(place, path))
    });
    found.unwrap_or_default()
}

/// The lines of `/proc/self/cgroup`, `ID:CONTROLLERS:/PATH`: controllers (none: version 2) and path, without the first slash.
fn groups(root: &Path) -> Vec<(String, String)> {
    let text = read(&root.join("proc/self/cgroup")).unwrap_or_default();
    let parse = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next()?, fields.next()?);
        Some((controllers.to_owned(), path.trim_start_matches('/').to_owned()))
    };
    text.lines().filter_map(parse).collect()
}

/// A group's directory below a mount, and all above it, that of the mount too.
fn up(mount: PathBuf, path: String) -> Vec<PathBuf> {
    Path::new(&path).ancestors().map(|group| mount.join(group)).collect()
}

/// A small file, without the end of its line.
fn read(path: &Path) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::super::files::tests::TestDirectory;
    use super::*;

    fn write(root: &TestDirectory, path: &str, text: &str) {
        let path = root.0.join(path);
        fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        fs::write(path, text).expect("written");
    }

    #[test]
    fn nothing_is_no_limit() {
        let root = TestDirectory::new("control_group_none");
        assert_eq!((memory_bytes(&root.0), cores(&root.0)), (None, None));
        write(&root, "proc/self/cgroup", "0::/\nnonsense\n");
        write(&root, "sys/fs/cgroup/memory.max", "max\n");
        write(&root, "sys/fs/cgroup/cpu.max", "max 100000\n");
        assert_eq!((memory_bytes(&root.0), cores(&root.0)), (None, None));
    }

    #[test]
    fn of_version_2_the_smallest_on_the_way_up_counts() {
        let root = TestDirectory::new("control_group_v2");
        write(&root, "proc/self/cgroup", "0::/a/b\n");
        write(&root, "sys/fs/cgroup/a/b/memory.max", "max\n");
        write(&root, "sys/fs/cgroup/a/memory.max", "1073741824\n");
        write(&root, "sys/fs/cgroup/memory.max", "2147483648\n");
        write(&root, "sys/fs/cgroup/a/b/cpu.max", "400000 100000\n");
        write(&root, "sys/fs/cgroup/a/cpu.max", "150000 100000\n");
        assert_eq!((memory_bytes(&root.0), cores(&root.0)), (Some(1 << 30), Some(1.5)));
    }

    #[test]
    fn of_version_1_each_controller_has_a_hierarchy() {
        let root = TestDirectory::new("control_group_v1");
        write(&root, "proc/self/cgroup", "5:memory:/a/b\n4:cpu,cpuacct:/c\n1:name=systemd:/d\n");
        write(&root, "sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
        write(&root, "sys/fs/cgroup/memory/a/memory.limit_in_bytes", "536870912\n");
        write(&root, "sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "9223372036854771712\n");
        write(&root, "sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_quota_us", "250000\n");
        write(&root, "sys/fs/cgroup/cpu,cpuacct/c/cpu.cfs_period_us", "100000\n");
        write(&root, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us", "-1\n");
        write(&root, "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us", "100000\n");
        assert_eq!((memory_bytes(&root.0), cores(&root.0)), (Some(512 << 20), Some(2.5)));
    }

    #[test]
    fn a_container_of_version_1_sees_its_own_group_as_the_root() {
        let root = TestDirectory::new("control_group_container");
        write(&root, "proc/self/cgroup", "9:memory:/docker/0123\n3:cpu,cpuacct:/docker/0123\n0::/docker/0123\n");
        write(&root, "sys/fs/cgroup/memory/memory.limit_in_bytes", "268435456\n");
        write(&root, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", "50000\n");
        write(&root, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
        assert_eq!((memory_bytes(&root.0), cores(&root.0)), (Some(256 << 20), Some(0.5)));
    }

    #[test]
    fn both_versions_side_by_side() {
        let root = TestDirectory::new("control_group_both");
        write(&root, "proc/self/cgroup", "2:memory:/x\n0::/y\n");
        write(&root, "sys/fs/cgroup/memory/x/memory.limit_in_bytes", "1000000\n");
        write(&root, "sys/fs/cgroup/y/cpu.max", "300000 100000\n");
        assert_eq!((memory_bytes(&root.0), cores(&root.0)), (Some(1_000_000), Some(3.0)));
    }
}
