//! A library that stands in for NVML, for tests. `FAKE_NVML` says what it answers, for instance `devices=2 free=5 total=9 mig=1`;
//! a function that is named there fails with that number.
#![allow(non_snake_case)]
#![deny(clippy::undocumented_unsafe_blocks)]

use std::ffi::{CStr, c_char, c_uint};

const SUCCESS: u32 = 0;
const NOT_FOUND: u32 = 6;

/// The handle of the device at place 0 of the bus, which is none; those that are there follow.
const NONE: usize = 0x100;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var("FAKE_NVML").unwrap_or_default();
    let mut pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
    pairs.find(|(of, _)| *of == name)?.1.parse().ok()
}

/// Writes `value` where `to` points, for `device`, unless the function is to fail.
fn answer<T>(function: &str, device: usize, to: *mut T, value: Option<T>) -> u32 {
    if let Some(error) = number(function) {
        return error as u32;
    }
    let Some(value) = value.filter(|_| device > NONE) else { return NOT_FOUND };
    // SAFETY: callers pass pointers to what is written.
    unsafe { to.write(value) };
    SUCCESS
}

#[repr(C)]
pub struct Memory {
    total: u64,
    free: u64,
    used: u64,
}

#[repr(C)]
pub struct Process {
    pid: c_uint,
    bytes: u64,
    instances: [c_uint; 2],
}

/// # Safety
/// As of NVML's.
// SAFETY: nobody else in this process defines it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlInit_v2() -> u32 {
    number("nvmlInit_v2").map_or(SUCCESS, |error| error as u32)
}

/// # Safety
/// As of NVML's.
// SAFETY: nobody else in this process defines it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetHandleByPciBusId_v2(place: *const c_char, device: *mut usize) -> u32 {
    // SAFETY: callers pass a C string.
    let place = unsafe { CStr::from_ptr(place) };
    let bus = place.to_str().ok().and_then(|place| place.strip_prefix("0000:")?.strip_suffix(":00.0"));
    let bus = bus.and_then(|bus| usize::from_str_radix(bus, 16).ok());
    let known = bus.filter(|bus| (1..=number("devices").unwrap_or(1)).contains(&(*bus as u64)));
    answer("nvmlDeviceGetHandleByPciBusId_v2", NONE + 1, device, known.map(|bus| NONE + bus))
}

/// # Safety
/// As of NVML's.
// SAFETY: nobody else in this process defines it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMigMode(device: usize, now: *mut c_uint, next: *mut c_uint) -> u32 {
    let mode = number("mig").unwrap_or(0) as c_uint;
    answer("", device, next, Some(mode)) | answer("nvmlDeviceGetMigMode", device, now, Some(mode))
}

/// # Safety
/// As of NVML's.
// SAFETY: nobody else in this process defines it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryInfo(device: usize, memory: *mut Memory) -> u32 {
    let [free, total] = ["free", "total"].map(|name| number(name).unwrap_or(1 << 30));
    answer("nvmlDeviceGetMemoryInfo", device, memory, Some(Memory { total, free, used: total - free }))
}

/// # Safety
/// As of NVML's.
// SAFETY: nobody else in this process defines it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: usize,
    count: *mut c_uint,
    to: *mut Process,
) -> u32 {
    for (i, bytes) in [7_000, u64::MAX].into_iter().enumerate() {
        // SAFETY: callers have room for more than two.
        unsafe { to.add(i).write(Process { pid: 1, bytes, instances: [0; 2] }) };
    }
    answer("nvmlDeviceGetComputeRunningProcesses_v3", device, count, Some(2))
}

/// # Safety
/// As of NVML's.
// SAFETY: nobody else in this process defines it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMemoryBusWidth(device: usize, bits: *mut c_uint) -> u32 {
    answer("nvmlDeviceGetMemoryBusWidth", device, bits, Some(5120))
}

/// # Safety
/// As of NVML's.
// SAFETY: nobody else in this process defines it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn nvmlDeviceGetMaxClockInfo(device: usize, clock: c_uint, mhz: *mut c_uint) -> u32 {
    answer("nvmlDeviceGetMaxClockInfo", device, mhz, (clock == 2).then_some(2619))
}
