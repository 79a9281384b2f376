//! How much memory the machine has, and how much of it this program can have now.

mod cgroup;

use std::path::Path;

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
    let machine = Memory { total: system.total_memory(), available: system.available_memory() };
    let groups = cgroup::memory(Path::new("/"));
    Some(groups.into_iter().fold(machine, Memory::min)).filter(|memory| memory.total > 0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn there_is_some_and_not_more_than_all() {
        let memory = super::now();
        assert!(memory.is_none_or(|memory| memory.total > 1 << 24), "{memory:?}");
        assert!(memory.is_none_or(|memory| memory.available <= memory.total), "{memory:?}");
    }
}
