//! What can go wrong with a GPU.

/// Why something on a GPU did not work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no CUDA driver.
    #[error("no NVIDIA driver was found (libcuda)")]
    NoDriver,
    /// The driver's library cannot be used.
    #[error("the NVIDIA driver's library (libcuda) cannot be used: {0}")]
    Library(String),
    /// The driver's library and its kernel module are of different versions.
    #[error(
        "the NVIDIA driver's library and its kernel module are of different versions: restart the machine, or install both \
         from one package"
    )]
    Mismatch,
    /// The driver's library is one for other GPUs.
    #[error(
        "the NVIDIA driver's library comes from a CUDA compatibility package that does not serve this GPU: take its folder \
         out of LD_LIBRARY_PATH, or update the driver"
    )]
    Incompatible,
    /// Another program has the GPU for itself, or it lets nobody in.
    #[error(
        "the GPU is not available: another program has it for itself, or its compute mode or MIG mode lets none in; \
         `nvidia-smi` says which"
    )]
    Busy,
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
    #[error("there is no GPU {index}: the driver knows {}", how_many(*.count))]
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
    /// The driver cannot translate the kernels for this GPU.
    #[error("the NVIDIA driver cannot load the kernels {module}: {message}{}", in_words(.log))]
    Load {
        /// The module.
        module: &'static str,
        /// What it said.
        message: String,
        /// What its translator wrote.
        log: String,
    },
    /// Any other error of the driver.
    #[error("{call}: {message}")]
    Driver {
        /// What was called.
        call: &'static str,
        /// What it said.
        message: String,
    },
}

fn how_many(count: usize) -> String {
    match count {
        0 => "none".to_owned(),
        1 => "one, cuda:0".to_owned(),
        _ => format!("{count}, cuda:0 to cuda:{}", count - 1),
    }
}

/// The lines of a log behind a message.
fn in_words(log: &str) -> String {
    let lines = log.lines().map(str::trim).filter(|line| !line.is_empty());
    lines.fold(String::new(), |text, line| text + "; " + line)
}
