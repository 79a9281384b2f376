//! Copies a model's weights to a device as fast as the file and the device allow.
//!
//! ```text
//! file's pages -> a few threads -> buffers -> the device copies from there, by itself
//! ```
//!
//! The threads wait for the file and copy out of its pages, while the device takes what they did before: both run all the
//! time, and the slower of them is what loading takes. There are [`BUFFERS`] buffers, whatever the size of the model; what is
//! smaller than one shares it with its neighbours. The bytes go in the order in which they lie in memory, which is that of
//! the file.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use braise_kernels::cuda::{Address, Device, Error as DeviceError, HostBuffer, Piece, Transfer};

use crate::error::{Error, ErrorKind, Result};
use crate::model::Model;

/// Bytes of a buffer. To copy as many takes most of a millisecond, which is long beside what it takes to begin.
const BUFFER: usize = 16 << 20;

/// Two that the device copies, so that it never waits, and two that are filled.
const BUFFERS: usize = 4;

/// Threads that fill them: one core copies less than a device's bus carries.
const THREADS: usize = BUFFERS;

/// They begin at multiples of so many bytes in a buffer, as they do on the device.
const ALIGNMENT: usize = 256;

/// How far a copy to a device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loading {
    /// Bytes that are there.
    pub done: u64,
    /// All of them.
    pub total: u64,
}

/// Who is told how far a copy to a device is, and may end it.
#[derive(Clone)]
pub struct Watch(Arc<dyn Fn(Loading) -> ControlFlow<()> + Send + Sync>);

impl Watch {
    /// One that is told often, some hundred times a second.
    pub fn new(tell: impl Fn(Loading) -> ControlFlow<()> + Send + Sync + 'static) -> Watch {
        Watch(Arc::new(tell))
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

/// Numbers that go to a device, with zeros behind them.
#[derive(Debug)]
pub(super) struct Upload<'m> {
    pub(super) bytes: Cow<'m, [u8]>,
    pub(super) padding: usize,
    pub(super) to: Address,
}

impl Upload<'_> {
    fn len(&self) -> usize {
        self.bytes.len() + self.padding
    }

    /// Writes what is there from byte `from` on.
    fn write(&self, from: usize, to: &mut [u8]) {
        let bytes = &self.bytes[from.min(self.bytes.len())..];
        let (numbers, zeros) = to.split_at_mut(bytes.len().min(to.len()));
        numbers.copy_from_slice(&bytes[..numbers.len()]);
        zeros.fill(0);
    }
}

/// A piece of a buffer: of which upload, and from which byte of it.
#[derive(Debug, PartialEq, Eq)]
struct Cut {
    upload: usize,
    from: usize,
    piece: Piece,
}

/// Which cuts go into each buffer of `size` bytes.
fn plan(uploads: &[Upload<'_>], size: usize) -> Vec<Vec<Cut>> {
    let mut buffers: Vec<Vec<Cut>> = Vec::new();
    let mut used = size; // of the last buffer; there is none yet
    for (i, upload) in uploads.iter().enumerate() {
        let mut from = 0;
        while from < upload.len() {
            if used >= size {
                buffers.push(Vec::new());
                used = 0;
            }
            let bytes = (upload.len() - from).min(size - used);
            let piece = Piece { from: used, bytes, to: upload.to.offset(from as u64) };
            buffers.last_mut().expect("one was begun").push(Cut { upload: i, from, piece });
            from += bytes;
            used = (used + bytes).next_multiple_of(ALIGNMENT);
        }
    }
    buffers
}

/// Why a copy ended.
#[derive(Debug, PartialEq)]
enum Stop {
    Device(DeviceError),
    /// Its watch said so.
    Asked,
}

impl From<DeviceError> for Stop {
    fn from(e: DeviceError) -> Stop {
        Stop::Device(e)
    }
}

/// Copies all `uploads`, which nobody may use on the device before. Afterwards the pages of the file that they were read from
/// need not stay in memory.
pub(super) fn load(model: &Model, device: &mut dyn Device, mut uploads: Vec<Upload<'_>>) -> Result<()> {
    uploads.sort_by_key(|upload| upload.bytes.as_ptr().addr());
    copy(device, &uploads, BUFFER, &|loading| ask(model, loading)).map_err(|stop| match stop {
        Stop::Device(e) => super::error(model, e),
        Stop::Asked => stopped(model),
    })?;
    for upload in &uploads {
        model.gguf().release(&upload.bytes);
    }
    Ok(())
}

/// Tells the model's watch how far a copy is.
///
/// # Errors
/// The watch ended it.
pub(super) fn tell(model: &Model, loading: Loading) -> Result<()> {
    if ask(model, loading).is_break() { Err(stopped(model)) } else { Ok(()) }
}

fn ask(model: &Model, loading: Loading) -> ControlFlow<()> {
    model.watch.as_ref().map_or(ControlFlow::Continue(()), |watch| (watch.0)(loading))
}

fn stopped(model: &Model) -> Error {
    Error::new(ErrorKind::Cancelled, "loading was stopped").file(model.gguf().path())
}

/// Copies all `uploads` by way of buffers of at most `size` bytes. Whatever happens, the device copies nothing any more when
/// this returns.
fn copy(
    device: &mut dyn Device,
    uploads: &[Upload<'_>],
    size: usize,
    watch: &dyn Fn(Loading) -> ControlFlow<()>,
) -> std::result::Result<(), Stop> {
    let all: usize = uploads.iter().map(|upload| upload.len().next_multiple_of(ALIGNMENT)).sum();
    let size = size.min(all);
    let plan = plan(uploads, size);
    let next = AtomicUsize::new(0);
    let ((free, empty), (full, filled)) = (channel(), channel());
    for _ in 0..BUFFERS.min(plan.len()) {
        let _ = free.send(device.host_buffer(size)?); // its other end is here
    }
    let empty = Mutex::new(empty);
    let mut running = VecDeque::new();
    std::thread::scope(|scope| {
        for _ in 0..THREADS.min(plan.len()) {
            let full = full.clone();
            scope.spawn(|| fill(uploads, &plan, &next, &empty, full));
        }
        drop(full); // so that the end of all threads is noticed
        let copied = send(device, &plan, (free, filled), &mut running, watch);
        if copied.is_err() {
            for (transfer, _) in running.drain(..) {
                let _ = device.reclaim(transfer); // one error is enough
            }
        }
        copied // and both channels are gone, by which the threads end
    })
}

/// Fills buffers until there are none any more, or nothing to fill them with.
fn fill(
    uploads: &[Upload<'_>],
    plan: &[Vec<Cut>],
    next: &AtomicUsize,
    empty: &Mutex<Receiver<HostBuffer>>,
    full: Sender<(usize, HostBuffer)>,
) {
    loop {
        let buffer = empty.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(mut buffer) = buffer else { return };
        let number = next.fetch_add(1, Ordering::Relaxed);
        let Some(cuts) = plan.get(number) else { return };
        for Cut { upload, from, piece } in cuts {
            uploads[*upload].write(*from, &mut buffer[piece.from..piece.from + piece.bytes]);
        }
        if full.send((number, buffer)).is_err() {
            return;
        }
    }
}

/// Lets the device copy what the threads filled, and gives them the buffers back.
fn send(
    device: &mut dyn Device,
    plan: &[Vec<Cut>],
    (free, filled): (Sender<HostBuffer>, Receiver<(usize, HostBuffer)>),
    running: &mut VecDeque<(Transfer, u64)>,
    watch: &dyn Fn(Loading) -> ControlFlow<()>,
) -> std::result::Result<(), Stop> {
    let bytes = |cuts: &[Cut]| cuts.iter().map(|cut| cut.piece.bytes as u64).sum::<u64>();
    let (mut done, total) = (0, plan.iter().map(|cuts| bytes(cuts)).sum());
    let mut left = plan.len();
    while left > 0 || !running.is_empty() {
        // while there is something to copy, the device should have it before anybody waits for it
        let next = if running.is_empty() { filled.recv().ok() } else { filled.try_recv().ok() };
        if let Some((number, buffer)) = next {
            let pieces: Vec<Piece> = plan[number].iter().map(|cut| cut.piece).collect();
            running.push_back((device.send(buffer, &pieces)?, bytes(&plan[number])));
            left -= 1;
            continue;
        }
        let Some((transfer, bytes)) = running.pop_front() else {
            let what = "a thread that reads the weights ended early".to_owned();
            return Err(DeviceError::Operands(what).into());
        };
        let _ = free.send(device.reclaim(transfer)?); // nobody takes the last ones
        done += bytes;
        if watch(Loading { done, total }).is_break() {
            return Err(Stop::Asked);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
