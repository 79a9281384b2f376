//! Memory that notices wrong use.
//!
//! Global memory is a list of allocations whose addresses lie far apart and are never used again, so that an address says
//! which allocation it is meant for. Both memories have a shadow: for each granule (the smallest access of the kernel) who
//! wrote it last and who read it, and when (`races`).
//!
//! Blocks run one after another here, but not on a card. So what one block of a launch wrote another one must not touch,
//! except in the way that is known to work: the writer's block makes a fence after it (`__threadfence`), and the reader's
//! block makes an atomic or otherwise strong access first; after it, it may also set what others changed by such accesses
//! (a counter, back to zero). That the two fit together is not checked. Writing what is there already is no race in global
//! memory.

use std::collections::HashMap;

use super::Fault;
use super::code::{Extent, LANES};
use super::races::{Access, Event, Granule, Race, Who};
use super::warpgroup::WARPS;

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
/// Granules that get a shadow together, when one of them is first used.
const PAGE: usize = 1024;

struct Allocation {
    bytes: Vec<u8>,
    /// Which bytes have been written; `None` where it does not matter.
    written: Option<Vec<bool>>,
    freed: bool,
    constant: bool,
    /// What this launch did here, in pages.
    shadow: Vec<Option<Box<[Granule]>>>,
}

/// What is known of the launch that runs: its blocks so far, each with the step where it began and its last fence.
#[derive(Default)]
struct Launch {
    granule: u64,
    starts: Vec<u32>,
    fences: Vec<u32>,
    /// Clocks below are those of blocks before.
    base: u32,
    /// Whether this block has made a strong access.
    acquired: bool,
}

impl Launch {
    /// The number of the block that made `event`.
    fn block_of(&self, event: Event) -> usize {
        self.starts.partition_point(|&start| start <= event.step).saturating_sub(1)
    }

    /// Whether an event of a block before can be seen by this one.
    fn passed(&self, event: Event) -> bool {
        self.acquired && (event.strong || self.fences[self.block_of(event)] > event.step)
    }
}

/// Global and constant memory.
#[derive(Default)]
pub struct Global {
    allocations: Vec<Allocation>,
    launch: Launch,
}

impl Global {
    /// Memory that nobody wrote; its address.
    pub fn alloc(&mut self, bytes: usize) -> u64 {
        self.push(vec![0; bytes], Some(vec![false; bytes]), false)
    }

    /// Memory that holds `bytes`; its address. Kernels cannot write what is `constant`.
    pub fn alloc_with(&mut self, bytes: Vec<u8>, constant: bool) -> u64 {
        self.push(bytes, None, constant)
    }

    fn push(&mut self, bytes: Vec<u8>, written: Option<Vec<bool>>, constant: bool) -> u64 {
        self.allocations.push(Allocation { bytes, written, freed: false, constant, shadow: Vec::new() });
        (FIRST + self.allocations.len() as u64 - 1) * STRIDE
    }

    pub fn free(&mut self, address: u64) -> Result<(), Fault> {
        let (index, offset) = self.find(address, 0)?;
        if offset != 0 {
            return Err(Fault::OutOfBounds { space: "global", address, bytes: 0, size: 0 });
        }
        self.allocations[index] =
            Allocation { bytes: Vec::new(), written: None, freed: true, constant: false, shadow: Vec::new() };
        Ok(())
    }

    /// A launch begins, whose smallest access has `granule` bytes.
    pub fn begin_launch(&mut self, granule: u64) {
        self.allocations.iter_mut().for_each(|allocation| allocation.shadow.clear());
        self.launch = Launch { granule: granule.max(1), ..Launch::default() };
    }

    /// The launch's next block begins, with the clocks at `base`.
    pub fn begin_block(&mut self, base: u32, step: u32) {
        let launch = &mut self.launch;
        launch.starts.push(step);
        launch.fences.push(0);
        (launch.base, launch.acquired) = (base, false);
    }

    /// The block makes what it wrote visible to others.
    pub fn fence(&mut self, step: u32) {
        if let Some(fence) = self.launch.fences.last_mut() {
            *fence = step;
        }
    }

    /// The allocation and the place in it of `bytes` at `address`.
    fn find(&self, address: u64, bytes: usize) -> Result<(usize, usize), Fault> {
        let index = (address / STRIDE).checked_sub(FIRST).and_then(|index| usize::try_from(index).ok());
        let Some((index, allocation)) = index.and_then(|index| Some((index, self.allocations.get(index)?)))
        else {
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
        Ok((index, offset))
    }

    /// Records what `who` does to bytes of an allocation. `cached` reads go past what the launch writes.
    fn record(
        &mut self,
        (index, offset, bytes): (usize, usize, usize),
        who: &Who<'_>,
        access: Access,
        cached: bool,
    ) -> Result<(), Fault> {
        let allocation = &mut self.allocations[index];
        if allocation.constant {
            return Ok(());
        }
        let launch = &mut self.launch;
        launch.acquired |= who.strong;
        let granule = launch.granule as usize;
        for place in offset / granule..(offset + bytes).div_ceil(granule) {
            let page = place / PAGE;
            if allocation.shadow.len() <= page {
                allocation.shadow.resize(page + 1, None);
            }
            let shadow = allocation.shadow[page].get_or_insert_with(|| vec![Granule::default(); PAGE].into());
            let shadow = &mut shadow[place % PAGE];
            let address = (place * granule) as u64;
            if cached && shadow.write.clock > 0 {
                return Err(Fault::NotConstant { address });
            }
            shadow.access(who, access, launch.base, |event| launch.passed(event)).map_err(
                |Race { other, wrote }| {
                    let block = Some(launch.block_of(other)).filter(|_| other.clock < launch.base);
                    let (other, other_wrote) = (other.thread, wrote);
                    Fault::Race {
                        space: "global",
                        address,
                        other,
                        block,
                        other_wrote,
                        wrote: access != Access::Read,
                    }
                },
            )?;
        }
        Ok(())
    }

    /// The bytes at `address`, all of which must have been written; `who` is nobody for the host.
    pub fn read(
        &mut self,
        address: u64,
        bytes: usize,
        who: Option<&Who<'_>>,
        cached: bool,
    ) -> Result<&[u8], Fault> {
        let (index, offset) = self.find(address, bytes)?;
        if let Some(written) = &self.allocations[index].written
            && !written[offset..offset + bytes].iter().all(|&set| set)
        {
            return Err(Fault::Unwritten { space: "global", address: offset as u64 });
        }
        if let Some(who) = who {
            self.record((index, offset, bytes), who, Access::Read, cached)?;
        }
        Ok(&self.allocations[index].bytes[offset..offset + bytes])
    }

    /// Puts `bytes` at `address`; the host may write constants.
    pub fn write(&mut self, address: u64, bytes: &[u8], who: Option<&Who<'_>>) -> Result<(), Fault> {
        let (index, offset) = self.find(address, bytes.len())?;
        let range = offset..offset + bytes.len();
        let allocation = &self.allocations[index];
        if let Some(who) = who {
            if allocation.constant {
                return Err(Fault::Constant { address });
            }
            let set = allocation
                .written
                .as_ref()
                .is_none_or(|written| written[range.clone()].iter().all(|&set| set));
            let same = set && allocation.bytes[range.clone()] == *bytes;
            let access = if same { Access::Repeat } else { Access::Write };
            self.record((index, offset, bytes.len()), who, access, false)?;
        }
        let allocation = &mut self.allocations[index];
        allocation.bytes[range.clone()].copy_from_slice(bytes);
        if let Some(written) = &mut allocation.written {
            written[range].fill(true);
        }
        Ok(())
    }

    /// Changes the number of `bytes` bytes at `address` in one step; what it was.
    pub fn update(
        &mut self,
        address: u64,
        bytes: usize,
        who: &Who<'_>,
        change: impl Fn(u64) -> u64,
    ) -> Result<u64, Fault> {
        let old = number(self.read(address, bytes, None, false)?);
        let (index, offset) = self.find(address, bytes)?;
        self.record((index, offset, bytes), who, Access::Update, false)?;
        if self.allocations[index].constant {
            return Err(Fault::Constant { address });
        }
        self.write(address, &change(old).to_le_bytes()[..bytes], None)?;
        Ok(old)
    }

    /// Whether `address` is that of constant memory, or `None` if it is nowhere.
    pub fn constant(&self, address: u64) -> Option<bool> {
        self.find(address, 0).ok().map(|(index, _)| self.allocations[index].constant)
    }
}

/// Up to eight bytes as a number.
pub fn number(bytes: &[u8]) -> u64 {
    let mut word = [0; 8];
    word[..bytes.len()].copy_from_slice(bytes);
    u64::from_le_bytes(word)
}

/// A block's shared memory.
pub struct Shared {
    bytes: Vec<u8>,
    extents: Vec<Extent>,
    granule: u64,
    shadow: Vec<Granule>,
    /// Granules that an asynchronous copy will write.
    pending: Vec<bool>,
    /// Events of lower clocks are those of blocks before, when this was another memory.
    base: u32,
    /// Of each 16 bytes, what warpgroups read there on their own; empty as long as none did.
    readers: Vec<Vec<Reader>>,
    /// When each thread fenced its writes for them: steps and clocks.
    fences: HashMap<u16, Vec<(u32, u32)>>,
}

/// How a warpgroup reads memory on its own.
#[derive(Clone, Copy, Default)]
struct Reader {
    /// Products under way.
    running: u32,
    /// The clocks of its warps when they had waited for the last one that is done.
    ended: [u32; WARPS],
}

impl Shared {
    /// Memory up to the address `end`, whose variables are `extents`.
    pub fn new(end: u64, extents: Vec<Extent>, granule: u64) -> Self {
        let granule = granule.max(1);
        let count = end.div_ceil(granule) as usize;
        let shadow = vec![Granule::default(); count];
        Self {
            bytes: vec![0; end as usize],
            extents,
            granule,
            shadow,
            pending: vec![false; count],
            base: 1,
            readers: Vec::new(),
            fences: HashMap::new(),
        }
    }

    /// Forgets what was written: the next block begins, whose clocks start at `base`.
    pub fn begin(&mut self, base: u32) {
        self.base = base;
        self.pending.fill(false);
        self.readers.clear();
        self.fences.clear();
    }

    fn granules(&self, address: u64, bytes: u64) -> Result<std::ops::Range<usize>, Fault> {
        let end = address.checked_add(bytes);
        let inside = |extent: &&Extent| extent.start <= address && end.is_some_and(|end| end <= extent.end);
        if self.extents.iter().find(inside).is_none() {
            let size = self.bytes.len() as u64;
            return Err(Fault::OutOfBounds { space: "shared", address, bytes: bytes as usize, size });
        }
        Ok((address / self.granule) as usize..(address + bytes).div_ceil(self.granule) as usize)
    }

    /// Records an access and finds what is wrong with it.
    fn record(&mut self, address: u64, bytes: u64, who: &Who<'_>, access: Access) -> Result<(), Fault> {
        if access != Access::Read {
            self.check_readers(address, bytes, who)?;
        }
        for place in self.granules(address, bytes)? {
            let granule = &mut self.shadow[place];
            let address = place as u64 * self.granule;
            if access != Access::Write {
                if granule.write.clock < self.base {
                    return Err(Fault::Unwritten { space: "shared", address });
                }
                if self.pending[place] {
                    return Err(Fault::Pending { address, by: granule.write.thread });
                }
            }
            granule.access(who, access, self.base, |_| true).map_err(|Race { other, wrote }| {
                let (other, other_wrote) = (other.thread, wrote);
                Fault::Race {
                    space: "shared",
                    address,
                    other,
                    block: None,
                    other_wrote,
                    wrote: access != Access::Read,
                }
            })?;
            if access != Access::Read {
                self.pending[place] = false;
            }
        }
        Ok(())
    }

    /// That what `who` writes is not read by a product that it does not know to be done.
    fn check_readers(&self, address: u64, bytes: u64, who: &Who<'_>) -> Result<(), Fault> {
        for chunk in address / 16..(address + bytes).div_ceil(16) {
            for (group, reader) in self.readers.get(chunk as usize).into_iter().flatten().enumerate() {
                let mut warps = (WARPS * group..).zip(reader.ended);
                let knows =
                    |(warp, ended)| ended < who.known[warp] || usize::from(who.thread) / LANES == warp;
                if reader.running > 0 || !warps.all(knows) {
                    return Err(Fault::BeingRead { address, by: (group * WARPS * LANES) as u16 });
                }
            }
        }
        Ok(())
    }

    /// What thread `who` wrote before is shown to those that read on their own.
    pub fn fence_proxy(&mut self, who: &Who<'_>) {
        let clock = who.known[usize::from(who.thread) / LANES];
        self.fences.entry(who.thread).or_default().push((who.step, clock));
    }

    /// A product of warpgroup `group` begins to read 16 bytes: they must have been written, fenced, and be known to each of
    /// its warps, of which `known` says what they know of the clocks. What goes wrong, with the warp.
    pub fn begin_read(
        &mut self,
        address: u64,
        group: usize,
        known: &[&[u32; LANES]],
    ) -> Result<[u8; 16], (usize, Fault)> {
        for place in self.granules(address, 16).map_err(|fault| (0, fault))? {
            let (write, address) = (self.shadow[place].write, place as u64 * self.granule);
            if write.clock < self.base {
                return Err((0, Fault::Unwritten { space: "shared", address }));
            }
            if self.pending[place] {
                return Err((0, Fault::Pending { address, by: write.thread }));
            }
            let fences = self.fences.get(&write.thread).map_or(&[][..], Vec::as_slice);
            let fence = fences.get(fences.partition_point(|(step, _)| *step <= write.step));
            for (i, known) in known.iter().enumerate() {
                let known = known[usize::from(write.thread) / LANES];
                if write.clock >= known {
                    let (other, block) = (write.thread, None);
                    let race = Fault::Race {
                        space: "shared",
                        address,
                        other,
                        block,
                        other_wrote: true,
                        wrote: false,
                    };
                    return Err((i, race));
                }
                if fence.is_none_or(|(_, clock)| *clock >= known) {
                    return Err((i, Fault::Proxy { address, by: write.thread }));
                }
            }
        }
        if self.readers.is_empty() {
            self.readers.resize(self.bytes.len().div_ceil(16), Vec::new());
        }
        let readers = &mut self.readers[address as usize / 16];
        if readers.len() <= group {
            readers.resize(group + 1, Reader::default());
        }
        readers[group].running += 1;
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&self.bytes[address as usize..][..16]);
        Ok(bytes)
    }

    /// A product that read there was waited for, by warps whose clocks these are.
    pub fn end_read(&mut self, address: u64, group: usize, clocks: [u32; WARPS]) {
        let reader = &mut self.readers[address as usize / 16][group];
        reader.running -= 1;
        reader.ended = clocks;
    }

    pub fn read(&mut self, address: u64, bytes: u64, who: &Who<'_>) -> Result<&[u8], Fault> {
        self.record(address, bytes, who, Access::Read)?;
        Ok(&self.bytes[address as usize..(address + bytes) as usize])
    }

    pub fn write(&mut self, address: u64, bytes: &[u8], who: &Who<'_>) -> Result<(), Fault> {
        self.record(address, bytes.len() as u64, who, Access::Write)?;
        self.bytes[address as usize..address as usize + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    /// Changes the number of `bytes` bytes at `address` in one step; what it was.
    pub fn update(
        &mut self,
        address: u64,
        bytes: u64,
        who: &Who<'_>,
        change: impl Fn(u64) -> u64,
    ) -> Result<u64, Fault> {
        self.record(address, bytes, who, Access::Update)?;
        let data = &mut self.bytes[address as usize..(address + bytes) as usize];
        let old = number(data);
        data.copy_from_slice(&change(old).to_le_bytes()[..bytes as usize]);
        Ok(old)
    }

    /// An asynchronous copy to here begins: nobody may read until it has ended.
    pub fn begin_copy(&mut self, address: u64, bytes: u64, who: &Who<'_>) -> Result<(), Fault> {
        self.record(address, bytes, who, Access::Write)?;
        let granules = self.granules(address, bytes)?;
        self.pending[granules].fill(true);
        Ok(())
    }
}
