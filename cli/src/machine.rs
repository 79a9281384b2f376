//! What the operating system says of this machine.

use anyhow::Result;
use braise_engine::memory;
use sysinfo::{CpuRefreshKind, MemoryRefreshKind, RefreshKind, System};

/// Its memory and processor, now.
pub fn look() -> Result<System> {
    let memory = MemoryRefreshKind::nothing().with_ram();
    let kind = RefreshKind::nothing().with_memory(memory).with_cpu(CpuRefreshKind::nothing());
    Ok(System::new_with_specifics(kind)?)
}

/// The processor's name, or its architecture where it has none.
pub fn cpu_name(system: &System) -> String {
    let brand = system.cpus().first().map(|cpu| cpu.brand().trim().to_owned());
    brand.filter(|brand| !brand.is_empty()).unwrap_or_else(System::cpu_arch)
}

/// Memory that can be had without swapping, in bytes.
pub fn available_memory() -> u64 {
    memory::now().map_or(u64::MAX, |memory| memory.available)
}
