//! A GPU through NVIDIA's driver: the only file that names it.
//!
//! One primary context, one stream. Modules are loaded when a kernel of theirs is first launched: a model needs few of
//! them. Uploads go through two buffers of pinned memory, so that copying into one overlaps the transfer of the other.

use std::collections::HashMap;
use std::ffi::{CString, c_void};

use cudarc::driver::{DriverError, result, sys};

use super::{Address, Device, Error, Graph, Kernel, Launch, Memory, Properties};

/// The version of the driver's interface that the kernels need.
const VERSION: i32 = 12_000;

/// The least compute capability: kernels use integer dot products, and copies of registers within warps.
const LEAST: (u32, u32) = (7, 5);

/// Bytes of one buffer for uploads.
const STAGE: usize = 4 << 20;

/// Shared memory that a block may have without asking.
const PLAIN_SHARED: u32 = 48 << 10;

/// A GPU.
#[derive(Debug)]
pub struct Gpu {
    number: sys::CUdevice,
    context: sys::CUcontext,
    stream: sys::CUstream,
    properties: Properties,
    modules: HashMap<&'static str, sys::CUmodule>,
    functions: HashMap<&'static str, sys::CUfunction>,
    stages: Vec<Stage>,
    graphs: Vec<sys::CUgraphExec>,
    allocations: HashMap<u64, usize>,
    capturing: bool,
}

/// A buffer of pinned memory, and the event behind its last transfer.
#[derive(Debug)]
struct Stage {
    memory: *mut u8,
    done: sys::CUevent,
}

// SAFETY: the driver's handles may be used from any thread; the context is made current before each use, and `&mut self`
// keeps uses apart.
unsafe impl Send for Gpu {}

/// Errors after which nothing in the context works.
const FATAL: &[sys::CUresult] = &[
    sys::CUresult::CUDA_ERROR_DEINITIALIZED,
    sys::CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE,
    sys::CUresult::CUDA_ERROR_ECC_UNCORRECTABLE,
    sys::CUresult::CUDA_ERROR_NVLINK_UNCORRECTABLE,
    sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS,
    sys::CUresult::CUDA_ERROR_LAUNCH_TIMEOUT,
    sys::CUresult::CUDA_ERROR_CONTEXT_IS_DESTROYED,
    sys::CUresult::CUDA_ERROR_ASSERT,
    sys::CUresult::CUDA_ERROR_HARDWARE_STACK_ERROR,
    sys::CUresult::CUDA_ERROR_ILLEGAL_INSTRUCTION,
    sys::CUresult::CUDA_ERROR_MISALIGNED_ADDRESS,
    sys::CUresult::CUDA_ERROR_INVALID_ADDRESS_SPACE,
    sys::CUresult::CUDA_ERROR_INVALID_PC,
    sys::CUresult::CUDA_ERROR_LAUNCH_FAILED,
];

/// What the driver says about an error of `call`.
fn error(call: &'static str, e: DriverError) -> Error {
    let text = |text: Result<&std::ffi::CStr, DriverError>| {
        text.map_or_else(|_| format!("error {}", e.0 as u32), |text| text.to_string_lossy().into_owned())
    };
    let message = format!("{} ({})", text(e.error_string()), text(e.error_name()));
    if FATAL.contains(&e.0) {
        Error::Lost(format!("{call}: {message}"))
    } else if e.0 == sys::CUresult::CUDA_ERROR_UNSUPPORTED_PTX_VERSION {
        driver_version().map_or_else(|e| e, too_old)
    } else {
        Error::Driver { call, message }
    }
}

fn driver_version() -> Result<i32, Error> {
    let mut version = 0;
    // SAFETY: the driver writes one integer to where the pointer points.
    unsafe { sys::cuDriverGetVersion(&mut version) }
        .result()
        .map_err(|e| Error::Driver { call: "cuDriverGetVersion", message: format!("{e:?}") })?;
    Ok(version)
}

fn too_old(version: i32) -> Error {
    Error::DriverTooOld { major: version / 1000, minor: version % 1000 / 10 }
}

impl Gpu {
    /// How many GPUs the driver knows; it may be asked on any machine.
    ///
    /// # Errors
    /// [`Error::NoDriver`], [`Error::DriverTooOld`].
    pub fn count() -> Result<usize, Error> {
        // SAFETY: loads libcuda, whose initializers may be run in any program. Without it, all else would panic.
        if !unsafe { sys::is_culib_present() } {
            return Err(Error::NoDriver);
        }
        let version = driver_version()?;
        if version < VERSION {
            return Err(too_old(version));
        }
        match result::init() {
            Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => return Ok(0),
            done => done.map_err(|e| error("cuInit", e))?,
        }
        Ok(result::device::get_count().map_err(|e| error("cuDeviceGetCount", e))? as usize)
    }

    /// GPU number `index`.
    ///
    /// # Errors
    /// There is no driver, it is too old, there is no such GPU, or it is too old.
    pub fn open(index: usize) -> Result<Gpu, Error> {
        let count = Gpu::count()?;
        if index >= count {
            return Err(Error::NoDevice { index, count });
        }
        let number = result::device::get(index as i32).map_err(|e| error("cuDeviceGet", e))?;
        let properties = properties(number)?;
        require(&properties, LEAST, "braise")?;
        // SAFETY: `number` is a device of the driver.
        let context = unsafe { result::primary_ctx::retain(number) }
            .map_err(|e| error("cuDevicePrimaryCtxRetain", e))?;
        let mut gpu = Gpu {
            number,
            context,
            stream: std::ptr::null_mut(),
            properties,
            modules: HashMap::new(),
            functions: HashMap::new(),
            stages: Vec::new(),
            graphs: Vec::new(),
            allocations: HashMap::new(),
            capturing: false,
        };
        gpu.enter()?;
        gpu.stream = result::stream::create(result::stream::StreamKind::NonBlocking)
            .map_err(|e| error("cuStreamCreate", e))?;
        Ok(gpu)
    }

    /// Makes the context current in this thread.
    fn enter(&self) -> Result<(), Error> {
        // SAFETY: the context was retained, and is released when this is dropped.
        unsafe { result::ctx::set_current(self.context) }.map_err(|e| error("cuCtxSetCurrent", e))
    }

    /// The same for what cannot be part of a graph.
    fn enter_outside(&self, what: &'static str) -> Result<(), Error> {
        if self.capturing {
            return Err(Error::Capturing(what));
        }
        self.enter()
    }

    /// The function of a kernel, with as much shared memory as it may have.
    fn function(&mut self, kernel: &'static Kernel) -> Result<sys::CUfunction, Error> {
        if let Some(function) = self.functions.get(kernel.name) {
            return Ok(*function);
        }
        let module = match self.modules.get(kernel.module.name) {
            Some(module) => *module,
            None => {
                require(&self.properties, kernel.module.compute, kernel.module.name)?;
                let image = kernel.module.c_string().as_ptr().cast::<c_void>();
                // SAFETY: the image is a C string of PTX.
                let module =
                    unsafe { result::module::load_data(image) }.map_err(|e| error("cuModuleLoadData", e))?;
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
            let event = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
            let done = result::event::create(event).map_err(|e| error("cuEventCreate", e))?;
            // SAFETY: the memory is only written before it is read.
            let memory = unsafe { result::malloc_host(STAGE, 0) }.map_err(|e| error("cuMemHostAlloc", e))?;
            self.stages.push(Stage { memory: memory.cast(), done });
        }
        Ok(())
    }
}

/// Fails unless the GPU has compute capability `least`.
fn require(properties: &Properties, least: (u32, u32), needed: &'static str) -> Result<(), Error> {
    if properties.compute >= least {
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
    Ok(Properties {
        name: result::device::get_name(number).map_err(|e| error("cuDeviceGetName", e))?,
        compute: (
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
            attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
        ),
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
    })
}

impl Device for Gpu {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn memory(&mut self) -> Result<Memory, Error> {
        self.enter()?;
        let (free, total) = result::mem_get_info().map_err(|e| error("cuMemGetInfo", e))?;
        Ok(Memory { free, total })
    }

    fn allocate(&mut self, bytes: usize) -> Result<Address, Error> {
        self.enter_outside("memory cannot be allocated")?;
        // SAFETY: what the memory holds is never read as anything but numbers.
        match unsafe { result::malloc_sync(bytes.max(1)) } {
            Ok(address) => {
                self.allocations.insert(address, bytes);
                Ok(Address(address))
            }
            Err(DriverError(sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY)) => {
                let Memory { free, total } = self.memory()?;
                Err(Error::OutOfMemory { asked: bytes, free, total })
            }
            Err(e) => Err(error("cuMemAlloc", e)),
        }
    }

    fn free(&mut self, address: Address) -> Result<(), Error> {
        self.enter_outside("memory cannot be freed")?;
        if self.allocations.remove(&address.0).is_none() {
            return Err(Error::Operands(format!("{address:?} was not allocated")));
        }
        self.synchronize()?;
        // SAFETY: the address is that of an allocation, which is freed once, and which no launch still uses.
        unsafe { result::free_sync(address.0) }.map_err(|e| error("cuMemFree", e))
    }

    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<(), Error> {
        self.enter_outside("memory cannot be uploaded")?;
        self.make_stages()?;
        for (i, part) in bytes.chunks(STAGE).enumerate() {
            let Stage { memory, done } = self.stages[i % 2];
            let to = to.offset((i * STAGE) as u64);
            // SAFETY: an event that exists; one that was never recorded is done.
            unsafe { result::event::synchronize(done) }.map_err(|e| error("cuEventSynchronize", e))?;
            // SAFETY: the buffer has STAGE bytes, a part has no more, and the transfer that read it is done.
            let stage = unsafe {
                std::ptr::copy_nonoverlapping(part.as_ptr(), memory, part.len());
                std::slice::from_raw_parts(memory, part.len())
            };
            // SAFETY: the buffer is not written to before the event behind this transfer; a wrong device address is an
            // error of the driver.
            unsafe { result::memcpy_htod_async(to.0, stage, self.stream) }
                .map_err(|e| error("cuMemcpyHtoDAsync", e))?;
            // SAFETY: the event and the stream exist.
            unsafe { result::event::record(done, self.stream) }.map_err(|e| error("cuEventRecord", e))?;
        }
        Ok(())
    }

    fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<(), Error> {
        self.enter_outside("memory cannot be downloaded")?;
        // SAFETY: `bytes` is borrowed until the stream has been waited for, below; a wrong device address is an error of
        // the driver.
        let copied = unsafe { result::memcpy_dtoh_async(bytes, from.0, self.stream) };
        self.synchronize()?;
        copied.map_err(|e| error("cuMemcpyDtoHAsync", e))
    }

    fn clear(&mut self, at: Address, bytes: usize) -> Result<(), Error> {
        self.enter()?;
        // SAFETY: a wrong device address is an error of the driver.
        unsafe { result::memset_d8_async(at.0, 0, bytes, self.stream) }
            .map_err(|e| error("cuMemsetD8Async", e))
    }

    fn launch(&mut self, launch: &Launch) -> Result<(), Error> {
        self.enter()?;
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
        self.enter()?;
        self.capturing = false;
        // SAFETY: the stream exists; that it captures nothing is an error of the driver.
        let graph = unsafe { result::stream::end_capture(self.stream) }
            .map_err(|e| error("cuStreamEndCapture", e))?;
        // SAFETY: the graph is what the capture gave.
        let exec = unsafe { result::graph::instantiate(graph, sys::CUgraphInstantiate_flags(0)) };
        // SAFETY: the graph is destroyed once; what was made of it does not need it.
        let destroyed = unsafe { result::graph::destroy(graph) };
        self.graphs.push(exec.map_err(|e| error("cuGraphInstantiate", e))?);
        destroyed.map_err(|e| error("cuGraphDestroy", e))?;
        Ok(Graph(self.graphs.len() - 1))
    }

    fn replay(&mut self, graph: Graph) -> Result<(), Error> {
        self.enter_outside("a graph cannot be run")?;
        let exec = *self
            .graphs
            .get(graph.0)
            .ok_or_else(|| Error::Operands(format!("{graph:?} is of another device")))?;
        // SAFETY: graph and stream exist until this is dropped.
        unsafe { result::graph::launch(exec, self.stream) }.map_err(|e| error("cuGraphLaunch", e))
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
        if self.enter().is_err() {
            return;
        }
        // SAFETY: every handle is destroyed once, after the stream has come to its end, the stream last.
        unsafe {
            let _ = result::stream::synchronize(self.stream);
            for exec in self.graphs.drain(..) {
                let _ = result::graph::exec_destroy(exec);
            }
            for stage in self.stages.drain(..) {
                let _ = result::event::destroy(stage.done);
                let _ = result::free_host(stage.memory.cast());
            }
            for (address, _) in self.allocations.drain() {
                let _ = result::free_sync(address);
            }
            for (_, module) in self.modules.drain() {
                let _ = result::module::unload(module);
            }
            if !self.stream.is_null() {
                let _ = result::stream::destroy(self.stream);
            }
            let _ = result::primary_ctx::release(self.number);
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
        let old =
            Properties { name: "Tesla P4".to_owned(), compute: (6, 1), multiprocessors: 20, shared_bytes: 0 };
        let error = require(&old, LEAST, "braise").expect_err("6.1 is less than 7.5");
        assert_eq!(error.to_string(), "Tesla P4 has compute capability 6.1, but braise needs 7.5");
        assert_eq!(
            too_old(11_080).to_string().split(',').next(),
            Some("the NVIDIA driver supports CUDA 11.8")
        );
    }
}
