//! What a model takes of a GPU's memory: what sequences have there is counted by the code that takes it.

use braise_kernels::cuda::{Error, Properties};

use super::{Outline, Request};
use crate::backend::cuda;
use crate::block::Spec;
use crate::kv::{KvTypes, Room};

/// Bytes that a session may take on a GPU besides weights and cache. The backend keeps to it; [`DevicePlan::is_lean`] tells
/// whether a plan does.
pub const DEVICE_OVERHEAD: u64 = 300 << 20;

/// What the driver takes once a device is open: an estimate. It keeps the code of the kernels of a model's formats (less than
/// 1 MiB of PTX each), a few KB for each of the some hundred launches of a graph, and memory in pieces of 2 MiB.
const DRIVER: u64 = 64 << 20;

/// Bytes of a GPU's memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DevicePlan {
    /// Of weights.
    pub weights: u64,
    /// Of keys and values, of the tables of their pages, and of states, of all sequences.
    pub cache: u64,
    /// Of the values of a batch between operations.
    pub activations: u64,
    /// Of what the driver takes for code and graphs: an estimate.
    pub driver: u64,
}

impl DevicePlan {
    /// Without weights, of sequences of these sizes for the blocks of `spec` on a device of these properties.
    ///
    /// # Errors
    /// The context is too large for a GPU.
    pub(crate) fn of_sequences(
        spec: &Spec,
        room: Room,
        kv: KvTypes,
        properties: &Properties,
    ) -> Result<DevicePlan, Error> {
        let (cache, buffers) = cuda::count(spec, room, kv, properties)?;
        Ok(DevicePlan { weights: 0, cache: cache as u64, activations: buffers as u64, driver: DRIVER })
    }

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
    /// What the model takes of the memory of a GPU of these properties, in a session as `request` asks for. Weights are in
    /// the bits of the file, and without what fills their places up. `None` if it is more than an address can name.
    pub fn on_device(&self, request: &Request, properties: &Properties) -> Option<DevicePlan> {
        let (spec, weights) = (self.spec(), self.weights());
        let of_sequences = DevicePlan::of_sequences(spec, request.room(spec), request.kv, properties).ok()?;
        // norms and the like are in the rest, which is little but for the vocabulary, and that is not needed there
        let layers = weights.layers.iter().map(|layer| layer.bytes());
        Some(DevicePlan {
            weights: layers.chain([weights.tables, weights.output]).fold(0, u64::saturating_add),
            ..of_sequences
        })
    }
}
