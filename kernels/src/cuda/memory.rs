//! Which parts of a driver's allocations are in use.
//!
//! A driver gives each allocation pages of its own, of 2 MiB where it is large: a model's some hundred matrices would leave
//! a page half empty each. So what is known to come is taken at once ([`Slabs::add`]) and cut here.

use std::collections::HashMap;

/// Allocations begin at multiples of so many bytes.
const ALIGNMENT: usize = 256;

/// What was taken of the driver at once.
#[derive(Debug)]
struct Slab {
    bytes: usize,
    /// Bytes that were handed out; what is given back is not handed out again.
    used: usize,
    /// Allocations of it that are in use.
    live: usize,
}

/// All that was taken.
#[derive(Debug, Default)]
pub(super) struct Slabs {
    /// By its address.
    slabs: HashMap<u64, Slab>,
    /// The slab of each allocation, by its address.
    owners: HashMap<u64, u64>,
    /// The slab that is being cut.
    current: Option<u64>,
}

impl Slabs {
    /// Notes a new slab; the next allocations come from it.
    pub(super) fn add(&mut self, base: u64, bytes: usize) {
        self.slabs.insert(base, Slab { bytes, used: 0, live: 0 });
        self.current = Some(base);
    }

    /// Where `bytes` are, if the current slab has so many left.
    pub(super) fn cut(&mut self, bytes: usize) -> Option<u64> {
        let base = self.current?;
        let slab = self.slabs.get_mut(&base)?;
        let end = slab.used.checked_add(bytes.max(1))?;
        if end > slab.bytes {
            return None;
        }
        let address = base + slab.used as u64;
        slab.used = end.next_multiple_of(ALIGNMENT);
        slab.live += 1;
        self.owners.insert(address, base);
        Some(address)
    }

    /// Takes an allocation back, if it is one. The slab of the last one is to be given back to the driver.
    pub(super) fn give_back(&mut self, address: u64) -> Option<Option<u64>> {
        let base = self.owners.remove(&address)?;
        let slab = self.slabs.get_mut(&base)?;
        slab.live -= 1;
        if slab.live > 0 {
            return Some(None);
        }
        self.forget(base);
        Some(Some(base))
    }

    /// The slab that nothing was cut from since it was added, which is to be given back to the driver.
    pub(super) fn take_unused(&mut self) -> Option<u64> {
        let base = self.current.filter(|base| self.slabs.get(base).is_some_and(|slab| slab.live == 0))?;
        self.forget(base);
        Some(base)
    }

    /// All slabs, which are to be given back to the driver.
    pub(super) fn take_all(&mut self) -> impl Iterator<Item = u64> {
        let slabs = std::mem::take(self).slabs;
        slabs.into_keys()
    }

    fn forget(&mut self, base: u64) {
        self.slabs.remove(&base);
        self.current.take_if(|current| *current == base);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slab_is_cut_at_multiples_until_it_is_full_and_goes_with_its_last_part() {
        let mut slabs = Slabs::default();
        assert_eq!(slabs.cut(1), None);
        slabs.add(4096, 700);
        assert_eq!(slabs.cut(257), Some(4096));
        assert_eq!(slabs.cut(189), None, "one byte more than there are");
        assert_eq!(slabs.cut(188), Some(4096 + 512));
        assert_eq!(slabs.cut(0), None);
        slabs.add(8192, 256);
        assert_eq!(slabs.cut(0), Some(8192), "even what has no bytes has a place of its own");
        assert_eq!(slabs.cut(usize::MAX), None);
        assert_eq!(slabs.give_back(5000), None, "nobody got that");
        assert_eq!(slabs.give_back(4096), Some(None));
        assert_eq!(slabs.give_back(4096), None, "only once");
        assert_eq!(slabs.give_back(4096 + 512), Some(Some(4096)));
        assert_eq!(slabs.take_unused(), None, "the other one is in use");
        slabs.add(16_384, 64);
        assert_eq!(slabs.take_unused(), Some(16_384));
        assert_eq!(slabs.cut(1), None);
        assert_eq!(slabs.take_all().collect::<Vec<_>>(), [8192]);
        assert_eq!(slabs.give_back(8192), None);
    }
}
