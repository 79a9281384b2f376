//! Limits of control groups, in which Linux keeps containers and services: that of this process, and all above it. Versions
//! 1 and 2 of the interface (`Documentation/admin-guide/cgroup-v1/memory.rst` and `cgroup-v2.rst` of Linux), which a system
//! may have side by side.

use std::fs;
use std::path::{Component, Path, PathBuf};

use super::Memory;

/// What one version of the interface calls things.
struct Version {
    /// Files with limits; one that holds no number is no limit.
    limits: &'static [&'static str],
    usage: &'static str,
    /// Lines of `memory.stat` that count what the kernel drops where the memory is wanted: copies of files, and what it
    /// keeps of folders.
    droppable: &'static [&'static str],
}

const V1: Version = Version {
    limits: &["memory.limit_in_bytes"],
    usage: "memory.usage_in_bytes",
    droppable: &["total_active_file", "total_inactive_file"],
};

// above `high` the kernel slows processes down until they are below it again
const V2: Version = Version {
    limits: &["memory.max", "memory.high"],
    usage: "memory.current",
    droppable: &["active_file", "inactive_file", "slab_reclaimable"],
};

/// What each group that this process is in leaves it; `root` is where the file system begins. Groups without limits are
/// left out.
pub(super) fn memory(root: &Path) -> Vec<Memory> {
    let read = |path: &str| fs::read_to_string(root.join(path)).unwrap_or_default();
    let (groups, mounts) = (read("proc/self/cgroup"), read("proc/self/mountinfo"));
    let mut all = Vec::new();
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else { continue };
        let (fs_type, controller, version) = match controllers {
            "" => ("cgroup2", None, &V2),
            list if list.split(',').any(|name| name == "memory") => ("cgroup", Some("memory"), &V1),
            _ => continue,
        };
        let Some(mount) = mounts.lines().find_map(|line| mount(line, fs_type, controller)) else { continue };
        // where the group lies outside of what is mounted, as in some containers, what is mounted is its own
        let below = |group: &&Path| group.components().all(|part| matches!(part, Component::Normal(_)));
        let group = Path::new(group).strip_prefix(&mount.root).ok().filter(below).unwrap_or(Path::new(""));
        all.extend(group.ancestors().filter_map(|group| left_by(&root.join(&mount.at).join(group), version)));
    }
    all
}

/// Where the groups of an interface are in the file system.
struct Mount {
    /// The group that is mounted.
    root: PathBuf,
    /// Where, without the first slash.
    at: PathBuf,
}

/// The mount in a line of `/proc/self/mountinfo`, if it is of this type and has this controller (proc_pid_mountinfo(5)).
fn mount(line: &str, fs_type: &str, controller: Option<&str>) -> Option<Mount> {
    let (mount, file_system) = line.split_once(" - ")?;
    let mut mount = mount.split(' ').skip(3);
    let (root, at) = (mount.next()?, mount.next()?);
    let mut file_system = file_system.split(' ');
    let is_type = file_system.next()? == fs_type;
    let options = file_system.nth(1)?;
    let has = controller.is_none_or(|controller| options.split(',').any(|option| option == controller));
    (is_type && has).then(|| Mount { root: root.into(), at: at.trim_start_matches('/').into() })
}

/// What a group leaves its processes, if it has a limit.
fn left_by(group: &Path, version: &Version) -> Option<Memory> {
    let read = |name: &str| fs::read_to_string(group.join(name)).ok();
    let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
    let total = version.limits.iter().filter_map(|name| number(name)).min()?;
    let stat = read("memory.stat").unwrap_or_default();
    let droppable = stat.lines().filter_map(|line| {
        let (name, bytes) = line.split_once(' ')?;
        version.droppable.contains(&name).then(|| bytes.trim().parse::<u64>().ok())?
    });
    let droppable = droppable.fold(0, u64::saturating_add);
    let used = number(version.usage).unwrap_or(0).saturating_sub(droppable);
    Some(Memory { total, available: total.saturating_sub(used) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    /// A file system with these files.
    fn files(files: &[(&str, &str)]) -> TempDir {
        let dir = tempfile::tempdir().expect("a temporary folder");
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("is created");
            fs::write(path, text).expect("is written");
        }
        dir
    }

    fn found(of: &[(&str, &str)]) -> Vec<(u64, u64)> {
        memory(files(of).path()).into_iter().map(|m| (m.total, m.available)).collect()
    }

    const MOUNT_2: (&str, &str) =
        ("proc/self/mountinfo", "30 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n");

    #[test]
    fn all_parents_count_in_version_2() {
        let all = found(&[
            MOUNT_2,
            ("proc/self/cgroup", "0::/user.slice/app.service\n"),
            ("sys/fs/cgroup/user.slice/app.service/memory.max", "max\n"),
            ("sys/fs/cgroup/user.slice/app.service/memory.high", "900\n"),
            ("sys/fs/cgroup/user.slice/app.service/memory.current", "500\n"),
            (
                "sys/fs/cgroup/user.slice/app.service/memory.stat",
                "anon 200\nfile 290\nactive_file 30\ninactive_file 200\nslab_reclaimable 4\nslab 9\n",
            ),
            ("sys/fs/cgroup/user.slice/memory.max", "1000\n"),
            ("sys/fs/cgroup/user.slice/memory.high", "max\n"),
            ("sys/fs/cgroup/user.slice/memory.current", "700\n"),
        ]);
        assert_eq!(all, [(900, 900 - (500 - 234)), (1000, 300)]);
    }

    #[test]
    fn version_1_may_stand_beside_version_2() {
        let stat = "cache 50\nactive_file 1\ntotal_active_file 20\ntotal_inactive_file 30\ntotal_rss 9\n";
        let mounts = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
            32 31 0:29 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
            35 31 0:32 / /sys/fs/cgroup/memory rw shared:9 - cgroup cgroup rw,memory\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        let all = found(&[
            ("proc/self/mountinfo", mounts),
            ("proc/self/cgroup", "4:memory:/a/b\n3:cpuset:/\n0::/\n"),
            ("sys/fs/cgroup/memory/a/b/memory.limit_in_bytes", "300\n"),
            ("sys/fs/cgroup/memory/a/b/memory.usage_in_bytes", "100\n"),
            ("sys/fs/cgroup/memory/a/b/memory.stat", stat),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/cpu/memory.limit_in_bytes", "1\n"),
            ("sys/fs/cgroup/unified/cgroup.procs", "1\n"),
        ]);
        assert_eq!(all, [(300, 250), (9_223_372_036_854_771_712, 9_223_372_036_854_771_712)]);
    }

    #[test]
    fn a_container_finds_its_own_group() {
        // the whole tree is named, but only the container's part is mounted
        let mounts = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let limit = ("sys/fs/cgroup/memory/memory.limit_in_bytes", "512\n");
        for group in ["/docker/abc", "/elsewhere", "/"] {
            let line = format!("4:memory,hugetlb:{group}\n");
            let all = found(&[("proc/self/mountinfo", mounts), ("proc/self/cgroup", &line), limit]);
            assert_eq!(all, [(512, 512)], "{group}");
        }
        let below = "4:memory:/docker/abc/job\n";
        let job = ("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "64\n");
        let all = found(&[("proc/self/mountinfo", mounts), ("proc/self/cgroup", below), limit, job]);
        assert_eq!(all, [(64, 64), (512, 512)]);
    }

    #[test]
    fn what_is_taken_beyond_a_limit_leaves_nothing() {
        let of = |usage| {
            found(&[
                MOUNT_2,
                ("proc/self/cgroup", "0::/\n"),
                ("sys/fs/cgroup/memory.max", "100\n"),
                ("sys/fs/cgroup/memory.current", usage),
            ])
        };
        assert_eq!(of("120\n"), [(100, 0)]);
        assert_eq!(of("nonsense\n"), [(100, 100)]);
    }

    #[test]
    fn no_groups_and_damaged_files_are_no_limits() {
        assert_eq!(found(&[]), []);
        assert_eq!(found(&[MOUNT_2, ("proc/self/cgroup", "0::/\n")]), []);
        let limit = ("sys/fs/cgroup/memory.max", "100\n");
        for group in ["", "0\n", "0:\n", "x\ny:memory\n", "7:cpu:/\n"] {
            assert_eq!(found(&[MOUNT_2, ("proc/self/cgroup", group), limit]), [], "{group:?}");
        }
        for mounts in ["", "30 23\n", "30 23 0:26 / /sys/fs/cgroup rw\n", "30 23 0:26 / /x rw - \n"] {
            let all = found(&[("proc/self/mountinfo", mounts), ("proc/self/cgroup", "0::/\n"), limit]);
            assert_eq!(all, [], "{mounts:?}");
        }
        // not below what is mounted
        let all = found(&[MOUNT_2, ("proc/self/cgroup", "0::/../../etc\n"), limit]);
        assert_eq!(all, [(100, 100)]);
    }
}
