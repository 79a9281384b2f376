//! What kernels run on, as a trait: a GPU, or in tests a machine that interprets the same PTX.

use super::{Error, Launch};

/// A place in a device's memory. No host memory can be reached through it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Address(pub u64);

impl Address {
    /// No place: kernels take it for what is optional.
    pub const NONE: Address = Address(0);

    /// The place `bytes` behind this one.
    pub fn offset(self, bytes: u64) -> Address {
        Address(self.0.wrapping_add(bytes))
    }
}

/// What a device is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Properties {
    /// Its name.
    pub name: String,
    /// Compute capability, (9, 0) for instance.
    pub compute: (u32, u32),
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Largest shared memory of a block, in bytes.
    pub shared_bytes: u32,
}

/// Bytes of a device's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// What can be allocated now.
    pub free: usize,
    /// All of it.
    pub total: usize,
}

/// Launches that were captured, of the device that captured them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Graph(pub(crate) usize);

impl Graph {
    /// The graph of this number, for implementations of [`Device`].
    pub fn new(number: usize) -> Graph {
        Graph(number)
    }

    /// Its number.
    pub fn number(self) -> usize {
        self.0
    }
}

/// A device. All it does is done in the order of the calls; what goes wrong in a launch may be reported by a later call.
///
/// Every function fails with [`Error::Lost`] once the device is lost.
pub trait Device {
    /// What it is.
    fn properties(&self) -> &Properties;

    /// How much memory there is.
    ///
    /// # Errors
    /// Those of the driver.
    fn memory(&mut self) -> Result<Memory, Error>;

    /// Memory that begins at a multiple of 256 bytes. It holds anything.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`].
    fn allocate(&mut self, bytes: usize) -> Result<Address, Error>;

    /// Gives back what [`Device::allocate`] gave.
    ///
    /// # Errors
    /// The address is not that of an allocation.
    fn free(&mut self, address: Address) -> Result<(), Error>;

    /// Copies bytes to the device; they may change once this returns.
    ///
    /// # Errors
    /// Those of the driver.
    fn upload(&mut self, to: Address, bytes: &[u8]) -> Result<(), Error>;

    /// Copies bytes from the device, when all that was asked of it before is done.
    ///
    /// # Errors
    /// Those of the driver.
    fn download(&mut self, from: Address, bytes: &mut [u8]) -> Result<(), Error>;

    /// Makes bytes 0.
    ///
    /// # Errors
    /// Those of the driver.
    fn clear(&mut self, at: Address, bytes: usize) -> Result<(), Error>;

    /// Starts a kernel.
    ///
    /// # Errors
    /// The device cannot run it ([`Error::Unsupported`]), or the driver's errors.
    fn launch(&mut self, launch: &Launch) -> Result<(), Error>;

    /// From now on launches are noted, and not run.
    ///
    /// # Errors
    /// [`Error::Capturing`] if they are already.
    fn begin_capture(&mut self) -> Result<(), Error>;

    /// The launches since [`Device::begin_capture`].
    ///
    /// # Errors
    /// Nothing is being captured, or a launch among them was wrong.
    fn end_capture(&mut self) -> Result<Graph, Error>;

    /// Runs the launches of a graph. Their parameters are what they were: what differs from run to run lies in memory.
    ///
    /// # Errors
    /// The graph is not this device's; those of the driver.
    fn replay(&mut self, graph: Graph) -> Result<(), Error>;

    /// Waits until all is done.
    ///
    /// # Errors
    /// What went wrong in the launches so far.
    fn synchronize(&mut self) -> Result<(), Error>;
}
