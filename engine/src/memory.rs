//! How much memory the machine has.

use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// Bytes of memory that this program can have at most, whatever else runs: what the machine has, or its control group
/// may take. `None` if the system does not say.
pub fn total() -> Option<u64> {
    let memory = MemoryRefreshKind::nothing().with_ram();
    let system = System::new_with_specifics(RefreshKind::nothing().with_memory(memory)).ok()?;
    let limit = system.cgroup_limits().map(|limits| limits.total_memory);
    Some(system.total_memory()).into_iter().chain(limit).filter(|bytes| *bytes > 0).min()
}

#[cfg(test)]
mod tests {
    #[test]
    fn there_is_some() {
        assert!(super::total().is_none_or(|bytes| bytes > 1 << 24));
    }
}
