//! How many threads suit this machine.

use std::collections::BTreeSet;
use std::fs;
use std::thread::available_parallelism;

/// Physical cores that this process may use: threads that share a core share its arithmetic units, and a second one
/// only adds noise. Heeds the CPUs that the process is bound to and the quota of its control group.
pub fn default_threads() -> usize {
    // what the standard library counts: CPUs allowed, at most the quota
    let allowed = available_parallelism().map_or(1, usize::from);
    physical_cores().map_or(allowed, |cores| cores.clamp(1, allowed))
}

/// CPUs that this process is bound to, if Linux tells. A quota of its control group may leave it less time than theirs.
pub fn allowed_cpus() -> Option<usize> {
    Some(allowed()?.len())
}

fn allowed() -> Option<Vec<usize>> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    cpus(status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?)
}

/// Cores with at least one allowed CPU, if Linux tells.
fn physical_cores() -> Option<usize> {
    let cores: Option<BTreeSet<String>> = allowed()?
        .into_iter()
        .map(|cpu| {
            let path = format!("/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list");
            fs::read_to_string(path).ok()
        })
        .collect();
    Some(cores?.len())
}

/// The numbers of a list such as `0-3,8`.
fn cpus(list: &str) -> Option<Vec<usize>> {
    let mut cpus = Vec::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        cpus.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
    }
    Some(cpus)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cpus() {
        assert_eq!(cpus("0-3,8,10-11\n"), Some(vec![0, 1, 2, 3, 8, 10, 11]));
        assert_eq!(cpus("5"), Some(vec![5]));
        assert_eq!(cpus("a"), None);
    }

    #[test]
    fn there_is_at_least_one_and_no_more_than_allowed() {
        let n = default_threads();
        let parallel = available_parallelism().map_or(1, usize::from);
        assert!(n >= 1 && n <= parallel);
        assert!(allowed_cpus().is_none_or(|cpus| cpus >= parallel));
    }
}
