//! Memory of a device, or the count of what would be taken.

use braise_kernels::cuda::{Address, Device, Error};

/// Takes memory, and remembers what it took.
pub(super) struct Room<'d> {
    /// `None`: bytes are only counted.
    device: Option<&'d mut (dyn Device + Send)>,
    held: Vec<Address>,
    bytes: usize,
}

/// Allocations begin at multiples of so many bytes.
const ALIGNMENT: usize = 256;

impl<'d> Room<'d> {
    /// Memory of `device`.
    pub(super) fn on(device: &'d mut (dyn Device + Send)) -> Room<'d> {
        Room { device: Some(device), held: Vec::new(), bytes: 0 }
    }

    /// No memory.
    pub(super) fn counting() -> Room<'d> {
        Room { device: None, held: Vec::new(), bytes: 0 }
    }

    /// Bytes that were taken so far.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What was taken, and how many bytes that are.
    pub(super) fn into_held(self) -> (Vec<Address>, usize) {
        (self.held, self.bytes)
    }

    /// `count` things of `size` bytes, that are 0. Where there are none, there is no place.
    pub(super) fn zeros(&mut self, counts: &[usize], size: usize) -> Result<Address, Error> {
        let bytes = counts.iter().try_fold(size, |product, n| product.checked_mul(*n));
        let bytes = bytes.ok_or_else(|| Error::Operands(format!("{counts:?} numbers")))?;
        let at = self.take(bytes)?;
        if let Some(device) = self.device.as_mut().filter(|_| bytes > 0) {
            device.clear(at, bytes)?;
        }
        Ok(at)
    }

    /// A copy of `bytes`.
    pub(super) fn copy(&mut self, bytes: &[u8]) -> Result<Address, Error> {
        let at = self.take(bytes.len())?;
        if let Some(device) = self.device.as_mut().filter(|_| !bytes.is_empty()) {
            device.upload(at, bytes)?;
        }
        Ok(at)
    }

    /// Memory that holds anything. Where there is none, there is no place.
    pub(super) fn take(&mut self, bytes: usize) -> Result<Address, Error> {
        if bytes == 0 {
            return Ok(Address::NONE);
        }
        self.bytes = self.bytes.saturating_add(bytes.saturating_add(ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT);
        let Some(device) = &mut self.device else { return Ok(Address::NONE) };
        let at = device.allocate(bytes)?;
        self.held.push(at);
        Ok(at)
    }

    /// Gives everything back; what cannot be given back is lost with the device.
    pub(super) fn give_back(mut self) {
        if let Some(device) = &mut self.device {
            free(*device, &self.held);
        }
    }
}

/// Frees memory. Errors have nobody to go to: of a lost device everything gives one.
pub(super) fn free(device: &mut dyn Device, held: &[Address]) {
    for address in held {
        let _ = device.free(*address);
    }
}
