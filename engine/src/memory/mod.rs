//! How much memory the machine has, and how much of it this program can have now.

mod cgroup;

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// Memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// All that this program can ever have: what the machine has, or its control groups may take.
    pub total: u64,
    /// What it can have now without making the system swap: what is free, and what holds copies of files, which the
    /// system drops where the memory is wanted. A mapped model is such a copy, so that it takes nothing away from this,
    /// and needs its part of it all the same.
    pub available: u64,
}

impl Memory {
    /// What two bounds leave together.
    fn min(self, other: Memory) -> Memory {
        Memory { total: self.total.min(other.total), available: self.available.min(other.available) }
    }
}

/// The memory of this machine now. `None` if the system does not say.
pub fn now() -> Option<Memory> {
    let memory = MemoryRefreshKind::nothing().with_ram();
    let system = System::new_with_specifics(RefreshKind::nothing().with_memory(memory)).ok()?;
    let total = Some(system.total_memory()).filter(|bytes| *bytes > 0)?;
    // some systems tell only how much there is in all
    let available = Some(system.available_memory()).filter(|bytes| *bytes > 0).unwrap_or(total);
    let groups = cgroup::memory(Path::new("/"));
    let Memory { total, available } = groups.into_iter().fold(Memory { total, available }, Memory::min);
    Some(Memory { total, available: available.saturating_sub(outstanding()) })
}

/// Memory that was promised to a part of this program, which takes it as it uses it: until then it is no longer available to
/// others, though the system calls it free.
#[derive(Debug)]
pub struct Promise(u64);

/// Bytes of all promises.
static PROMISED: AtomicU64 = AtomicU64::new(0);

impl Promise {
    /// Promises so many bytes, until it is dropped.
    pub fn of(bytes: u64) -> Promise {
        PROMISED.fetch_add(bytes, Ordering::Relaxed);
        Promise(bytes)
    }
}

impl Drop for Promise {
    fn drop(&mut self) {
        PROMISED.fetch_sub(self.0, Ordering::Relaxed);
    }
}

/// Bytes that were promised and not yet taken, at least. What this process has taken for something else counts as taken too:
/// better to promise too much than to refuse what there is.
fn outstanding() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    anonymous(&status).map_or(0, |taken| PROMISED.load(Ordering::Relaxed).saturating_sub(taken))
}

/// `RssAnon` in the text of `/proc/self/status`, in bytes: memory that is no copy of a file.
fn anonymous(status: &str) -> Option<u64> {
    let kib = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?.trim().strip_suffix("kB")?;
    kib.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn anonymous_memory_is_in_bytes() {
        assert_eq!(anonymous("VmRSS:\t 9 kB\nRssAnon:\t    12 kB\n"), Some(12 * 1024));
        assert_eq!([anonymous(""), anonymous("RssAnon: x kB")], [None; 2]);
    }

    #[test]
    fn there_is_some_and_not_more_than_all() {
        let memory = now();
        assert!(memory.is_none_or(|memory| memory.total > 1 << 24), "{memory:?}");
        assert!(memory.is_none_or(|memory| memory.available <= memory.total), "{memory:?}");
    }
}
