//! The CUDA backend: the forward pass on a GPU, or on whatever else is a [`Device`].
//!
//! ```text
//! a layer for one token:   q, k, v, rotation, store | attention | output + x, norm | gate, up, silu | down + x, norm
//! ```
//!
//! [`Loaded`] is the weights of a model, or of some parts of it, on a device, which all its sessions share; `OnDevice` is what
//! sequences have there: the
//! cache, and the values of a batch. A `Pass` turns each operation of [`super::Backend`] into launches. Nothing of it
//! looks at a result, so that the launches of a few tokens, or of one of each sequence, depend on their number alone: they
//! are captured in a graph the second time, and replayed from then on.
//!
//! Few tokens, up to [`COLUMNS`], are multiplied in the numbers of the CPU backend; many in bf16 on tensor cores. On GPUs
//! that lack these ([`TENSOR_CORES`]) the kernels of few tokens take many, eight at a time, which is slow.

mod attention;
mod buffers;
mod cache;
mod dense;
mod experts;
mod latent;
mod layer_inputs;
mod load;
mod needs;
mod pass;
mod products;
mod recurrent;
mod rehearsal;
mod room;
mod sequence;
mod support;
#[cfg(test)]
mod tests;
mod weights;

use std::fmt;

use braise_kernels::cuda::ops::{COLUMNS, distrust_warpgroups};
use braise_kernels::cuda::{Device, Error as DeviceError, Fused};
use braise_kernels::quant::Type;

use crate::block::Spec;
use crate::error::{Error, ErrorKind, Result};
use crate::kv::{KvTypes, Room as Sizes};
use crate::model::Model;
use crate::parts::Part;
use crate::plan::DevicePlan;

pub use load::{Loading, Watch};
pub(crate) use needs::needs;
pub(crate) use sequence::{OnDevice, count, lock};
pub(crate) use support::MAX_BEST;
pub use support::{slow, unsupported, unsupported_part};

use room::Room;
use weights::Weights;

/// The compute capability from which on there are kernels for tensor cores.
pub const TENSOR_CORES: (u32, u32) = (8, 0);

/// The weights of a model on a device, or those of some parts of it.
pub struct Loaded {
    pub(crate) device: Box<dyn Device + Send>,
    /// The model's, with the blocks of these parts alone.
    spec: Spec,
    weights: Weights,
    bytes: usize,
    /// Bytes of the device's memory that were free before.
    free_before: usize,
}

impl Loaded {
    /// Copies the weights of some parts of `model` to `device`.
    ///
    /// # Errors
    /// The device cannot run them ([`unsupported_part`]), has too little memory, or was lost; or the model's watch ended it.
    /// Nothing is left on the device then.
    pub fn new(model: &Model, parts: &[Part], device: Box<dyn Device + Send>) -> Result<Loaded> {
        let mut device = Box::new(Fused::new(device));
        if let Some(what) = parts.iter().find_map(|part| unsupported_part(model, *part)) {
            let what = format!("there are no GPU kernels for {what}");
            return Err(Error::new(ErrorKind::Unsupported, what)
                .file(model.gguf().path())
                .next("run the model on the CPU"));
        }
        if device.properties().warpgroups {
            let mut types = parts.iter().flat_map(|part| model.stored_types(*part));
            let ty = types.find(|ty| ty.block() > 1).unwrap_or(Type::F16);
            if distrust_warpgroups(&mut *device, ty).map_err(|e| error(model, e))?.is_some() {
                device.forgo_warpgroups();
            }
        }
        let free_before = device.memory().map_err(|e| error(model, e))?.free;
        let all = weight_bytes(model, parts.iter().copied())?;
        // what the driver cannot load is better found out before much is copied than in the middle of a text
        for kernel in rehearsal::kernels(model, parts, device.properties())? {
            load::tell(model, Loading { done: 0, total: all as u64 })?;
            device.prepare(kernel).map_err(|e| error(model, e))?;
        }
        device.reserve(all).map_err(|e| error(model, e))?;
        let mut room = Room::on(&mut *device);
        let taken = Weights::new(model, parts.iter().copied(), &mut room).map_err(|e| error(model, e));
        // the device frees what it holds when it is dropped
        let (held, bytes) = room.into_held();
        let loaded =
            taken.and_then(|(weights, uploads)| load::load(model, &mut *device, uploads).map(|()| weights));
        match loaded {
            Ok(weights) => {
                let spec = model.spec().only(|part| parts.contains(&part));
                Ok(Loaded { device, spec, weights, bytes, free_before })
            }
            Err(e) => {
                room::free(&mut *device, &held);
                Err(e)
            }
        }
    }

    /// Bytes of its memory that the weights take.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// What sequences of these sizes make of it.
    ///
    /// # Errors
    /// The context is too large for a GPU.
    pub(crate) fn plan(&self, sizes: Sizes, kv: KvTypes) -> std::result::Result<DevicePlan, DeviceError> {
        let of_sequences = DevicePlan::of_sequences(&self.spec, sizes, kv, self.device.properties())?;
        Ok(DevicePlan { weights: self.bytes as u64, ..of_sequences })
    }

    /// Bytes of its memory that were taken since the model came, by all that runs there.
    pub(crate) fn taken(&mut self) -> std::result::Result<usize, DeviceError> {
        Ok(self.free_before.saturating_sub(self.device.memory()?.free))
    }
}

impl fmt::Debug for Loaded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Loaded { device, bytes, .. } = self;
        f.debug_struct("Loaded").field("device", device.properties()).field("bytes", bytes).finish()
    }
}

/// Bytes that the weights of some parts of `model` take on a device.
///
/// # Errors
/// None of a model that could be opened.
pub(crate) fn weight_bytes(model: &Model, parts: impl Iterator<Item = Part>) -> Result<usize> {
    let mut room = Room::counting();
    Weights::new(model, parts, &mut room).map_err(|e| error(model, e))?;
    Ok(room.into_held().1)
}

/// What is slow on each of the devices that `model` is on: see [`slow`].
pub(crate) fn slow_on_devices(model: &Model) -> Vec<Option<String>> {
    let gpus = model.on_device.iter().flat_map(|on| &on.gpus);
    gpus.map(|loaded| slow(model.spec(), sequence::lock(loaded).device.properties())).collect()
}

/// What `ask` finds out about each GPU that `model` is on.
///
/// # Errors
/// Those of the devices.
pub(crate) fn on_each<T>(
    model: &Model,
    mut ask: impl FnMut(&mut Loaded) -> std::result::Result<T, DeviceError>,
) -> Result<Vec<T>> {
    let gpus = model.on_device.iter().flat_map(|on| &on.gpus);
    gpus.map(|loaded| ask(&mut sequence::lock(loaded)).map_err(|e| error(model, e))).collect()
}

/// What a user is told of a device's error.
pub(crate) fn error(model: &Model, e: DeviceError) -> Error {
    let next = match e {
        DeviceError::OutOfMemory { .. } => {
            "choose a smaller context, a smaller model or a cache of 8 bits, or run it on the CPU"
        }
        DeviceError::Lost(_) => "start again; if it happens again, run the model on the CPU",
        DeviceError::NoDevice { count: 1.., .. } => "choose one of these, or run the model on the CPU",
        DeviceError::NoDriver | DeviceError::NoDevice { .. } => {
            "run the model on the CPU, or see what `braise doctor` finds"
        }
        _ => "run the model on the CPU",
    };
    let error = Error::new(ErrorKind::Device, e.to_string()).file(model.gguf().path()).next(next);
    error.because(e)
}

/// A size as kernels take it.
fn narrow(n: usize) -> std::result::Result<u32, DeviceError> {
    u32::try_from(n).map_err(|_| DeviceError::Operands(format!("a size of {n}")))
}

/// Whether so many columns are few.
fn are_few(n: usize) -> bool {
    n <= COLUMNS as usize
}
