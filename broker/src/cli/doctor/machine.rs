//! What `/proc` and `/sys` say of the kernel, the processors, the clock, and settings that matter.

use std::path::Path;

use super::Finding;
use crate::driver::control_group;

/// The first kernel that has what is needed, and the first that is as fast as it gets: README.md.
const KERNEL_MIN: (u32, u32) = (5, 13);
const KERNEL_WANTED: (u32, u32) = (6, 1);
/// Clock sources that are read without a system call, or nearly as fast.
const CLOCKS_FAST: [&str; 5] =
    ["tsc", "kvm-clock", "arch_sys_counter", "hyperv_clocksource_tsc_page", "riscv_clocksource"];
/// Above this the kernel swaps programs out to keep more files in memory.
const SWAPPINESS_MAX: u32 = 60;

/// A small file of `/proc` or `/sys`, without the end of its line.
pub fn read(path: &Path) -> Option<String> {
    std::fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

/// Whether the kernel is new enough.
pub fn kernel(release: &str) -> Finding {
    const CHECK: &str = "kernel";
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().ok());
    let (Some(Some(major)), Some(Some(minor))) = (numbers.next(), numbers.next()) else {
        return Finding::warn(CHECK, format!("its release {release:?} has no version"), "look at `uname -r`");
    };
    let message = format!("Linux {release}");
    let (oldest, wanted) =
        (format!("{}.{}", KERNEL_MIN.0, KERNEL_MIN.1), format!("{}.{}", KERNEL_WANTED.0, KERNEL_WANTED.1));
    if (major, minor) < KERNEL_MIN {
        Finding::fail_with(
            CHECK,
            format!("{message} is too old"),
            format!("install Linux {oldest} or later, best {wanted} or later"),
        )
    } else if (major, minor) < KERNEL_WANTED {
        Finding::warn(
            CHECK,
            format!("{message} lacks parts of io_uring that save time"),
            format!("install Linux {wanted} or later"),
        )
    } else {
        Finding::ok(CHECK, message)
    }
}

/// Whether each shard has a core.
pub fn processors(processors: usize, shards: usize) -> Finding {
    const CHECK: &str = "processors";
    let plural = |count: usize, name: &str| format!("{count} {name}{}", if count == 1 { "" } else { "s" });
    let message = format!("{} for {}", plural(processors, "processor"), plural(shards, "shard"));
    if shards > processors {
        Finding::warn(CHECK, format!("{message}: they take turns on a core"), format!("millstream.shards={processors}"))
    } else {
        Finding::ok(CHECK, message)
    }
}

/// Whether cores run at full speed; `None` where the machine does not say, as in virtual ones.
pub fn governor(sys: &Path) -> Option<Finding> {
    const CHECK: &str = "governor";
    let mut governors: Vec<String> = std::fs::read_dir(sys.join("devices/system/cpu"))
        .ok()?
        .filter_map(|entry| read(&entry.ok()?.path().join("cpufreq/scaling_governor")))
        .collect();
    governors.sort_unstable();
    governors.dedup();
    match &*governors {
        [] => None,
        [one] if one == "performance" => Some(Finding::ok(CHECK, "cores run at full speed")),
        others => Some(Finding::warn(
            CHECK,
            format!("cores change their speed ({}): waking up is slower", others.join(", ")),
            "`cpupower frequency-set -g performance`",
        )),
    }
}

/// Whether control groups keep the process from its cores; `None` without a limit.
pub fn quota(root: &Path, shards: usize) -> Option<Finding> {
    const CHECK: &str = "processor quota";
    let cores = control_group::cores(root)?;
    let message = format!("the control group allows {cores:.1} cores");
    if cores < shards as f64 {
        let fewer = (cores as usize).max(1);
        let message = format!("{message}, {shards} shards want one each: they will be stopped again and again");
        let fix = format!("raise the limit (--cpus, CPUQuota=), or millstream.shards={fewer}");
        return Some(Finding::warn(CHECK, message, fix));
    }
    Some(Finding::ok(CHECK, message))
}

/// Settings of the kernel that cost memory or time.
pub fn settings(root: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    let pages = read(&root.join("sys/kernel/mm/transparent_hugepage/enabled")).unwrap_or_default();
    if pages.contains("[always]") {
        findings.push(Finding::warn(
            "huge pages",
            "transparent huge pages are always used: the process may take more memory than its budget says",
            "`echo madvise > /sys/kernel/mm/transparent_hugepage/enabled`",
        ));
    } else if !pages.is_empty() {
        findings.push(Finding::ok("huge pages", "transparent huge pages are used only where asked for"));
    }
    let swaps = read(&root.join("proc/swaps")).unwrap_or_default().lines().count().saturating_sub(1);
    let swappiness = read(&root.join("proc/sys/vm/swappiness")).and_then(|text| text.parse::<u32>().ok()).unwrap_or(0);
    findings.push(if swaps > 0 && swappiness >= SWAPPINESS_MAX {
        Finding::warn(
            "swap",
            format!("there is swap space and vm.swappiness is {swappiness}: the process may be swapped out"),
            "`sysctl vm.swappiness=1`, or `swapoff -a`",
        )
    } else {
        Finding::ok("swap", if swaps > 0 { "used only when memory is short" } else { "none" })
    });
    findings
}

/// Whether the time is read quickly, and right.
pub fn clock(sys: &Path, is_synchronised: Option<bool>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let sources = sys.join("devices/system/clocksource/clocksource0");
    if let Some(source) = read(&sources.join("current_clocksource")) {
        findings.push(if CLOCKS_FAST.contains(&&*source) {
            Finding::ok("clock source", source)
        } else {
            let available = read(&sources.join("available_clocksource")).unwrap_or_default();
            let better = available.split(' ').find(|source| CLOCKS_FAST.contains(source));
            let fix = better.map_or("a machine with a usable time stamp counter".to_owned(), |better| {
                format!("`echo {better} > {}/current_clocksource`", sources.display())
            });
            Finding::warn("clock source", format!("{source} is slow to read, and it is read often"), fix)
        });
    }
    findings.push(match is_synchronised {
        Some(true) => Finding::ok("time", "kept in step with other machines (NTP)"),
        Some(false) => Finding::warn(
            "time",
            "the kernel does not know the clock to be in step with other machines: timestamps and retention by time go by it",
            "`timedatectl set-ntp true`, or run chronyd; in a container or virtual machine the host may do it",
        ),
        None => Finding::ok("time", "the kernel does not say whether it is in step with other machines"),
    });
    findings
}

#[cfg(test)]
mod tests {
    use super::super::Status;
    use super::*;
    use crate::driver::files::tests::TestDirectory;

    fn write(root: &Path, path: &str, text: &str) {
        let path = root.join(path);
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, text).expect("written");
    }

    #[test]
    fn kernels_are_compared_by_their_numbers() {
        for (release, status) in [
            ("4.19.0-27-amd64", Status::Fail),
            ("5.12.19", Status::Fail),
            ("5.13.0", Status::Warn),
            ("5.15.0-1052-aws", Status::Warn),
            ("6.1.0", Status::Ok),
            ("6.18.5+", Status::Ok),
            ("10.0-rc1", Status::Ok),
            ("odd", Status::Warn),
        ] {
            assert_eq!(kernel(release).status, status, "{release}");
        }
    }

    #[test]
    fn what_the_machine_says_is_understood() {
        let root = TestDirectory::new("doctor_machine");
        let (root, sys) = (&root.0, root.0.join("sys"));
        assert_eq!(processors(2, 2).status, Status::Ok);
        assert_eq!(processors(1, 2).fix.as_deref(), Some("millstream.shards=1"));
        assert_eq!(governor(&sys), None);
        write(root, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", "performance\n");
        assert_eq!(governor(&sys).expect("told").status, Status::Ok);
        write(root, "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave\n");
        let mixed = governor(&sys).expect("told");
        assert_eq!((mixed.status, mixed.message.contains("(performance, powersave)")), (Status::Warn, true));

        assert_eq!(quota(root, 2), None);
        write(root, "sys/fs/cgroup/cpu.max", "max 100000\n");
        assert_eq!(quota(root, 2), None);
        write(root, "proc/self/cgroup", "0::/a/b\n");
        write(root, "sys/fs/cgroup/a/cpu.max", "150000 100000\n");
        assert_eq!(quota(root, 1).expect("a limit").status, Status::Ok);
        let tight = quota(root, 2).expect("a limit");
        assert!(tight.message.contains("allows 1.5 cores") && tight.fix.expect("one").contains("millstream.shards=1"));

        write(root, "sys/kernel/mm/transparent_hugepage/enabled", "[always] madvise never\n");
        write(root, "proc/swaps", "Filename\tType\n/swap\tfile\n");
        write(root, "proc/sys/vm/swappiness", "60\n");
        let statuses = |findings: Vec<Finding>| findings.iter().map(|finding| finding.status).collect::<Vec<_>>();
        assert_eq!(statuses(settings(root)), [Status::Warn, Status::Warn]);
        write(root, "sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
        write(root, "proc/swaps", "Filename\tType\n");
        assert_eq!(statuses(settings(root)), [Status::Ok, Status::Ok]);

        write(root, "sys/devices/system/clocksource/clocksource0/current_clocksource", "hpet\n");
        write(root, "sys/devices/system/clocksource/clocksource0/available_clocksource", "hpet tsc acpi_pm\n");
        let clocks = clock(&sys, Some(false));
        assert!(clocks[0].fix.as_deref().expect("one").starts_with("`echo tsc > "), "{clocks:?}");
        assert_eq!(clocks[1].status, Status::Warn);
        write(root, "sys/devices/system/clocksource/clocksource0/current_clocksource", "tsc\n");
        assert_eq!(statuses(clock(&sys, Some(true))), [Status::Ok, Status::Ok]);
    }
}
