//! What the driver's management library (NVML) says of a GPU, which takes no context there: that alone would take some hundred
//! MB of its memory. The library comes with the driver, but not into every container; without it nothing is known.

use std::ffi::c_char;
use std::sync::OnceLock;

use cudarc::driver::sys;
use nvml_wrapper_sys::bindings::{
    NvmlLib, nvmlClockType_enum_NVML_CLOCK_MEM as CLOCK_OF_MEMORY, nvmlDevice_t, nvmlMemory_t,
    nvmlProcessInfo_t, nvmlReturn_enum_NVML_SUCCESS as SUCCESS,
};

use super::super::Memory;

/// Its name where programs are run; a name without the number comes with what they are built with.
const NAME: &str = if cfg!(windows) { "nvml.dll" } else { "libnvidia-ml.so.1" };

/// Processes that are counted at most.
const PROCESSES: usize = 256;

/// A GPU, as its management sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Managed {
    /// Its memory.
    pub memory: Memory,
    /// Processes that compute there, and bytes of its memory that they have, if that is known.
    pub processes: Option<(usize, u64)>,
    /// Bits that its memory transfers at a time, and at how many MHz at most.
    pub bus: Option<(u32, u32)>,
}

impl Managed {
    /// Bytes per second that the memory can transfer at most: two transfers a clock.
    pub fn bandwidth(&self) -> Option<f64> {
        self.bus.map(|(bits, mhz)| 2.0 * f64::from(mhz) * 1e6 * f64::from(bits) / 8.0)
    }
}

/// The library, ready to be asked, if it is there.
fn library() -> Option<&'static NvmlLib> {
    static LIBRARY: OnceLock<Option<NvmlLib>> = OnceLock::new();
    let load = || {
        // SAFETY: loads NVML, whose initializers may be run in any program.
        let library = unsafe { NvmlLib::new(NAME) }.ok()?;
        let init = library.nvmlInit_v2.as_ref().ok()?;
        // SAFETY: the function takes nothing, and may be called at any time.
        let ready = unsafe { init() } == SUCCESS;
        ready.then_some(library)
    };
    LIBRARY.get_or_init(load).as_ref()
}

/// What is known of a device of the driver. Nothing of a part of a GPU (MIG), which is a device of its own to the driver alone.
pub(super) fn look(number: sys::CUdevice) -> Option<Managed> {
    let library = library()?;
    let device = find(library, number)?;
    let (mut mode, mut next) = (0, 0);
    if let Ok(get) = &library.nvmlDeviceGetMigMode {
        // SAFETY: the device is the library's, which writes two numbers to where the pointers point.
        let answer = unsafe { get(device, &mut mode, &mut next) };
        // others have no such mode
        if answer == SUCCESS && mode != 0 {
            return None;
        }
    }
    let mut memory = nvmlMemory_t { total: 0, free: 0, used: 0 };
    let get = library.nvmlDeviceGetMemoryInfo.as_ref().ok()?;
    // SAFETY: the device is the library's, which fills the struct.
    let answer = unsafe { get(device, &mut memory) };
    (answer == SUCCESS).then_some(())?;
    let [free, total] = [memory.free, memory.total].map(|bytes| usize::try_from(bytes).ok());
    Some(Managed {
        memory: Memory { free: free?, total: total? },
        processes: processes(library, device),
        bus: bus(library, device),
    })
}

/// The device of the same place on the PCI bus: the library counts GPUs in another order than the driver, and all of them.
fn find(library: &NvmlLib, number: sys::CUdevice) -> Option<nvmlDevice_t> {
    let mut place: [c_char; 32] = [0; 32];
    // SAFETY: the driver was initialized; it writes a C string of at most so many bytes.
    let answer = unsafe { sys::cuDeviceGetPCIBusId(place.as_mut_ptr(), place.len() as i32, number) };
    answer.result().ok()?;
    let get = library.nvmlDeviceGetHandleByPciBusId_v2.as_ref().ok()?;
    let mut device = std::ptr::null_mut();
    // SAFETY: the place is a C string, and the library writes one handle.
    let answer = unsafe { get(place.as_ptr(), &mut device) };
    (answer == SUCCESS).then_some(device)
}

fn processes(library: &NvmlLib, device: nvmlDevice_t) -> Option<(usize, u64)> {
    let get = library.nvmlDeviceGetComputeRunningProcesses_v3.as_ref().ok()?;
    let nobody = nvmlProcessInfo_t { pid: 0, usedGpuMemory: 0, gpuInstanceId: 0, computeInstanceId: 0 };
    let (mut all, mut count) = ([nobody; PROCESSES], PROCESSES as u32);
    // SAFETY: the device is the library's, which writes as many processes as there is room for, and how many they are.
    let answer = unsafe { get(device, &mut count, all.as_mut_ptr()) };
    (answer == SUCCESS).then_some(())?;
    let all = all.get(..count as usize)?;
    // the largest number stands for one that is not known
    let bytes = all.iter().map(|process| process.usedGpuMemory).filter(|bytes| *bytes != u64::MAX);
    Some((all.len(), bytes.fold(0, u64::saturating_add)))
}

fn bus(library: &NvmlLib, device: nvmlDevice_t) -> Option<(u32, u32)> {
    let (width, clock) = (
        library.nvmlDeviceGetMemoryBusWidth.as_ref().ok()?,
        library.nvmlDeviceGetMaxClockInfo.as_ref().ok()?,
    );
    let (mut bits, mut mhz) = (0, 0);
    // SAFETY: the device is the library's, which writes one number.
    let of_width = unsafe { width(device, &mut bits) };
    // SAFETY: as above.
    let of_clock = unsafe { clock(device, CLOCK_OF_MEMORY, &mut mhz) };
    (of_width == SUCCESS && of_clock == SUCCESS && bits > 0 && mhz > 0).then_some((bits, mhz))
}
