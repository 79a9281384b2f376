//! What threads share of a GPU: its context, and host memory that it reads by itself.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use cudarc::driver::{result, sys};

use super::super::Error;
use super::library::error;

/// The primary context of a GPU, for as long as anything of it is used.
#[derive(Debug)]
pub(super) struct Context {
    number: sys::CUdevice,
    handle: sys::CUcontext,
}

// SAFETY: the driver lets any thread use a context, and several at a time.
unsafe impl Send for Context {}
// SAFETY: as above.
unsafe impl Sync for Context {}

impl Context {
    /// The context of a device of the driver.
    pub(super) fn of(number: sys::CUdevice) -> Result<Context, Error> {
        // SAFETY: `number` is a device of the driver.
        let handle = unsafe { result::primary_ctx::retain(number) }
            .map_err(|e| error("cuDevicePrimaryCtxRetain", e))?;
        Ok(Context { number, handle })
    }

    /// Makes it current in this thread.
    pub(super) fn enter(&self) -> Result<(), Error> {
        // SAFETY: the context was retained, and is released when this is dropped.
        unsafe { result::ctx::set_current(self.handle) }.map_err(|e| error("cuCtxSetCurrent", e))
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: it was retained once, and is released once; errors have nobody to go to.
        let _ = unsafe { result::primary_ctx::release(self.number) };
    }
}

/// Host memory that stays where it is, so that a GPU reads it without a processor's help.
#[derive(Debug)]
pub(super) struct Pinned {
    memory: *mut u8,
    bytes: usize,
    context: Arc<Context>,
}

// SAFETY: the memory belongs to this alone, and may be freed from any thread.
unsafe impl Send for Pinned {}

impl Pinned {
    /// So many zeros.
    pub(super) fn new(bytes: usize, context: &Arc<Context>) -> Result<Pinned, Error> {
        context.enter()?;
        // SAFETY: the memory is written before it is read, below.
        let memory =
            unsafe { result::malloc_host(bytes.max(1), 0) }.map_err(|e| error("cuMemHostAlloc", e))?;
        let memory = memory.cast::<u8>();
        // SAFETY: the driver gave so many bytes.
        unsafe { memory.write_bytes(0, bytes) };
        Ok(Pinned { memory, bytes, context: context.clone() })
    }
}

impl Deref for Pinned {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // SAFETY: the memory has so many bytes, which were written, and is freed when this is dropped.
        unsafe { std::slice::from_raw_parts(self.memory, self.bytes) }
    }
}

impl DerefMut for Pinned {
    fn deref_mut(&mut self) -> &mut [u8] {
        // SAFETY: as above; nobody else has a reference.
        unsafe { std::slice::from_raw_parts_mut(self.memory, self.bytes) }
    }
}

impl Drop for Pinned {
    /// Errors have nobody to go to; of a lost device everything gives one.
    fn drop(&mut self) {
        if self.context.enter().is_ok() {
            // SAFETY: the memory is freed once. Who lets a device read it keeps it until that is done.
            let _ = unsafe { result::free_host(self.memory.cast()) };
        }
    }
}
