//! Memory that notices wrong use.
//!
//! Global memory is a list of allocations whose addresses lie far apart and are never used again, so that an address says
//! which allocation it is meant for. Shared memory has a shadow: for each granule (the smallest access of the kernel) who
//! wrote it last and who read it, and when. "When" is a vector clock of warps (Fidge 1988, Mattern 1989): a warp's own
//! clock moves on at every barrier and at every synchronization of its lanes, and at a barrier warps learn the clocks of
//! those that arrived. Two accesses by different threads, one of which writes, are a race unless a clock orders them. Only
//! barriers and `bar.warp.sync` order; strong accesses (atomics, volatile, relaxed and above) do not race with each other.
//! Of the readers since the last write two are remembered, which misses a race only where named barriers order a write
//! after both of them and not after a third.

use super::Fault;
use super::code::{Extent, LANES};

/// What an access does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Write,
    /// Reads and writes, in one step.
    Update,
}

/// Generic addresses from here on are shared memory's.
pub const SHARED_WINDOW: u64 = 1 << 62;
/// Generic addresses from here on are local memory's.
pub const LOCAL_WINDOW: u64 = 1 << 61;
/// Shared memory begins here, so that a null pointer is outside.
pub const SHARED_START: u64 = 1024;
/// The distance of allocations, which is also the most that one can hold.
const STRIDE: u64 = 1 << 36;
/// Allocations begin at this multiple of the stride.
const FIRST: u64 = 16;

struct Allocation {
    bytes: Vec<u8>,
    /// Which bytes have been written; `None` where it does not matter.
    written: Option<Vec<bool>>,
    freed: bool,
    constant: bool,
}

/// Global and constant memory.
#[derive(Default)]
pub struct Global {
    allocations: Vec<Allocation>,
}

impl Global {
    /// Memory that nobody wrote; its address.
    pub fn alloc(&mut self, bytes: usize) -> u64 {
        self.push(Allocation {
            bytes: vec![0; bytes],
            written: Some(vec![false; bytes]),
            freed: false,
            constant: false,
        })
    }

    /// Memory that holds `bytes`; its address. Kernels cannot write what is `constant`.
    pub fn alloc_with(&mut self, bytes: Vec<u8>, constant: bool) -> u64 {
        self.push(Allocation { bytes, written: None, freed: false, constant })
    }

    fn push(&mut self, allocation: Allocation) -> u64 {
        self.allocations.push(allocation);
        (FIRST + self.allocations.len() as u64 - 1) * STRIDE
    }

    pub fn free(&mut self, address: u64) -> Result<(), Fault> {
        let allocation = self.find(address, 0)?.0;
        if !address.is_multiple_of(STRIDE) {
            return Err(Fault::OutOfBounds { space: "global", address, bytes: 0, size: 0 });
        }
        *allocation = Allocation { bytes: Vec::new(), written: None, freed: true, constant: false };
        Ok(())
    }

    fn find(&mut self, address: u64, bytes: usize) -> Result<(&mut Allocation, usize), Fault> {
        let index = (address / STRIDE).checked_sub(FIRST).and_then(|index| usize::try_from(index).ok());
        let Some(allocation) = index.and_then(|index| self.allocations.get_mut(index)) else {
            return Err(Fault::OutOfBounds { space: "global", address, bytes, size: 0 });
        };
        if allocation.freed {
            return Err(Fault::Freed { address });
        }
        let (offset, size) = ((address % STRIDE) as usize, allocation.bytes.len());
        if offset.checked_add(bytes).is_none_or(|end| end > size) {
            return Err(Fault::OutOfBounds {
                space: "global",
                address: offset as u64,
                bytes,
                size: size as u64,
            });
        }
        Ok((allocation, offset))
    }

    /// The bytes at `address`, all of which must have been written.
    pub fn read(&mut self, address: u64, bytes: usize) -> Result<&[u8], Fault> {
        let (allocation, offset) = self.find(address, bytes)?;
        if let Some(written) = &allocation.written
            && !written[offset..offset + bytes].iter().all(|&set| set)
        {
            return Err(Fault::Unwritten { space: "global", address: offset as u64 });
        }
        Ok(&allocation.bytes[offset..offset + bytes])
    }

    /// Puts `bytes` at `address`; `host` may write constants.
    pub fn write(&mut self, address: u64, bytes: &[u8], host: bool) -> Result<(), Fault> {
        let (allocation, offset) = self.find(address, bytes.len())?;
        if allocation.constant && !host {
            return Err(Fault::Constant { address });
        }
        allocation.bytes[offset..offset + bytes.len()].copy_from_slice(bytes);
        if let Some(written) = &mut allocation.written {
            written[offset..offset + bytes.len()].fill(true);
        }
        Ok(())
    }

    /// Whether `address` is that of constant memory, or `None` if it is nowhere.
    pub fn constant(&mut self, address: u64) -> Option<bool> {
        self.find(address, 0).ok().map(|(allocation, _)| allocation.constant)
    }
}

/// Who accesses shared memory: a thread of the block, and what its warp knows of the clocks.
pub struct Who<'a> {
    pub thread: u16,
    pub known: &'a [u32; LANES],
}

#[derive(Clone, Copy, Default)]
struct Event {
    clock: u32,
    thread: u16,
    strong: bool,
}

impl Event {
    /// Whether it cannot race with what `who` does now.
    fn before(self, who: &Who<'_>, strong: bool) -> bool {
        self.thread == who.thread
            || self.clock < who.known[usize::from(self.thread) / LANES]
            || strong && self.strong
    }
}

#[derive(Clone, Copy, Default)]
struct Granule {
    write: Event,
    reads: [Event; 2],
    /// An asynchronous copy to here is under way.
    pending: bool,
}

/// A block's shared memory.
pub struct Shared {
    bytes: Vec<u8>,
    extents: Vec<Extent>,
    granule: u64,
    shadow: Vec<Granule>,
    /// Events of lower clocks are those of blocks before.
    base: u32,
}

impl Shared {
    /// Memory up to the address `end`, whose variables are `extents`.
    pub fn new(end: u64, extents: Vec<Extent>, granule: u64) -> Self {
        let granule = granule.max(1);
        let shadow = vec![Granule::default(); (end.div_ceil(granule)) as usize];
        Self { bytes: vec![0; end as usize], extents, granule, shadow, base: 1 }
    }

    /// Forgets what was written: the next block begins, whose clocks start at `base`.
    pub fn begin(&mut self, base: u32) {
        self.base = base;
    }

    fn check(&self, address: u64, bytes: u64) -> Result<std::ops::Range<usize>, Fault> {
        let end = address.checked_add(bytes);
        let inside = |extent: &&Extent| extent.start <= address && end.is_some_and(|end| end <= extent.end);
        if self.extents.iter().find(inside).is_none() {
            let size = self.bytes.len() as u64;
            return Err(Fault::OutOfBounds { space: "shared", address, bytes: bytes as usize, size });
        }
        Ok((address / self.granule) as usize..(address + bytes).div_ceil(self.granule) as usize)
    }

    /// Records an access and finds what is wrong with it.
    fn access(
        &mut self,
        address: u64,
        bytes: u64,
        who: &Who<'_>,
        access: Access,
        strong: bool,
    ) -> Result<(), Fault> {
        let (base, size) = (self.base, self.granule);
        let now = Event { clock: who.known[usize::from(who.thread) / LANES], thread: who.thread, strong };
        for place in self.check(address, bytes)? {
            let granule = &mut self.shadow[place];
            let at = place as u64 * size;
            let written = granule.write.clock >= base;
            if written && granule.pending && access != Access::Write {
                return Err(Fault::Pending { address: at, by: granule.write.thread });
            }
            if access != Access::Write && !written {
                return Err(Fault::Unwritten { space: "shared", address: at });
            }
            if written && !granule.write.before(who, strong) {
                let wrote = access != Access::Read;
                return Err(Fault::Race {
                    address: at,
                    other: granule.write.thread,
                    other_wrote: true,
                    wrote,
                });
            }
            if access == Access::Read {
                let [first, second] = &mut granule.reads;
                let gone = first.thread == who.thread || first.clock < base || first.before(who, false);
                *(if gone { first } else { second }) = now;
                continue;
            }
            let reader = granule.reads.iter().find(|read| read.clock >= base && !read.before(who, strong));
            if let Some(reader) = reader {
                return Err(Fault::Race {
                    address: at,
                    other: reader.thread,
                    other_wrote: false,
                    wrote: true,
                });
            }
            granule.write = now;
            granule.pending = false;
        }
        Ok(())
    }

    pub fn read(&mut self, address: u64, bytes: u64, who: &Who<'_>, strong: bool) -> Result<&[u8], Fault> {
        self.access(address, bytes, who, Access::Read, strong)?;
        Ok(&self.bytes[address as usize..(address + bytes) as usize])
    }

    pub fn write(&mut self, address: u64, bytes: &[u8], who: &Who<'_>, strong: bool) -> Result<(), Fault> {
        self.access(address, bytes.len() as u64, who, Access::Write, strong)?;
        self.bytes[address as usize..address as usize + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    /// The bytes at `address`, to be read and changed in one step.
    pub fn update(&mut self, address: u64, bytes: u64, who: &Who<'_>) -> Result<&mut [u8], Fault> {
        self.access(address, bytes, who, Access::Update, true)?;
        Ok(&mut self.bytes[address as usize..(address + bytes) as usize])
    }

    /// An asynchronous copy to here begins: nobody may read until it has ended.
    pub fn begin_copy(&mut self, address: u64, bytes: u64, who: &Who<'_>) -> Result<(), Fault> {
        self.access(address, bytes, who, Access::Write, false)?;
        for place in self.check(address, bytes)? {
            self.shadow[place].pending = true;
        }
        Ok(())
    }
}
