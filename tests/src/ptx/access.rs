//! How the threads of a warp load, store, change and copy memory.

use std::collections::VecDeque;

use super::code::{LANES, Place, Reg};
use super::integer::{mask, sign_extend};
use super::memory::{LOCAL_WINDOW, SHARED_WINDOW, number};
use super::races::Who;
use super::types::Space;
use super::warp::{Warp, World, lanes};
use super::{Counts, Fault};

/// A copy to shared memory that has begun.
struct Copy {
    to: u64,
    bytes: [u8; 16],
    size: u64,
}

/// A thread's asynchronous copies: groups under way, and those of no group yet.
#[derive(Default)]
pub struct Copies {
    groups: VecDeque<Vec<Copy>>,
    open: Vec<Copy>,
}

impl Copies {
    /// Those of no group become one.
    pub fn commit(&mut self) {
        self.groups.push_back(std::mem::take(&mut self.open));
    }
}

impl Warp {
    /// The space and the address in it that `lane` accesses; `bytes` must divide the address.
    pub fn address(&self, at: &Place, bytes: u64, lane: usize) -> Result<(Space, u64), Fault> {
        let base = self.registers[at.base as usize][lane];
        let mut address = base.wrapping_add_signed(at.offset);
        if matches!(at.space, Space::Shared | Space::Local) && base <= u64::from(u32::MAX) {
            address &= u64::from(u32::MAX);
        }
        if !address.is_multiple_of(bytes) {
            return Err(Fault::Misaligned { address, bytes });
        }
        Ok(match (at.space, address) {
            (Space::Generic, SHARED_WINDOW..) => (Space::Shared, address - SHARED_WINDOW),
            (Space::Generic, LOCAL_WINDOW..) => (Space::Local, address - LOCAL_WINDOW),
            (Space::Generic, _) => (Space::Global, address),
            (space, _) => (space, address),
        })
    }

    /// The thread of `lane`, for the record of accesses.
    pub fn who(&self, lane: usize, counts: &Counts, strong: bool) -> Who<'_> {
        // the limit on steps fits 32 bits
        let step = counts.warp_instructions as u32;
        Who { thread: (self.index * LANES + lane) as u16, known: &self.known, step, strong }
    }

    /// Where `bytes` at `address` of a thread's local memory are.
    fn local_range(&self, address: u64, bytes: u64, lane: usize) -> Result<std::ops::Range<usize>, Fault> {
        let size = (self.local.len() / LANES) as u64;
        if address.checked_add(bytes).is_none_or(|end| end > size) {
            return Err(Fault::OutOfBounds { space: "local", address, bytes: bytes as usize, size });
        }
        let start = lane * size as usize + address as usize;
        Ok(start..start + bytes as usize)
    }

    pub fn load(
        &mut self,
        world: &mut World<'_>,
        at: &Place,
        bytes: u64,
        extend: Option<u32>,
        d: &[Reg],
        active: u32,
    ) -> Result<(), (usize, Fault)> {
        let all = bytes * d.len() as u64;
        for lane in lanes(active) {
            let failed = |fault| (lane, fault);
            let (space, address) = self.address(at, all, lane).map_err(failed)?;
            let who = self.who(lane, world.counts, at.strong);
            let data = match space {
                Space::Shared => world.shared.read(address, all, &who).map_err(failed)?,
                Space::Local => &self.local[self.local_range(address, all, lane).map_err(failed)?],
                _ => world.global.read(address, all as usize, Some(&who), at.cached).map_err(failed)?,
            };
            for (part, &d) in data.chunks_exact(bytes as usize).zip(d) {
                let word = number(part);
                self.registers[d as usize][lane] = match extend {
                    Some(bits) => sign_extend(word, bytes as u32 * 8) as u64 & mask(bits),
                    None => word,
                };
            }
        }
        Ok(())
    }

    pub fn store(
        &mut self,
        world: &mut World<'_>,
        at: &Place,
        bytes: u64,
        s: &[Reg],
        active: u32,
    ) -> Result<(), (usize, Fault)> {
        let all = bytes * s.len() as u64;
        for lane in lanes(active) {
            let failed = |fault| (lane, fault);
            let (space, address) = self.address(at, all, lane).map_err(failed)?;
            let mut data = [0; 64];
            for (part, &s) in data.chunks_exact_mut(bytes as usize).zip(s) {
                part.copy_from_slice(&self.registers[s as usize][lane].to_le_bytes()[..bytes as usize]);
            }
            let data = &data[..all as usize];
            let who = self.who(lane, world.counts, at.strong);
            match space {
                Space::Shared => world.shared.write(address, data, &who).map_err(failed)?,
                Space::Local => {
                    let range = self.local_range(address, all, lane).map_err(failed)?;
                    self.local[range].copy_from_slice(data);
                }
                _ => world.global.write(address, data, Some(&who)).map_err(failed)?,
            }
        }
        Ok(())
    }

    /// Changes memory in one step; what was there before.
    pub fn update(
        &mut self,
        world: &mut World<'_>,
        at: &Place,
        bytes: u64,
        lane: usize,
        change: impl Fn(u64) -> u64,
    ) -> Result<u64, Fault> {
        let (space, address) = self.address(at, bytes, lane)?;
        let who = self.who(lane, world.counts, true);
        match space {
            Space::Shared => world.shared.update(address, bytes, &who, change),
            Space::Local => Err(Fault::Trapped("an atomic operation on local memory".into())),
            _ => world.global.update(address, bytes as usize, &who, change),
        }
    }

    /// Copies `bytes` to shared memory when the thread next waits; those from `size` on are zero.
    pub fn begin_copy(
        &mut self,
        world: &mut World<'_>,
        (to, from): (&Place, &Place),
        bytes: u64,
        size: Option<u64>,
        lane: usize,
    ) -> Result<(), Fault> {
        let size = size.unwrap_or(bytes);
        if size > bytes {
            return Err(Fault::Trapped(format!("a copy of {size} bytes to {bytes}")));
        }
        let ((_, to), (_, from)) = (self.address(to, bytes, lane)?, self.address(from, bytes, lane)?);
        let who = self.who(lane, world.counts, false);
        let mut data = [0; 16];
        if size > 0 {
            let read = world.global.read(from, size as usize, Some(&who), false)?;
            data[..size as usize].copy_from_slice(read);
        }
        world.shared.begin_copy(to, bytes, &who)?;
        self.copies[lane].open.push(Copy { to, bytes: data, size: bytes });
        Ok(())
    }

    /// The oldest copies end, until `count` groups are left.
    pub fn end_copies(&mut self, world: &mut World<'_>, count: usize, lane: usize) -> Result<(), Fault> {
        while self.copies[lane].groups.len() > count {
            for copy in self.copies[lane].groups.pop_front().unwrap_or_default() {
                let data = &copy.bytes[..copy.size as usize];
                world.shared.write(copy.to, data, &self.who(lane, world.counts, false))?;
            }
        }
        Ok(())
    }
}
