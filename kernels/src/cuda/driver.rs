//! A GPU through NVIDIA's driver, which only this file and its folder name.
//!
//! One primary context, one stream for all but the copies of [`Device::send`], which have one of their own. Modules are loaded
//! when a kernel of theirs is first asked for: a model needs few of them. Uploads go through two buffers of pinned memory, so
//! that copying into one overlaps the transfer of the other.

mod host;
mod library;
mod management;

use std::collections::HashMap;
use std::ffi::{CStr, CString, c_void};
use std::sync::Arc;

use cudarc::driver::{DriverError, result, sys};

use super::memory::Slabs;
use super::{
    Address, Device, Error, Graph, HostBuffer, Kernel, Launch, Memory, Module, Piece, Properties, Transfer,
};
use host::{Context, Pinned};
use library::error;
pub use management::Managed;

/// The least compute capability: kernels use integer dot products, and copies of registers within warps.
const LEAST: (u32, u32) = (7, 5);

/// Bytes of one buffer for uploads.
const STAGE: usize = 4 << 20;

/// Shared memory that a block may have without asking.
const PLAIN_SHARED: u32 = 48 << 10;

/// Bytes of what the driver's translator may say of an error.
const LOG: usize = 8 << 10;

/// A GPU.
pub struct Gpu {
    context: Arc<Context>,
    stream: sys::CUstream,
    /// That of [`Device::send`].
    copies: sys::CUstream,
    properties: Properties,
    modules: HashMap<&'static str, sys::CUmodule>,
    functions: HashMap<&'static str, sys::CUfunction>,
    stages: Vec<Stage>,
    running: HashMap<u64, Running>,
    /// Events that no copy uses now.
    events: Vec<sys::CUevent>,
    /// How many copies and graphs were made, by which they are named.
    made: u64,
    graphs: HashMap<usize, sys::CUgraphExec>,
    /// By the address that the driver gave.
    allocations: HashMap<u64, usize>,
    slabs: Slabs,
    capturing: bool,
}

/// What is known of a GPU that was not opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Survey {
    /// What it is.
    pub properties: Properties,
    /// What its management says; nothing where the driver's management library is not there, or knows no such device.
    pub managed: Option<Managed>,
}

/// A buffer of pinned memory, and the event behind its last transfer.
struct Stage {
    memory: Pinned,
    done: sys::CUevent,
}

/// What a copy reads, and the event behind it.
struct Running {
    buffer: HostBuffer,
    done: sys::CUevent,
}

// SAFETY: the driver's handles may be used from any thread; the context is made current before each use, and `&mut self`
// keeps uses apart.
unsafe impl Send for Gpu {}

impl Gpu {
    /// How many GPUs the driver knows; it may be asked on any machine.
    ///
    /// # Errors
    /// [`Error::NoDriver`], [`Error::Library`], [`Error::DriverTooOld`], or what else the driver says.
    pub fn count() -> Result<usize, Error> {
        library::count()
    }

    /// What is known of GPU number `index` before it is opened, which takes some of its memory.
    ///
    /// # Errors
    /// As [`Gpu::open`], but for a GPU that is busy.
    pub fn survey(index: usize) -> Result<Survey, Error> {
        let (number, properties) = find(index)?;
        Ok(Survey { properties, managed: management::look(number) })
    }

    /// GPU number `index`.
    ///
    /// # Errors
    /// There is no driver, it is too old, there is no such GPU, or it is too old, or busy.
    pub fn open(index: usize) -> Result<Gpu, Error> {
        let (number, properties) = find(index)?;
        let context = Arc::new(Context::of(number)?);
        let mut gpu = Gpu {
            context,
            stream: std::ptr::null_mut(),
            copies: std::ptr::null_mut(),
            properties,
            modules: HashMap::new(),
            functions: HashMap::new(),
            stages: Vec::new(),
            running: HashMap::new(),
            events: Vec::new(),
            made: 0,
            graphs: HashMap::new(),
            allocations: HashMap::new(),
            slabs: Slabs::default(),
            capturing: false,
        };
        gpu.context.enter()?;
        for stream in [&mut gpu.stream, &mut gpu.copies] {
            *stream = result::stream::create(result::stream::StreamKind::NonBlocking)
                .map_err(|e| error("cuStreamCreate", e))?;
        }
        Ok(gpu)
    }

    /// Makes the context current in this thread, for what cannot be part of a graph.
    fn enter_outside(&self, what: &'static str) -> Result<(), Error> {
        if self.capturing {
            return Err(Error::Capturing(what));
        }
        self.context.enter()
    }

    /// The function of a kernel, with as much shared memory as it may have.
    fn function(&mut self, kernel: &'static Kernel) -> Result<sys::CUfunction, Error> {
        if let Some(function) = self.functions.get(kernel.name) {
            return Ok(*function);
        }
        let module = match self.modules.get(kernel.module.name) {
            Some(module) => *module,
            None => {
                let runs = kernel.module.runs_on(self.properties.compute);
                require(&self.properties, runs, kernel.module.compute, kernel.module.name)?;
                let module = load(kernel.module)?;
                self.modules.insert(kernel.module.name, module);
                module
            }
        };
        let name = CString::new(kernel.name).expect("names of kernels hold no 0");
        // SAFETY: the module was loaded, and is not unloaded before this is dropped.
        let function = unsafe { result::module::get_function(module, name) }
            .map_err(|e| error("cuModuleGetFunction", e))?;
        self.functions.insert(kernel.name, function);
        Ok(function)
    }

    /// The buffers for uploads.
    fn make_stages(&mut self) -> Result<(), Error> {
        while self.stages.len() < 2 {
            let memory = Pinned::new(STAGE, &self.context)?;
            self.stages.push(Stage { memory, done: event()? });
        }
        Ok(())
    }

    /// Memory of the driver.
    fn take(&mut self, bytes: usize) -> Result<u64, Error> {
        // SAFETY: what the memory holds is never read as anything but numbers.
        match unsafe { result::malloc_sync(bytes.max(1)) } {
            Ok(address) => Ok(address),
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let Memory { free, total } = self.memory()?;
                Err(Error::OutOfMemory { asked: bytes, free, total })
            }
            Err(e) => Err(error("cuMemAlloc", e)),
        }
    }

    /// Begins to copy pieces of `buffer`, and records `done` behind them.
    fn begin(&self, buffer: &[u8], pieces: &[Piece], done: sys::CUevent) -> Result<(), Error> {
        for piece in pieces {
            let bytes = piece.of(buffer)?;
            // SAFETY: the caller keeps the buffer until the event behind the copy; a wrong device address is an error of
            // the driver.
            unsafe { result::memcpy_htod_async(piece.to.0, bytes, self.copies) }
                .map_err(|e| error("cuMemcpyHtoDAsync", e))?;
        }
        // SAFETY: the event and the stream exist.
        unsafe { result::event::record(done, self.copies) }.map_err(|e| error("cuEventRecord", e))
    }

    /// The name of the next copy or graph.
    fn number(&mut self) -> u64 {
        self.made += 1;
        self.made
    }
}

/// The device of the driver that is GPU number `index`.
fn find(index: usize) -> Result<(sys::CUdevice, Properties), Error> {
    let count = Gpu::count()?;
    if index >= count {
        return Err(Error::NoDevice { index, count });
    }
    let number = result::device::get(index as i32).map_err(|e| error("cuDeviceGet", e))?;
    let properties = properties(number)?;
    require(&properties, properties.compute >= LEAST, LEAST, "braise")?;
    Ok((number, properties))
}

/// A new event, of the current context.
fn event() -> Result<sys::CUevent, Error> {
    result::event::create(sys::CUevent_flags::CU_EVENT_DISABLE_TIMING).map_err(|e| error("cuEventCreate", e))
}

/// Lets the driver translate a module; what it says of an error is part of ours.
fn load(module: &'static Module) -> Result<sys::CUmodule, Error> {
    let mut log = vec![0_u8; LOG];
    let mut options =
        [sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER, sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES];
    let mut values = [log.as_mut_ptr().cast::<c_void>(), std::ptr::without_provenance_mut(LOG)];
    let mut handle = std::ptr::null_mut();
    // SAFETY: the image is a C string of PTX; there are as many values as options, a buffer and its size.
    let loaded = unsafe {
        let image = module.c_string().as_ptr().cast::<c_void>();
        let n = options.len() as u32;
        sys::cuModuleLoadDataEx(&mut handle, image, n, options.as_mut_ptr(), values.as_mut_ptr())
    };
    let Err(e) = loaded.result() else { return Ok(handle) };
    match error("cuModuleLoadDataEx", e) {
        Error::Driver { message, .. } => {
            let log = CStr::from_bytes_until_nul(&log).map(CStr::to_string_lossy).unwrap_or_default();
            Err(Error::Load { module: module.name, message, log: log.into_owned() })
        }
        other => Err(other),
    }
}

/// Fails unless the GPU `runs` what is needed, which takes compute capability `least`.
fn require(
    properties: &Properties,
    runs: bool,
    least: (u32, u32),
    needed: &'static str,
) -> Result<(), Error> {
    if runs {
        return Ok(());
    }
    let (major, minor) = properties.compute;
    Err(Error::Unsupported { name: properties.name.clone(), major, minor, needed, least })
}

fn properties(number: sys::CUdevice) -> Result<Properties, Error> {
    use sys::CUdevice_attribute as Attribute;
    let attribute = |attribute: Attribute| {
        // SAFETY: `number` is a device of the driver.
        unsafe { result::device::get_attribute(number, attribute) }
            .map(|value| value as u32)
            .map_err(|e| error("cuDeviceGetAttribute", e))
    };
    let compute = (
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    );
    Ok(Properties {
        name: result::device::get_name(number).map_err(|e| error("cuDeviceGetName", e))?,
        compute,
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        warpgroups: compute == Properties::WARPGROUPS,
    })
}

impl Device for Gpu {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn memory(&mut self) -> Result<Memory, Error> {
        self.context.enter()?;
        let (free, total) = result::mem_get_info().map_err(|e| error("cuMemGetInfo", e))?;
        Ok(Memory { free, total })
    }

    fn allocate(&mut self, bytes: usize) -> Result<Address, Error> {
        self.enter_outside("memory cannot be allocated")?;
        if let Some(address) = self.slabs.cut(bytes) {
            return Ok(Address(address));
        }
        let address = self.take(bytes)?;
        self.allocations.insert(address, bytes);
        Ok(Address(address))
    }

    fn free(&mut self, address: Address) -> Result<(), Error> {
        self.enter_outside("memory cannot be freed")?;
        let taken = match self.slabs.give_back(address.0) {
            Some(slab) => slab,
            None if self.allocations.remove(&address.0).is_some() => Some(address.0),
            None => return Err(Error::Operands(format!("{address:?} was not allocated"))),
        };
        let Some(taken) = taken else { return Ok(()) };
        self.synchronize()?;
        // SAFETY: the address is that of an allocation, which is freed once, and which no launch still uses.
        unsafe { result::free_sync(taken) }.map_err(|e| error("cuMemFree", e))
    }

    fn reserve(&mut self, bytes: usize) -> Result<(), Error> {
        self.enter_outside("memory cannot be allocated")?;
        if let Some(unused) = self.slabs.take_unused() {
            // SAFETY: nobody got any of it.
            unsafe { result::free_sync(unused) }.map_err(|e| error("cuMemFree", e))?;
        }
        if bytes > 0 {
            let base = self.take(bytes)?;
            self.slabs.add(base, bytes);
        }
        Ok(())
    }

    fn host_buffer(&mut self, bytes: usize) -> Result<HostBuffer, Error> {
        match Pinned::new(bytes, &self.context) {
            Ok(pinned) => Ok(Box::new(pinned)),
            Err(e @ Error::Lost(_)) => Err(e),
            // what may not be pinned, because a limit of the system says so, is copied more slowly
            Err(_) => Ok(Box::new(vec![0; bytes])),
        }
    }

    fn send(&mut self, buffer: HostBuffer, pieces: &[Piece]) -> Result<Transfer, Error> {
        self.enter_outside("memory cannot be uploaded")?;
        let done = self.events.pop().map_or_else(event, Ok)?;
        let begun = self.begin(&buffer, pieces, done);
        if let Err(e) = begun {
            self.events.push(done);
            // SAFETY: the stream exists. Copies that were begun still read the buffer, which is dropped.
            let _ = unsafe { result::stream::synchronize(self.copies) };
            return Err(e);
        }
        let number = self.number();
        self.running.insert(number, Running { buffer, done });
        Ok(Transfer::Running(number))
    }

    fn reclaim(&mut self, transfer: Transfer) -> Result<HostBuffer, Error> {
        self.enter_outside("nothing can be waited for")?;
        let number = match transfer {
            Transfer::Done(buffer) => return Ok(buffer),
            Transfer::Running(number) => number,
        };
        let running = self.running.get(&number);
        let done = running.ok_or_else(|| Error::Operands(format!("{transfer:?} is of another device")))?.done;
        // SAFETY: the event exists, and was recorded behind the copy.
        unsafe { result::event::synchronize(done) }.map_err(|e| error("cuEventSynchronize", e))?;
        self.events.push(done);
        let running = self.running.remove(&number);
        Ok(running.expect("was found above").buffer)
    }

    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<(), Error> {
        self.enter_outside("memory cannot be uploaded")?;
        self.make_stages()?;
        for (i, part) in bytes.chunks(STAGE).enumerate() {
            let Stage { memory, done } = &mut self.stages[i % 2];
            let to = to.offset((i * STAGE) as u64);
            // SAFETY: an event that exists; one that was never recorded is done.
            unsafe { result::event::synchronize(*done) }.map_err(|e| error("cuEventSynchronize", e))?;
            let stage = &mut memory[..part.len()];
            stage.copy_from_slice(part);
            // SAFETY: the buffer is not written to before the event behind this transfer; a wrong device address is an
            // error of the driver.
            unsafe { result::memcpy_htod_async(to.0, stage, self.stream) }
                .map_err(|e| error("cuMemcpyHtoDAsync", e))?;
            // SAFETY: the event and the stream exist.
            unsafe { result::event::record(*done, self.stream) }.map_err(|e| error("cuEventRecord", e))?;
        }
        Ok(())
    }

    fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<(), Error> {
        self.enter_outside("memory cannot be downloaded")?;
        // SAFETY: `bytes` is borrowed until the stream has been waited for, below; a wrong device address is an error of
        // the driver.
        let copied = unsafe { result::memcpy_dtoh_async(bytes, from.0, self.stream) };
        let ended = self.synchronize(); // whatever was begun
        copied.map_err(|e| error("cuMemcpyDtoHAsync", e)).and(ended)
    }

    fn clear(&mut self, at: Address, bytes: usize) -> Result<(), Error> {
        self.context.enter()?;
        // SAFETY: a wrong device address is an error of the driver.
        unsafe { result::memset_d8_async(at.0, 0, bytes, self.stream) }
            .map_err(|e| error("cuMemsetD8Async", e))
    }

    fn prepare(&mut self, kernel: &'static Kernel) -> Result<(), Error> {
        self.enter_outside("kernels cannot be loaded")?;
        self.function(kernel).map(drop)
    }

    fn launch(&mut self, launch: &Launch) -> Result<(), Error> {
        self.context.enter()?;
        let function = self.function(launch.kernel)?;
        if launch.shared > PLAIN_SHARED {
            let attribute = sys::CUfunction_attribute_enum::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
            // SAFETY: the function exists.
            unsafe { result::function::set_function_attribute(function, attribute, launch.shared as i32) }
                .map_err(|e| error("cuFuncSetAttribute", e))?;
        }
        let base = launch.params.as_ptr();
        // SAFETY: `Launch::new` laid the parameters out at these offsets.
        let at = |offset| unsafe { base.add(offset) }.cast_mut().cast::<c_void>();
        let mut params: Vec<*mut c_void> = launch.offsets().map(at).collect();
        let [grid, block] = [launch.grid, launch.block].map(|[x, y, z]| (x, y, z));
        // SAFETY: the pointers are to as many parameters of the sizes as the function's PTX declares, which the driver
        // reads before it returns; the kernel reaches the memory of the device alone.
        unsafe { result::launch_kernel(function, grid, block, launch.shared, self.stream, &mut params) }
            .map_err(|e| error("cuLaunchKernel", e))
    }

    fn begin_capture(&mut self) -> Result<(), Error> {
        self.enter_outside("another one cannot be begun")?;
        let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL;
        // SAFETY: the stream exists.
        unsafe { result::stream::begin_capture(self.stream, mode) }
            .map_err(|e| error("cuStreamBeginCapture", e))?;
        self.capturing = true;
        Ok(())
    }

    fn end_capture(&mut self) -> Result<Graph, Error> {
        self.context.enter()?;
        self.capturing = false;
        // SAFETY: the stream exists; that it captures nothing is an error of the driver.
        let graph = unsafe { result::stream::end_capture(self.stream) }
            .map_err(|e| error("cuStreamEndCapture", e))?;
        // SAFETY: the graph is what the capture gave.
        let exec = unsafe { result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)) };
        // SAFETY: the graph is destroyed once; what was made of it does not need it.
        let destroyed = unsafe { result::graph::destroy(graph) };
        let exec = exec.map_err(|e| error("cuGraphInstantiateWithFlags", e))?;
        let number = self.number() as usize;
        self.graphs.insert(number, exec);
        destroyed.map_err(|e| error("cuGraphDestroy", e))?;
        Ok(Graph(number))
    }

    fn replay(&mut self, graph: Graph) -> Result<(), Error> {
        self.enter_outside("a graph cannot be run")?;
        let exec = *self
            .graphs
            .get(&graph.0)
            .ok_or_else(|| Error::Operands(format!("{graph:?} is of another device")))?;
        // SAFETY: graph and stream exist.
        unsafe { result::graph::launch(exec, self.stream) }.map_err(|e| error("cuGraphLaunch", e))
    }

    fn destroy(&mut self, graph: Graph) -> Result<(), Error> {
        self.context.enter()?;
        let exec = self
            .graphs
            .remove(&graph.0)
            .ok_or_else(|| Error::Operands(format!("{graph:?} is of another device")))?;
        // SAFETY: the graph is destroyed once; the driver lets a run of it come to its end.
        unsafe { result::graph::exec_destroy(exec) }.map_err(|e| error("cuGraphExecDestroy", e))
    }

    fn synchronize(&mut self) -> Result<(), Error> {
        self.enter_outside("nothing can be waited for")?;
        // SAFETY: the stream exists.
        unsafe { result::stream::synchronize(self.stream) }.map_err(|e| error("cuStreamSynchronize", e))
    }
}

impl Drop for Gpu {
    /// Errors have nobody to go to here, and of a lost device everything gives one.
    fn drop(&mut self) {
        if self.context.enter().is_err() {
            return;
        }
        let streams = [self.stream, self.copies].into_iter().filter(|stream| !stream.is_null());
        // SAFETY: every handle is destroyed once, after the streams have come to their ends, and these last; the context
        // after all.
        unsafe {
            for stream in streams.clone() {
                let _ = result::stream::synchronize(stream);
            }
            for (_, exec) in self.graphs.drain() {
                let _ = result::graph::exec_destroy(exec);
            }
            let running = self.running.drain().map(|(_, copy)| copy.done);
            let events = self.stages.drain(..).map(|stage| stage.done).chain(running);
            for event in events.chain(self.events.drain(..)) {
                let _ = result::event::destroy(event);
            }
            for address in self.allocations.drain().map(|(address, _)| address).chain(self.slabs.take_all()) {
                let _ = result::free_sync(address);
            }
            for (_, module) in self.modules.drain() {
                let _ = result::module::unload(module);
            }
            for stream in streams {
                let _ = result::stream::destroy(stream);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What lies in the memory of a GPU comes back, through graphs as well.
    #[test]
    fn a_gpu_does_what_it_is_told() {
        let mut gpu = match Gpu::open(0) {
            Ok(gpu) => gpu,
            Err(e @ (Error::NoDriver | Error::NoDevice { .. })) => return println!("skipped: {e}"),
            Err(e) => panic!("{e}"),
        };
        let n = 3 * STAGE / 4 + 5; // more than two buffers of floats
        let x: Vec<f32> = (0..n).map(|i| i as f32).collect();
        let [a, b] = [(); 2].map(|()| gpu.allocate(4 * n).expect("room"));
        gpu.upload(a, bytemuck::cast_slice(&x)).expect("an upload");
        gpu.clear(b, 4 * n).expect("zeros");
        let args = [a.into(), 0.5.into(), (n as u64).into(), b.into()];
        let launch =
            Launch::new("add_values", [n.div_ceil(256) as u32, 1, 1], 256, 0, &args).expect("a launch");
        gpu.launch(&launch).expect("a launch");
        gpu.begin_capture().expect("a capture");
        gpu.launch(&launch).expect("a launch");
        assert!(matches!(gpu.synchronize(), Err(Error::Capturing(_))));
        let graph = gpu.end_capture().expect("a graph");
        (0..3).for_each(|_| gpu.replay(graph).expect("a run"));
        let mut y = vec![0.0f32; n];
        gpu.download(b, bytemuck::cast_slice_mut(&mut y)).expect("a download");
        assert!(x.iter().zip(&y).all(|(x, y)| 2.0 * x == *y));
        let total = gpu.memory().expect("its size").total;
        assert!(
            matches!(gpu.allocate(2 * total), Err(Error::OutOfMemory { asked, .. }) if asked == 2 * total)
        );
        gpu.destroy(graph).expect("is there");
        assert!(gpu.replay(graph).is_err() && gpu.destroy(graph).is_err());
    }

    #[test]
    fn no_driver_is_an_error_and_no_panic() {
        match (Gpu::count(), Gpu::open(1 << 20)) {
            (Ok(count), Err(Error::NoDevice { index, count: of })) => {
                assert_eq!((index, of), (1 << 20, count))
            }
            (Err(count), Err(open)) => assert_eq!(count, open),
            (count, open) => panic!("{count:?}, but {:?}", open.map(|gpu| gpu.properties.clone())),
        }
    }

    #[test]
    fn a_gpu_that_is_too_old_is_named() {
        let old = Properties {
            name: "Tesla P4".to_owned(),
            compute: (6, 1),
            multiprocessors: 20,
            shared_bytes: 0,
            warpgroups: false,
        };
        let error = require(&old, old.compute >= LEAST, LEAST, "braise").expect_err("6.1 is less than 7.5");
        assert_eq!(error.to_string(), "Tesla P4 has compute capability 6.1, but braise needs 7.5");
    }
}
