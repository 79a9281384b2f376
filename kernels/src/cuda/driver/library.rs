//! The driver's library: whether it is there and whole, and what its errors mean.

use std::ffi::CStr;
use std::sync::OnceLock;

use cudarc::driver::{DriverError, result, sys};

use super::super::Error;

/// The version of the driver's interface that the kernels need.
const VERSION: i32 = 12_000;

/// All functions of the library that are called: a missing one would end the program where it is called first.
#[rustfmt::skip]
const FUNCTIONS: &[&CStr] = &[
    c"cuInit", c"cuDriverGetVersion", c"cuGetErrorName", c"cuGetErrorString",
    c"cuDeviceGet", c"cuDeviceGetAttribute", c"cuDeviceGetCount", c"cuDeviceGetName",
    c"cuDeviceGetPCIBusId",
    c"cuDevicePrimaryCtxRetain", c"cuDevicePrimaryCtxRelease_v2", c"cuCtxSetCurrent",
    c"cuMemAlloc_v2", c"cuMemFree_v2", c"cuMemGetInfo_v2", c"cuMemHostAlloc", c"cuMemFreeHost",
    c"cuMemcpyHtoDAsync_v2", c"cuMemcpyDtoHAsync_v2", c"cuMemsetD8Async",
    c"cuStreamCreate", c"cuStreamDestroy_v2", c"cuStreamSynchronize", c"cuStreamBeginCapture_v2", c"cuStreamEndCapture",
    c"cuEventCreate", c"cuEventDestroy_v2", c"cuEventRecord", c"cuEventSynchronize",
    c"cuModuleLoadDataEx", c"cuModuleUnload", c"cuModuleGetFunction", c"cuFuncSetAttribute", c"cuLaunchKernel",
    c"cuGraphInstantiateWithFlags", c"cuGraphLaunch", c"cuGraphDestroy", c"cuGraphExecDestroy",
];

/// Errors after which nothing in the context works.
const FATAL: &[sys::CUresult] = &[
    sys::CUresult::CUDA_ERROR_DEINITIALIZED,
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
    sys::CUresult::CUDA_ERROR_EXTERNAL_DEVICE,
];

/// How many GPUs there are; the library may be called from then on.
///
/// # Errors
/// [`Error::NoDriver`], [`Error::Library`], [`Error::DriverTooOld`], or what the driver says.
pub(super) fn count() -> Result<usize, Error> {
    static WHOLE: OnceLock<Result<(), Error>> = OnceLock::new();
    WHOLE.get_or_init(check).clone()?;
    match result::init() {
        Err(DriverError(sys::CUresult::CUDA_ERROR_NO_DEVICE)) => return Ok(0),
        done => done.map_err(|e| error("cuInit", e))?,
    }
    let count = result::device::get_count().map_err(|e| error("cuDeviceGetCount", e))?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Fails unless the library is there, recent, and has all functions.
fn check() -> Result<(), Error> {
    // SAFETY: loads libcuda, whose initializers may be run in any program. Without it, all else would panic.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::NoDriver);
    }
    // SAFETY: the library is there.
    let library = unsafe { sys::culib() };
    let lacks = |name: &CStr| {
        // SAFETY: the symbol is looked up as a function, and not called.
        unsafe { library.get::<unsafe extern "C" fn()>(name.to_bytes_with_nul()) }.is_err()
    };
    let missing = |name: &CStr| Error::Library(format!("it has no {}", name.to_string_lossy()));
    // an old one lacks functions too, and its version says more
    if lacks(c"cuDriverGetVersion") {
        return Err(missing(c"cuDriverGetVersion"));
    }
    let version = version()?;
    if version < VERSION {
        return Err(too_old(version));
    }
    FUNCTIONS.iter().find(|name| lacks(name)).map_or(Ok(()), |name| Err(missing(name)))
}

/// What the driver says about an error of `call`.
pub(super) fn error(call: &'static str, e: DriverError) -> Error {
    use sys::CUresult as Code;
    match e.0 {
        Code::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH => return Error::Mismatch,
        Code::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE => return Error::Incompatible,
        Code::CUDA_ERROR_DEVICE_UNAVAILABLE => return Error::Busy,
        Code::CUDA_ERROR_STUB_LIBRARY => {
            return Error::Library("it is the stub that programs are linked with, and no driver".to_owned());
        }
        Code::CUDA_ERROR_UNSUPPORTED_PTX_VERSION => return version().map_or_else(|e| e, too_old),
        _ => {}
    }
    let message = message(e);
    match FATAL.contains(&e.0) {
        true => Error::Lost(format!("{call}: {message}")),
        false => Error::Driver { call, message },
    }
}

/// Words and name of an error.
pub(super) fn message(e: DriverError) -> String {
    let text = |text: Result<&CStr, DriverError>| {
        text.map_or_else(|_| format!("error {}", e.0 as u32), |text| text.to_string_lossy().into_owned())
    };
    format!("{} ({})", text(e.error_string()), text(e.error_name()))
}

fn version() -> Result<i32, Error> {
    let mut version = 0;
    // SAFETY: the driver writes one integer to where the pointer points.
    unsafe { sys::cuDriverGetVersion(&mut version) }
        .result()
        .map_err(|e| Error::Library(format!("cuDriverGetVersion gives error {}", e.0 as u32)))?;
    Ok(version)
}

fn too_old(version: i32) -> Error {
    Error::DriverTooOld { major: version / 1000, minor: version % 1000 / 10 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_driver_says_becomes_what_a_user_can_act_on() {
        assert_eq!(
            too_old(11_080).to_string().split(',').next(),
            Some("the NVIDIA driver supports CUDA 11.8")
        );
        let of = |code| error("cuInit", DriverError(code));
        assert_eq!(of(sys::CUresult::CUDA_ERROR_SYSTEM_DRIVER_MISMATCH), Error::Mismatch);
        assert_eq!(of(sys::CUresult::CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE), Error::Incompatible);
        assert_eq!(of(sys::CUresult::CUDA_ERROR_DEVICE_UNAVAILABLE), Error::Busy);
        assert!(matches!(of(sys::CUresult::CUDA_ERROR_STUB_LIBRARY), Error::Library(_)));
    }

    /// Each call is named in the code beside it where it may fail; the rest ends or names something.
    #[test]
    fn functions_that_are_called_are_looked_up_first() {
        let sources = [include_str!("../driver.rs"), include_str!("host.rs"), include_str!("library.rs")];
        let named = sources.iter().flat_map(|source| source.split("error(\"").skip(1));
        let named: Vec<&str> = named.filter_map(|text| text.split('"').next()).collect();
        assert!(named.len() > 20, "{named:?}");
        for name in named {
            let is = |function: &&CStr| {
                let function = function.to_string_lossy();
                function == name || function.strip_prefix(name).is_some_and(|rest| rest.starts_with("_v"))
            };
            assert!(FUNCTIONS.iter().any(is), "{name}");
        }
    }
}
