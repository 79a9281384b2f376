//! A sequence of tokens on a device.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use braise_kernels::cuda::ops::Argmax;
use braise_kernels::cuda::{Address, Error as DeviceError, Graph, Properties};

use super::buffers::{Buffers, Sizes};
use super::pass::Pass;
use super::room::{self, Room};
use super::{Loaded, are_few, error, narrow};
use crate::error::Result;
use crate::forward;
use crate::kv::KvTypes;
use crate::model::Model;
use crate::sample::Scored;

/// What a session has on a device.
#[derive(Debug)]
pub(crate) struct Sequence<'m> {
    model: &'m Model,
    loaded: &'m Mutex<Loaded>,
    buffers: Buffers,
    held: Vec<Address>,
    bytes: usize,
    /// Positions before this one were written since the sequence began.
    written: usize,
    graphs: HashMap<Shape, Launches>,
}

/// One forward pass.
#[derive(Debug, Clone)]
pub(crate) struct Step<'a> {
    pub(crate) tokens: &'a [u32],
    /// Position of the first.
    pub(crate) first: usize,
    /// Those of them whose logits are asked for, up to [`braise_kernels::cuda::ops::COLUMNS`].
    pub(crate) logits: Range<usize>,
    /// How many of the best of them are wanted in place of all.
    pub(crate) best: Option<usize>,
}

/// All that the launches of a pass depend on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) n: usize,
    pub(super) logits: Range<usize>,
    pub(super) best: Option<usize>,
}

/// How the launches of a shape are made.
#[derive(Debug, Clone, Copy)]
enum Launches {
    /// One by one; modules are loaded meanwhile. The next time they are captured.
    Once,
    Captured(Graph),
}

/// The best logits of a row in descending order, of equal ones the first before the others: their places and they.
pub(crate) type Best = Vec<Scored>;

impl<'m> Sequence<'m> {
    /// A sequence without tokens that has room for `n_ctx` of them, read `n_batch` at a time.
    pub(crate) fn new(
        model: &'m Model,
        loaded: &'m Mutex<Loaded>,
        (n_ctx, n_batch): (usize, usize),
        kv: KvTypes,
    ) -> Result<Sequence<'m>> {
        let mut on = lock(loaded);
        let properties = on.device.properties().clone();
        let mut room = Room::on(&mut *on.device);
        match Buffers::new(model.spec(), Sizes { n_batch, n_ctx, kv }, &properties, &mut room) {
            Ok(buffers) => {
                let (held, bytes) = room.into_held();
                let (written, graphs) = (0, HashMap::new());
                Ok(Sequence { model, loaded, buffers, held, bytes, written, graphs })
            }
            Err(e) => {
                room.give_back();
                Err(error(model, e))
            }
        }
    }

    /// Bytes on the device.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether what the token at position `next` sees is there, if those before it were read once.
    pub(crate) fn holds(&self, next: usize) -> bool {
        self.buffers.hold(next, self.written)
    }

    /// Reads the tokens of `step`, and computes the logits that it asks for.
    pub(crate) fn read(&mut self, step: &Step<'_>) -> Result<()> {
        let end = step.first + step.tokens.len();
        self.written = if step.first == 0 { end } else { self.written.max(end) };
        self.run(step).map_err(|e| error(self.model, e))
    }

    fn run(&mut self, step: &Step<'_>) -> std::result::Result<(), DeviceError> {
        let n = step.tokens.len();
        let mut numbers = step.tokens.to_vec();
        for position in step.first..step.first + n {
            numbers.push(narrow(position)?);
        }
        numbers.extend([0, narrow(n)?]);
        let shape = Shape { n, logits: step.logits.clone(), best: step.best };
        let mut on = lock(self.loaded);
        on.device.upload(self.buffers.steps, bytemuck::cast_slice(&numbers))?;
        let launches = self.graphs.get(&shape).copied();
        if let Some(Launches::Captured(graph)) = launches {
            return on.device.replay(graph);
        }
        if launches.is_none() {
            self.launch(&mut on, &shape, |pass, model| forward::forward(pass, model))?;
            if are_few(n) {
                self.graphs.insert(shape, Launches::Once);
            }
            return Ok(());
        }
        on.device.begin_capture()?;
        let launched = self.launch(&mut on, &shape, |pass, model| forward::forward(pass, model));
        // whatever went wrong, nothing is captured any longer
        let graph = on.device.end_capture();
        launched?;
        let graph = graph?;
        self.graphs.insert(shape, Launches::Captured(graph));
        on.device.replay(graph)
    }

    /// Computes the logits of other tokens of the batch that was read last.
    pub(crate) fn logits(&mut self, step: &Step<'_>) -> Result<()> {
        let shape = Shape { n: step.tokens.len(), logits: step.logits.clone(), best: step.best };
        let mut on = lock(self.loaded);
        self.launch(&mut on, &shape, |pass, model| forward::logits(pass, model))
            .map_err(|e| error(self.model, e))
    }

    fn launch(
        &self,
        on: &mut Loaded,
        shape: &Shape,
        program: fn(&mut Pass<'_>, &Model),
    ) -> std::result::Result<(), DeviceError> {
        let mut pass = Pass::new(&mut *on.device, &on.weights, self.model, &self.buffers, shape);
        program(&mut pass, self.model);
        pass.finish()
    }

    /// The logits (rows, n_vocab) that were computed last.
    pub(crate) fn download_logits(&self, rows: usize) -> Result<Vec<f32>> {
        self.download(self.buffers.logits, rows * self.model.spec().n_vocab)
    }

    /// The `k` best of each row of logits that were computed last, if so many were asked for.
    pub(crate) fn download_best(&self, rows: usize, k: usize) -> Result<Vec<Best>> {
        let best = self.buffers.best;
        if k == 1 {
            let keys: Vec<u64> = self.download(best.keys, rows * Argmax::BLOCKS as usize)?;
            let rows = keys.chunks_exact(Argmax::BLOCKS as usize);
            return Ok(rows.map(|keys| vec![largest(keys)]).collect());
        }
        let places: Vec<u32> = self.download(best.places, rows * k)?;
        let values: Vec<f32> = self.download(best.values, rows * k)?;
        let both: Best = places.into_iter().zip(values).collect();
        Ok(both.chunks_exact(k).map(<[_]>::to_vec).collect())
    }

    /// The values (tokens, n_embd) of the last layer, of some tokens of the batch that was read last.
    pub(crate) fn download_values(&self, tokens: Range<usize>) -> Result<Vec<f32>> {
        let x = self.buffers.x;
        self.download(x.at.offset((tokens.start * x.n * size_of::<f32>()) as u64), tokens.len() * x.n)
    }

    fn download<T: bytemuck::Pod>(&self, from: Address, n: usize) -> Result<Vec<T>> {
        let mut values = vec![T::zeroed(); n];
        if n > 0 {
            let device = &mut lock(self.loaded).device;
            let bytes = bytemuck::cast_slice_mut(&mut values);
            device.download(from, bytes).map_err(|e| error(self.model, e))?;
        }
        Ok(values)
    }
}

impl Drop for Sequence<'_> {
    fn drop(&mut self) {
        room::free(&mut *lock(self.loaded).device, &self.held);
    }
}

/// Bytes that a sequence would take on a device of these properties.
pub(crate) fn bytes(
    model: &Model,
    (n_ctx, n_batch): (usize, usize),
    kv: KvTypes,
    properties: &Properties,
) -> Result<usize> {
    let mut room = Room::counting();
    let buffers = Buffers::new(model.spec(), Sizes { n_batch, n_ctx, kv }, properties, &mut room);
    buffers.map_err(|e| error(model, e))?;
    Ok(room.into_held().1)
}

/// A panic in an earlier pass cannot have left anything on the device that is read again.
fn lock(loaded: &Mutex<Loaded>) -> MutexGuard<'_, Loaded> {
    loaded.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The place and the logit of the largest of the keys that [`Argmax`] leaves.
fn largest(keys: &[u64]) -> (u32, f32) {
    let key = keys.iter().copied().max().unwrap_or(0);
    let order = (key >> 32) as u32;
    let bits = if order >> 31 == 1 { order & 0x7fff_ffff } else { !order };
    // NaN is the least of all
    let logit = if order == 0 { f32::NAN } else { f32::from_bits(bits) };
    (!(key as u32), logit)
}

#[cfg(test)]
mod tests {
    use super::largest;

    #[test]
    fn keys_are_logits_in_their_order() {
        let key = |logit: f32, place: u32| {
            let bits = logit.to_bits();
            let order = if bits >> 31 == 1 { !bits } else { bits | 0x8000_0000 };
            u64::from(order) << 32 | u64::from(!place)
        };
        for logit in [0.0, -0.0, 1.5, -7.25, f32::INFINITY, f32::NEG_INFINITY, f32::MIN_POSITIVE] {
            let (place, got) = largest(&[0, key(logit, 77)]);
            assert_eq!((place, got.to_bits()), (77, logit.to_bits()), "{logit}");
        }
        assert_eq!(largest(&[key(-3.0, 4), key(2.0, 9), key(2.0, 8)]), (8, 2.0));
        assert!(largest(&[u64::from(!5_u32), 0]).1.is_nan());
    }
}
