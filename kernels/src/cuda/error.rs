//! What can go wrong with a GPU.

/// Why something on a GPU did not work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no CUDA driver.
    #[error("no NVIDIA driver was found (libcuda)")]
    NoDriver,
    /// The driver cannot load these kernels.
    #[error(
        "the NVIDIA driver supports CUDA {major}.{minor}, but 12.0 is needed: install driver 525 or newer"
    )]
    DriverTooOld {
        /// The version of CUDA that it supports.
        major: i32,
        /// The minor version.
        minor: i32,
    },
    /// There is no GPU of this number.
    #[error("there is no GPU {index}: the driver knows {count}")]
    NoDevice {
        /// The number asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// The GPU is older than these kernels.
    #[error("{name} has compute capability {major}.{minor}, but {needed} needs {}.{}", .least.0, .least.1)]
    Unsupported {
        /// The GPU.
        name: String,
        /// Its compute capability.
        major: u32,
        /// The minor number of that.
        minor: u32,
        /// What needs more.
        needed: &'static str,
        /// What it needs.
        least: (u32, u32),
    },
    /// The GPU's memory does not suffice.
    #[error("out of GPU memory: {asked} bytes were asked for, {free} of {total} are free")]
    OutOfMemory {
        /// Bytes asked for.
        asked: usize,
        /// Bytes that are free.
        free: usize,
        /// Bytes of the GPU.
        total: usize,
    },
    /// The GPU does not work any more: a kernel went wrong, or it was reset or unplugged. Nothing on it can be used again.
    #[error("the GPU was lost: {0}")]
    Lost(String),
    /// There is no kernel of this name.
    #[error("there is no kernel {0}")]
    UnknownKernel(String),
    /// A kernel was given other parameters than it takes.
    #[error("kernel {kernel}: {what}")]
    Parameters {
        /// The kernel.
        kernel: &'static str,
        /// What does not fit.
        what: String,
    },
    /// Operands that no kernel takes.
    #[error("{0}")]
    Operands(String),
    /// Something that cannot be done while a graph is captured.
    #[error("{0} while a graph is captured")]
    Capturing(&'static str),
    /// Any other error of the driver.
    #[error("{call}: {message}")]
    Driver {
        /// What was called.
        call: &'static str,
        /// What it said.
        message: String,
    },
}
