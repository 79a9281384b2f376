//! Allocation of buffers, or the count of what would be allocated. So what is planned is what is taken.

use std::cell::Cell;

use braise_kernels::sync::{Shared, Team};
use bytemuck::Zeroable;

/// Gives buffers to a team, and counts their bytes.
#[derive(Debug)]
pub struct Allocator<'t> {
    team: &'t Team,
    /// Whether buffers have memory; else they are empty.
    real: bool,
    bytes: Cell<usize>,
}

impl<'t> Allocator<'t> {
    /// Memory.
    pub fn real(team: &'t Team) -> Allocator<'t> {
        Allocator { team, real: true, bytes: Cell::new(0) }
    }

    /// No memory: what is asked for is counted alone.
    pub fn counting(team: &'t Team) -> Allocator<'t> {
        Allocator { team, real: false, bytes: Cell::new(0) }
    }

    /// Bytes of all buffers that were asked for.
    pub fn bytes(&self) -> usize {
        self.bytes.get()
    }

    /// See [`Shared::zeroed`].
    pub(super) fn zeroed<T: Zeroable + Copy + Send + Sync>(
        &self,
        rows: usize,
        row_len: usize,
    ) -> Option<Shared<T>> {
        Shared::zeroed(self.team, self.count::<T>(rows, row_len)?, row_len)
    }

    /// See [`Shared::zeroed_in_large_pages`].
    pub(super) fn zeroed_in_large_pages<T: Zeroable + Copy + Send + Sync>(
        &self,
        rows: usize,
        row_len: usize,
    ) -> Option<Shared<T>> {
        Shared::zeroed_in_large_pages(self.team, self.count::<T>(rows, row_len)?, row_len)
    }

    /// How many of these rows there are to be in memory.
    fn count<T>(&self, rows: usize, row_len: usize) -> Option<usize> {
        let bytes = rows.checked_mul(row_len)?.checked_mul(size_of::<T>())?;
        self.bytes.set(self.bytes.get().checked_add(bytes)?);
        Some(if self.real { rows } else { 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_counted_with_and_without_memory() {
        let team = Team::new(1);
        for (allocator, taken) in [(Allocator::real(&team), 30), (Allocator::counting(&team), 0)] {
            let a = allocator.zeroed::<u16>(3, 5).expect("is little");
            let b = allocator.zeroed_in_large_pages::<f32>(0, 5).expect("is nothing");
            assert_eq!((a.bytes() + b.bytes(), a.row_len(), b.row_len()), (taken, 5, 5));
            assert!(allocator.zeroed_in_large_pages::<f32>(2, 2).is_some());
            assert_eq!(allocator.bytes(), 30 + 16);
        }
        let allocator = Allocator::counting(&team);
        assert!(allocator.zeroed::<u16>(usize::MAX / 2, 2).is_none(), "a size that overflows");
        assert!(
            allocator.zeroed::<u8>(usize::MAX, 1).is_some() && allocator.zeroed::<u8>(1, 1).is_none(),
            "a sum too"
        );
    }
}
