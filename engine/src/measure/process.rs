//! What the operating system counts of this process. Linux tells; elsewhere nothing is known.

use std::fs;
use std::time::Duration;

/// What the process used so far; the difference of two is what it used between.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Page faults that needed no disk: memory used for the first time, or file pages that were in the page cache.
    pub minor_faults: Option<u64>,
    /// Page faults that waited for a disk.
    pub major_faults: Option<u64>,
    /// Time in which threads that live now were ready to run, but had no CPU.
    pub waited: Option<Duration>,
}

impl Usage {
    /// Of this process until now.
    pub fn now() -> Usage {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let (minor_faults, major_faults) = faults(&stat).unzip();
        Usage { minor_faults, major_faults, waited: waited() }
    }

    /// What was used since `earlier`.
    #[must_use]
    pub fn since(self, earlier: Usage) -> Usage {
        Usage {
            minor_faults: self.minor_faults.zip(earlier.minor_faults).map(|(a, b)| a.saturating_sub(b)),
            major_faults: self.major_faults.zip(earlier.major_faults).map(|(a, b)| a.saturating_sub(b)),
            waited: self.waited.zip(earlier.waited).map(|(a, b)| a.saturating_sub(b)),
        }
    }
}

/// The most physical memory that this process had since its start or the last [`reset_peak_rss`], in bytes.
pub fn peak_rss() -> Option<u64> {
    high_water_mark(&fs::read_to_string("/proc/self/status").ok()?)
}

/// Lets [`peak_rss`] begin anew, where that is allowed.
pub fn reset_peak_rss() {
    let _ = fs::write("/proc/self/clear_refs", "5"); // 5 resets the mark and nothing else, see proc_pid_clear_refs(5)
}

/// Minor and major faults in the text of `/proc/self/stat`.
fn faults(stat: &str) -> Option<(u64, u64)> {
    // the second field, the program's name in parentheses, may hold blanks
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    Some((fields.get(7)?.parse().ok()?, fields.get(9)?.parse().ok()?))
}

/// `VmHWM` in the text of `/proc/self/status`.
fn high_water_mark(status: &str) -> Option<u64> {
    let kib = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?.trim().strip_suffix("kB")?;
    kib.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Time on run queues, summed over the threads.
fn waited() -> Option<Duration> {
    let mut total = 0;
    for task in fs::read_dir("/proc/self/task").ok()? {
        // a thread that ended meanwhile is not one of those that are measured
        if let Ok(text) = fs::read_to_string(task.ok()?.path().join("schedstat")) {
            total += text.split_whitespace().nth(1)?.parse::<u64>().ok()?;
        }
    }
    Some(Duration::from_nanos(total))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_found_behind_any_name() {
        let stat = "1 (a) b (c)) R 2 3 4 0 -1 5 66 7 88 9 0 0";
        assert_eq!(faults(stat), Some((66, 88)));
        assert_eq!(faults("1 (a) R 2 3"), None);
        assert_eq!(faults(""), None);
    }

    #[test]
    fn the_high_water_mark_is_in_bytes() {
        assert_eq!(high_water_mark("VmPeak:\t 9 kB\nVmHWM:\t    2208 kB\nVmRSS:\t1 kB\n"), Some(2208 * 1024));
        assert_eq!(high_water_mark("VmRSS:\t1 kB\n"), None);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn memory_that_is_used_is_counted() {
        let before = Usage::now();
        let memory = std::hint::black_box(vec![1u8; 32 << 20]);
        let used = Usage::now().since(before);
        assert!(used.minor_faults > Some(0) && used.major_faults.is_some(), "{used:?}");
        assert!(peak_rss() >= Some(memory.len() as u64));
    }
}
