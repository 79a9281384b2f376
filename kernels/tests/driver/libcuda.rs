//! A library that stands in for an NVIDIA driver's, for tests of all that comes before and after kernels: which GPUs there
//! are, memory, copies, streams, graphs, errors. Kernels compute nothing.
//!
//! What is asynchronous is done as late as a driver may do it: a copy reads its bytes when it is waited for. `FAKE_CUDA` says
//! what else it is, for instance `cuInit=803`, `compute=61 cuMemAlloc_v2=2@5`: sizes and numbers by name, and functions that
//! fail with an error from their n-th call on (the first if there is no `@n`). `slow` is the milliseconds that an event is
//! waited for, at the begin of which the report says `slow`. After an error by which a context is lost all
//! calls fail with it, as they do with a driver. When the context goes, `FAKE_CUDA_REPORT` names a file that gets a line for
//! each kind of things: how many were made, and how many are left.
#![allow(non_snake_case)]
#![deny(clippy::undocumented_unsafe_blocks)]

use std::collections::{BTreeMap, HashMap};
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

const SUCCESS: u32 = 0;
const INVALID_VALUE: u32 = 1;
const OUT_OF_MEMORY: u32 = 2;
const INVALID_HANDLE: u32 = 400;

/// A copy that was asked for.
struct Copy {
    number: u64,
    stream: usize,
    from: usize,
    to: usize,
    bytes: usize,
}

#[derive(Default)]
struct State {
    config: HashMap<String, String>,
    calls: HashMap<&'static str, u64>,
    /// The error by which all was lost.
    lost: u32,
    device: BTreeMap<usize, Box<[u8]>>,
    host: BTreeMap<usize, Box<[u8]>>,
    pending: Vec<Copy>,
    /// Of each event, its stream and the last copy that it waits for.
    events: HashMap<usize, (usize, u64)>,
    copies: u64,
    handles: usize,
    live: HashMap<usize, &'static str>,
    made: BTreeMap<&'static str, u64>,
}

static STATE: LazyLock<Mutex<State>> = LazyLock::new(|| {
    let text = std::env::var("FAKE_CUDA").unwrap_or_default();
    let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
    let config = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Mutex::new(State { config, ..State::default() })
});

impl State {
    fn number(&self, name: &str, or: u64) -> u64 {
        self.config.get(name).and_then(|value| value.parse().ok()).unwrap_or(or)
    }

    /// The error of this call of a function.
    fn error(&mut self, function: &'static str) -> u32 {
        let calls = self.calls.entry(function).or_default();
        *calls += 1;
        if self.lost != SUCCESS {
            return self.lost;
        }
        let Some(value) = self.config.get(function) else { return SUCCESS };
        let (code, from) = value.split_once('@').unwrap_or((value, "1"));
        let (code, from): (u32, u64) = (code.parse().unwrap_or(999), from.parse().unwrap_or(1));
        if *calls < from {
            return SUCCESS;
        }
        if (700..=719).contains(&code) {
            self.lost = code;
        }
        code
    }

    fn make(&mut self, kind: &'static str) -> usize {
        self.handles += 1;
        self.live.insert(self.handles, kind);
        *self.made.entry(kind).or_default() += 1;
        self.handles
    }

    fn end(&mut self, kind: &'static str, handle: usize) -> u32 {
        if self.live.get(&handle) == Some(&kind) {
            self.live.remove(&handle);
            return SUCCESS;
        }
        INVALID_HANDLE
    }

    /// Whether so many bytes from there on are of one allocation of the device.
    fn is_of_device(&self, at: usize, bytes: usize) -> bool {
        let found = self.device.range(..=at).next_back();
        found.is_some_and(|(base, memory)| at + bytes <= base + memory.len())
    }

    /// Makes the copies of a stream, up to this number.
    fn wait(&mut self, stream: usize, until: u64) {
        let is_due = |copy: &Copy| copy.stream == stream && copy.number <= until;
        let (now, later) = self.pending.drain(..).partition::<Vec<_>, _>(is_due);
        self.pending = later;
        for Copy { from, to, bytes, .. } in now {
            // SAFETY: one end was checked to be of the device; the other is the caller's, who keeps it until now.
            unsafe { std::ptr::copy(from as *const u8, to as *mut u8, bytes) };
        }
    }

    fn copy(&mut self, stream: usize, from: usize, to: usize, bytes: usize) -> u32 {
        self.copies += 1;
        self.pending.push(Copy { number: self.copies, stream, from, to, bytes });
        SUCCESS
    }

    fn report(&self) -> String {
        let left = |kind: &str| self.live.values().filter(|of| **of == kind).count();
        self.made.iter().map(|(kind, made)| format!("{kind}: {made} made, {} left\n", left(kind))).collect()
    }
}

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A function that fails if it is told to, and else does something.
macro_rules! functions {
    ($($name:ident($($arg:ident: $ty:ty),*) |$state:ident| $body:expr;)*) => {$(
        /// # Safety
        /// As of the driver's.
        // SAFETY: nobody else in this process defines it.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($arg: $ty),*) -> u32 {
            let mut guard = state();
            let error = guard.error(stringify!($name));
            if error != SUCCESS {
                return error;
            }
            #[allow(unused_variables)]
            let $state = &mut *guard;
            $body
        }
    )*};
}

/// Writes where a caller's pointer points.
fn put<T>(to: *mut T, value: T) -> u32 {
    if to.is_null() {
        return INVALID_VALUE;
    }
    // SAFETY: callers of the driver's functions pass pointers to what these write.
    unsafe { to.write(value) };
    SUCCESS
}

functions! {
    cuInit(_flags: c_uint) |s| SUCCESS;
    cuDriverGetVersion(version: *mut c_int) |s| put(version, s.number("version", 12_040) as c_int);
    cuDeviceGetCount(count: *mut c_int) |s| put(count, s.number("count", 1) as c_int);
    cuDeviceGet(device: *mut c_int, number: c_int) |s| put(device, number);
    cuDeviceGetName(name: *mut c_char, len: c_int, _device: c_int) |s| {
        for (i, byte) in c"Fake GPU".to_bytes_with_nul().iter().take(len as usize).enumerate() {
            put(name.wrapping_add(i), *byte as c_char);
        }
        SUCCESS
    };
    cuDeviceGetPCIBusId(id: *mut c_char, len: c_int, device: c_int) |s| {
        let place = format!("0000:{:02x}:00.0\0", device + 1);
        for (i, byte) in place.bytes().take(len as usize).enumerate() {
            put(id.wrapping_add(i), byte as c_char);
        }
        SUCCESS
    };
    cuDeviceGetAttribute(value: *mut c_int, attribute: u32, _device: c_int) |s| {
        let compute = s.number("compute", 80);
        let of = match attribute {
            75 => compute / 10,
            76 => compute % 10,
            16 => 8,
            97 => 100 << 10,
            _ => 0,
        };
        put(value, of as c_int)
    };
    cuDevicePrimaryCtxRetain(context: *mut usize, _device: c_int) |s| put(context, s.make("contexts"));
    cuDevicePrimaryCtxRelease_v2(_device: c_int) |s| {
        s.live.retain(|_, kind| *kind != "contexts");
        if let Ok(path) = std::env::var("FAKE_CUDA_REPORT") {
            let _ = std::fs::write(path, s.report()); // its reader will miss it
        }
        SUCCESS
    };
    cuCtxSetCurrent(_context: usize) |s| SUCCESS;

    cuMemGetInfo_v2(free: *mut usize, total: *mut usize) |s| {
        let all = s.number("memory", 1 << 30) as usize;
        let taken: usize = s.device.values().map(|memory| memory.len()).sum();
        put(free, all.saturating_sub(taken)) | put(total, all)
    };
    cuMemAlloc_v2(address: *mut usize, bytes: usize) |s| {
        let all = s.number("memory", 1 << 30) as usize;
        let taken: usize = s.device.values().map(|memory| memory.len()).sum();
        if bytes > all.saturating_sub(taken) {
            return OUT_OF_MEMORY;
        }
        let memory = vec![0; bytes].into_boxed_slice();
        let at = memory.as_ptr() as usize;
        s.live.insert(at, "device memory");
        *s.made.entry("device memory").or_default() += 1;
        s.device.insert(at, memory);
        put(address, at)
    };
    cuMemFree_v2(address: usize) |s| {
        s.device.remove(&address);
        s.end("device memory", address)
    };
    cuMemHostAlloc(address: *mut *mut c_void, bytes: usize, _flags: c_uint) |s| {
        // not zeros: whoever reads it before he wrote it finds out
        let mut memory = vec![0xee_u8; bytes].into_boxed_slice();
        let at = memory.as_mut_ptr();
        s.live.insert(at as usize, "host memory");
        *s.made.entry("host memory").or_default() += 1;
        s.host.insert(at as usize, memory);
        put(address, at.cast())
    };
    cuMemFreeHost(address: usize) |s| {
        let used = |copy: &Copy| {
            s.host.get(&address).is_some_and(|memory| (address..address + memory.len()).contains(&copy.from))
        };
        if s.pending.iter().any(used) {
            return INVALID_VALUE; // a copy still reads it
        }
        s.host.remove(&address);
        s.end("host memory", address)
    };
    cuMemcpyHtoDAsync_v2(to: usize, from: usize, bytes: usize, stream: usize) |s| {
        if !s.is_of_device(to, bytes) {
            return INVALID_VALUE;
        }
        s.copy(stream, from, to, bytes)
    };
    cuMemcpyDtoHAsync_v2(to: usize, from: usize, bytes: usize, stream: usize) |s| {
        if !s.is_of_device(from, bytes) {
            return INVALID_VALUE;
        }
        s.copy(stream, from, to, bytes)
    };
    cuMemsetD8Async(at: usize, value: u8, bytes: usize, stream: usize) |s| {
        if !s.is_of_device(at, bytes) {
            return INVALID_VALUE;
        }
        s.wait(stream, u64::MAX);
        // SAFETY: it was checked to be of the device.
        unsafe { (at as *mut u8).write_bytes(value, bytes) };
        SUCCESS
    };

    cuStreamCreate(stream: *mut usize, _flags: c_uint) |s| put(stream, s.make("streams"));
    cuStreamDestroy_v2(stream: usize) |s| s.end("streams", stream);
    cuStreamSynchronize(stream: usize) |s| {
        s.wait(stream, u64::MAX);
        SUCCESS
    };
    cuStreamBeginCapture_v2(_stream: usize, _mode: c_uint) |s| SUCCESS;
    cuStreamEndCapture(_stream: usize, graph: *mut usize) |s| put(graph, s.make("graphs"));
    cuEventCreate(event: *mut usize, _flags: c_uint) |s| put(event, s.make("events"));
    cuEventDestroy_v2(event: usize) |s| s.end("events", event);
    cuEventRecord(event: usize, stream: usize) |s| {
        s.events.insert(event, (stream, s.copies));
        SUCCESS
    };
    cuEventSynchronize(event: usize) |s| {
        let slow = s.number("slow", 0);
        if let Ok(path) = std::env::var("FAKE_CUDA_REPORT")
            && slow > 0
        {
            let _ = std::fs::write(path, "slow\n"); // its reader will miss it
            std::thread::sleep(std::time::Duration::from_millis(slow));
        }
        if let Some((stream, until)) = s.events.remove(&event) {
            s.wait(stream, until);
        }
        SUCCESS
    };

    cuModuleUnload(module: usize) |s| s.end("modules", module);
    cuModuleGetFunction(function: *mut usize, module: usize, _name: *const c_char) |s| put(function, module);
    cuFuncSetAttribute(_function: usize, _attribute: c_uint, _value: c_int) |s| SUCCESS;
    cuLaunchKernel(
        _function: usize, _gx: c_uint, _gy: c_uint, _gz: c_uint, _bx: c_uint, _by: c_uint, _bz: c_uint, _shared: c_uint,
        _stream: usize, _params: *mut *mut c_void, _extra: *mut *mut c_void
    ) |s| SUCCESS;
    cuGraphInstantiateWithFlags(exec: *mut usize, _graph: usize, _flags: u64) |s| put(exec, s.make("graphs to run"));
    cuGraphDestroy(graph: usize) |s| s.end("graphs", graph);
    cuGraphExecDestroy(exec: usize) |s| s.end("graphs to run", exec);
}

/// # Safety
/// As of the driver's.
// SAFETY: nobody else in this process defines it.
#[cfg(not(lacks_graphs))]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGraphLaunch(exec: usize, _stream: usize) -> u32 {
    let mut s = state();
    match s.error("cuGraphLaunch") {
        SUCCESS if s.live.get(&exec) == Some(&"graphs to run") => SUCCESS,
        SUCCESS => INVALID_HANDLE,
        error => error,
    }
}

/// Fails with something in the log, if there is one.
///
/// # Safety
/// As of the driver's.
// SAFETY: nobody else in this process defines it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuModuleLoadDataEx(
    module: *mut usize,
    _image: *const c_void,
    n: c_uint,
    options: *const c_uint,
    values: *const *mut c_void,
) -> u32 {
    const ERROR_LOG: c_uint = 5;
    let mut s = state();
    let error = s.error("cuModuleLoadDataEx");
    if error == SUCCESS {
        return put(module, s.make("modules"));
    }
    for i in 0..n as usize {
        // SAFETY: callers pass as many options and values as they say.
        let (option, value) = unsafe { (*options.add(i), *values.add(i)) };
        if option == ERROR_LOG {
            let log = c"ptxas application ptx input, line 12; fatal: Parsing error\nptxas fatal: aborted"
                .to_bytes_with_nul();
            // SAFETY: it is a buffer of more bytes.
            unsafe { std::ptr::copy_nonoverlapping(log.as_ptr(), value.cast(), log.len()) };
        }
    }
    error
}

/// Names and words of the errors that tests ask for.
fn words(error: u32) -> Option<(&'static CStr, &'static CStr)> {
    Some(match error {
        1 => (c"CUDA_ERROR_INVALID_VALUE", c"invalid argument"),
        2 => (c"CUDA_ERROR_OUT_OF_MEMORY", c"out of memory"),
        100 => (c"CUDA_ERROR_NO_DEVICE", c"no CUDA-capable device is detected"),
        218 => (c"CUDA_ERROR_INVALID_PTX", c"a PTX JIT compilation failed"),
        221 => (c"CUDA_ERROR_JIT_COMPILER_NOT_FOUND", c"PTX JIT compiler library not found"),
        500 => (c"CUDA_ERROR_NOT_FOUND", c"named symbol not found"),
        700 => (c"CUDA_ERROR_ILLEGAL_ADDRESS", c"an illegal memory access was encountered"),
        719 => (c"CUDA_ERROR_LAUNCH_FAILED", c"unspecified launch failure"),
        999 => (c"CUDA_ERROR_UNKNOWN", c"unknown error"),
        _ => return None,
    })
}

fn text(of: Option<&'static CStr>, to: *mut *const c_char) -> u32 {
    of.map_or(INVALID_VALUE, |text| put(to, text.as_ptr()))
}

/// # Safety
/// As of the driver's.
// SAFETY: nobody else in this process defines it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorName(error: u32, to: *mut *const c_char) -> u32 {
    text(words(error).map(|(name, _)| name), to)
}

/// # Safety
/// As of the driver's.
// SAFETY: nobody else in this process defines it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cuGetErrorString(error: u32, to: *mut *const c_char) -> u32 {
    text(words(error).map(|(_, words)| words), to)
}
