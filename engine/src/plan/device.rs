//! What a model takes of a GPU's memory.
//!
//! What is free there is what the driver says of the device ([`Device::memory`](braise_kernels::cuda::Device::memory)) once it
//! is open. The driver's management library would say the same before that, at the price of a library, and without the
//! context that the program takes as soon as it does anything.

use std::ops::Range;

use braise_kernels::cuda::ops::{PAGE, kv_row_bytes};
use braise_kernels::ops::KvType;

use super::{Outline, Request};
use crate::backend::cpu::Buffers;
use crate::block::{Attention, Mixer};
use crate::kv::{KvTypes, LayerBytes, Room, SPARE};
use crate::sequences::n_logits;

/// Bytes that a session may take on a GPU besides weights and cache. The backend keeps to it; [`DevicePlan::is_lean`] tells
/// whether a plan does.
pub const DEVICE_OVERHEAD: u64 = 300 << 20;

/// What the driver takes once a device is open: an estimate. It keeps the code of the kernels of a model's formats (less than
/// 1 MiB of PTX each), a few KB for each of the some hundred launches of a graph, and memory in pieces of 2 MiB.
const DRIVER: u64 = 64 << 20;

/// Bytes of a value between operations: all are floats, and those that go into a matrix are 8-bit codes or bf16 besides.
const VALUE: usize = 6;

/// The part of a model that a GPU holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// Its layers.
    pub layers: Range<usize>,
    /// Whether the experts of these are there, or stay in the memory of the machine.
    pub experts: bool,
    /// Whether the tables and the matrix of logits are there.
    pub ends: bool,
}

/// Bytes of a GPU's memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DevicePlan {
    /// Of weights, in the bits of the file.
    pub weights: u64,
    /// Of keys and values in pages of 64 positions, and of states, of all sequences.
    pub cache: u64,
    /// Of the values of a batch between operations: an estimate.
    pub activations: u64,
    /// Of what the driver takes for code and graphs: an estimate.
    pub driver: u64,
}

impl DevicePlan {
    /// All bytes.
    pub fn total(&self) -> u64 {
        [self.weights, self.cache, self.activations, self.driver].into_iter().fold(0, u64::saturating_add)
    }

    /// Whether what is neither weights nor cache is within [`DEVICE_OVERHEAD`].
    pub fn is_lean(&self) -> bool {
        self.activations.saturating_add(self.driver) <= DEVICE_OVERHEAD
    }
}

impl Outline {
    /// The whole model.
    pub fn everything(&self) -> Placement {
        Placement { layers: 0..self.spec().layers.len(), experts: true, ends: true }
    }

    /// What `placement` takes of a GPU's memory in a session as `request` asks for. `None` if it is more than an address can
    /// name, or there are no such layers.
    pub fn on_device(&self, request: &Request, placement: &Placement) -> Option<DevicePlan> {
        let (spec, weights) = (self.spec(), self.weights());
        let layers = spec.layers.get(placement.layers.clone())?;
        let of_layers = weights.layers.get(placement.layers.clone())?.iter();
        let of_layers = of_layers.map(|layer| if placement.experts { layer.bytes() } else { layer.others });
        // norms and the like are in the rest, which is little but for the vocabulary, and that is not needed there
        let ends = if placement.ends { weights.tables.checked_add(weights.output)? } else { 0 };
        let room = request.room(spec);
        let cache = layers.iter().try_fold(0_u64, |sum, layer| {
            let bytes = layer_bytes(&layer.mixer, room, request.kv)?;
            sum.checked_add(bytes.positions as u64)?.checked_add(bytes.states as u64)
        })?;
        let values = Buffers::values_a_token(spec).checked_mul(room.chunk)?.checked_mul(VALUE)?;
        let logits = spec.n_vocab.checked_mul(n_logits(room))?.checked_mul(size_of::<f32>())?;
        Some(DevicePlan {
            weights: of_layers.fold(ends, u64::saturating_add),
            cache,
            activations: values.checked_add(logits)? as u64,
            driver: DRIVER,
        })
    }
}

/// What a layer remembers of all sequences on a GPU.
fn layer_bytes(mixer: &Mixer, room: Room, types: KvTypes) -> Option<LayerBytes> {
    let positions = match mixer.cached() {
        Some(a) => {
            let positions = pages(a, room)?.checked_mul(room.n_seq)?.checked_mul(PAGE as usize)?;
            position_bytes(a, types)?.checked_mul(positions)?
        }
        None => 0,
    };
    Some(LayerBytes { positions, ..LayerBytes::new(mixer, room, types)? })
}

/// Pages that a layer keeps of a sequence: of a window with a batch and some spare one more than these fill, because they may
/// begin and end within a page.
fn pages(a: &Attention, room: Room) -> Option<usize> {
    let all = room.n_ctx.div_ceil(PAGE as usize);
    // slopes count from the first position
    let Some(window) = a.window.filter(|_| a.causal && a.alibi.is_none()) else { return Some(all) };
    let kept = window.size().checked_add(room.chunk)?.checked_add(SPARE)?.div_ceil(PAGE as usize) + 1;
    Some(kept.min(all))
}

/// Bytes of a position's keys and values.
fn position_bytes(a: &Attention, types: KvTypes) -> Option<usize> {
    let row = |ty: KvType, dim: usize| {
        // larger heads have no kernels
        let dim = u32::try_from(dim).ok().filter(|dim| *dim < 1 << 24)?;
        Some(kv_row_bytes(ty, dim) as usize)
    };
    let head = row(types.k, a.heads.head_dim)?.checked_add(row(types.v, a.heads.head_dim_v)?)?;
    head.checked_mul(a.heads.n_head_kv)
}
