//! What kernels run on, as a trait: a GPU, or in tests a machine that interprets the same PTX.

use std::fmt;
use std::ops::DerefMut;

use super::{Error, Kernel, Launch};

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
    /// Whether matrices may be multiplied by warpgroups: see [`super::ops::Tiles`].
    pub warpgroups: bool,
}

impl Properties {
    /// The compute capability whose products of warpgroups there are kernels for: no later one knows them.
    pub const WARPGROUPS: (u32, u32) = (9, 0);
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

/// Host memory that a device copies from by itself, while the processor does other things.
pub type HostBuffer = Box<dyn DerefMut<Target = [u8]> + Send>;

/// Neighbouring bytes of a [`HostBuffer`], and where they go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Piece {
    /// Where they begin in the buffer.
    pub from: usize,
    /// How many there are.
    pub bytes: usize,
    /// Where they go.
    pub to: Address,
}

impl Piece {
    /// The bytes in `buffer`.
    ///
    /// # Errors
    /// The buffer ends before.
    pub fn of<'b>(&self, buffer: &'b [u8]) -> Result<&'b [u8], Error> {
        let end = self.from.checked_add(self.bytes);
        let bytes = end.and_then(|end| buffer.get(self.from..end));
        bytes.ok_or_else(|| Error::Operands(format!("{self:?} of a buffer of {} bytes", buffer.len())))
    }
}

/// A copy that was begun.
pub enum Transfer {
    /// It is done.
    Done(HostBuffer),
    /// The device has the buffer, and counts its copies.
    Running(u64),
}

impl fmt::Debug for Transfer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Transfer::Done(buffer) => write!(f, "Done({} bytes)", buffer.len()),
            Transfer::Running(number) => write!(f, "Running({number})"),
        }
    }
}

/// A device. All it does is done in the order of the calls, but for [`Device::send`]; what goes wrong in a launch may be
/// reported by a later call.
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

    /// Says that the next allocations take so many bytes in all, each filled up to a multiple of 256. A driver hands out
    /// memory in pages, which allocations of their own would leave empty in part.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`], with all these bytes: then none of the allocations need be tried.
    fn reserve(&mut self, _bytes: usize) -> Result<(), Error> {
        Ok(())
    }

    /// A buffer for [`Device::send`].
    ///
    /// # Errors
    /// Those of the driver.
    fn host_buffer(&mut self, bytes: usize) -> Result<HostBuffer, Error> {
        Ok(Box::new(vec![0; bytes]))
    }

    /// Begins to copy pieces of `buffer` to the device, beside all else that it does: their places may not be used before
    /// [`Device::reclaim`]. Unless the device says otherwise, they are copied at once.
    ///
    /// # Errors
    /// A piece lies outside the buffer; those of the driver.
    fn send(&mut self, buffer: HostBuffer, pieces: &[Piece]) -> Result<Transfer, Error> {
        for piece in pieces {
            self.upload(piece.to, piece.of(&buffer)?)?;
        }
        Ok(Transfer::Done(buffer))
    }

    /// Waits for a copy, whose bytes are there for all that is asked from now on, and gives its buffer back.
    ///
    /// # Errors
    /// The copy is not this device's, or went wrong.
    fn reclaim(&mut self, transfer: Transfer) -> Result<HostBuffer, Error> {
        match transfer {
            Transfer::Done(buffer) => Ok(buffer),
            Transfer::Running(_) => Err(Error::Operands(format!("{transfer:?} is of another device"))),
        }
    }

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

    /// Gets a kernel ready, so that launches of it do not fail for want of it. A device may also do that when it is launched.
    ///
    /// # Errors
    /// The device cannot run it ([`Error::Unsupported`]), the driver cannot translate it ([`Error::Load`]), or the driver's
    /// other errors.
    fn prepare(&mut self, _kernel: &'static Kernel) -> Result<(), Error> {
        Ok(())
    }

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

    /// Destroys a graph, which ends its run first if there is one.
    ///
    /// # Errors
    /// The graph is not this device's; those of the driver.
    fn destroy(&mut self, graph: Graph) -> Result<(), Error>;

    /// Waits until all is done.
    ///
    /// # Errors
    /// What went wrong in the launches so far.
    fn synchronize(&mut self) -> Result<(), Error>;
}
