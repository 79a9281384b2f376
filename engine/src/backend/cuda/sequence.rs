//! Sequences of tokens on a device.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use braise_kernels::cuda::ops::Argmax;
use braise_kernels::cuda::{Address, Error as DeviceError, Graph, Properties};

use super::buffers::Buffers;
use super::cache::Cache;
use super::pass::Pass;
use super::room::{self, Room};
use super::{Loaded, are_few, error, narrow};
use crate::backend::Batch;
use crate::block::Spec;
use crate::error::Result;
use crate::forward;
use crate::kv::{KvTypes, PageTables, Room as Sizes};
use crate::model::Model;
use crate::parts::{Part, Parts, WHOLE};
use crate::sequences::{Best, Place};

/// What sequences have on a device, for the parts of the model that are there.
#[derive(Debug)]
pub(crate) struct OnDevice<'m> {
    model: &'m Model,
    loaded: &'m Mutex<Loaded>,
    buffers: Buffers,
    cache: Cache,
    held: Vec<Address>,
    bytes: usize,
    graphs: HashMap<Shape, Launches>,
    /// What a step uploads, and what came back from it; kept, so that steps take no memory.
    numbers: Vec<u32>,
    floats: Vec<f32>,
    best: Vec<Best>,
}

/// All that the launches of a pass depend on.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Shape {
    pub(super) parts: Parts,
    /// Tokens of each run.
    pub(super) runs: Vec<usize>,
    pub(super) logits: Wanted,
    /// How many of the best logits are wanted in place of all.
    pub(super) best: Option<usize>,
}

/// Tokens of a batch whose logits are computed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Wanted {
    /// All, in order.
    All,
    /// So many; which ones is in the device's memory.
    Some(usize),
}

impl Wanted {
    /// How many of n tokens.
    pub(super) fn count(self, n: usize) -> usize {
        match self {
            Wanted::All => n,
            Wanted::Some(count) => count,
        }
    }
}

impl Shape {
    fn of(batch: Batch<'_>, best: Option<usize>, parts: &Parts) -> Shape {
        let has_output = parts.contains(&Part::Output);
        let are_all = batch.logits.iter().map(|token| *token as usize).eq(0..batch.tokens.len());
        Shape {
            parts: parts.clone(),
            runs: batch.runs.iter().map(|run| run.tokens.len()).collect(),
            logits: match are_all {
                _ if !has_output => Wanted::Some(0),
                true => Wanted::All,
                false => Wanted::Some(batch.logits.len()),
            },
            best: best.filter(|_| has_output),
        }
    }

    /// Tokens of all runs.
    pub(super) fn n(&self) -> usize {
        self.runs.iter().sum()
    }

    /// Whether such passes will come again and again: a token of each sequence, or few of one.
    fn is_common(&self) -> bool {
        self.runs.iter().all(|n| *n == 1) || (self.runs.len() == 1 && are_few(self.n()))
    }
}

/// How the launches of a shape are made.
#[derive(Debug, Clone, Copy)]
enum Launches {
    /// One by one; modules are loaded meanwhile. The next time they are captured.
    Once,
    Captured(Graph),
}

impl<'m> OnDevice<'m> {
    /// Takes what sequences of these sizes need.
    pub(crate) fn new(
        model: &'m Model,
        loaded: &'m Mutex<Loaded>,
        sizes: Sizes,
        kv: KvTypes,
    ) -> Result<OnDevice<'m>> {
        let mut on = lock(loaded);
        let properties = on.device.properties().clone();
        let Loaded { device, spec, .. } = &mut *on;
        // what is refused at once is refused with all that it takes
        let reserved = count(spec, sizes, kv, &properties)
            .and_then(|(cache, buffers)| device.reserve(cache.saturating_add(buffers)));
        reserved.map_err(|e| error(model, e))?;
        let mut room = Room::on(&mut **device);
        let taken = take(spec, sizes, kv, &properties, &mut room);
        let (cache, buffers) = match taken {
            Ok(taken) => taken,
            Err(e) => {
                room.give_back();
                return Err(error(model, e));
            }
        };
        let (held, bytes) = room.into_held();
        let (numbers, floats, best) = Default::default();
        let graphs = HashMap::new();
        Ok(OnDevice { model, loaded, buffers, cache, held, bytes, graphs, numbers, floats, best })
    }

    /// Uploads the numbers of a batch.
    fn upload(&mut self, on: &mut Loaded, batch: Batch<'_>) -> std::result::Result<(), DeviceError> {
        let numbers = &mut self.numbers;
        numbers.clear();
        numbers.extend(batch.tokens);
        for run in batch.runs {
            let positions = narrow(run.first)?..narrow(run.end())?;
            numbers.extend(positions);
        }
        for run in batch.runs {
            numbers.extend(std::iter::repeat_n(narrow(run.seq)?, run.tokens.len()));
        }
        numbers.push(0);
        for run in batch.runs {
            numbers.push(narrow(run.tokens.end)?);
        }
        numbers.extend(batch.logits);
        on.device.upload(self.buffers.steps, bytemuck::cast_slice(numbers))
    }

    /// Takes a batch, before [`OnDevice::run`] runs parts of the model with it.
    pub(crate) fn begin(&mut self, batch: Batch<'_>) -> Result<()> {
        let on = &mut *lock(self.loaded);
        let uploaded = self.upload(on, batch);
        let uploaded = uploaded.and_then(|()| self.cache.upload_tables(&mut *on.device, batch.runs));
        uploaded.map_err(|e| error(self.model, e))
    }

    /// Runs parts of the model that follow each other with the batch that was taken; if the last of them is the output, it
    /// computes the logits that are asked for.
    pub(crate) fn run(&mut self, batch: Batch<'_>, best: Option<usize>, parts: &Parts) -> Result<()> {
        self.run_shape(Shape::of(batch, best, parts)).map_err(|e| error(self.model, e))
    }

    fn run_shape(&mut self, shape: Shape) -> std::result::Result<(), DeviceError> {
        let mut on = lock(self.loaded);
        let program = |pass: &mut Pass<'_>, model: &Model| forward::forward_parts(pass, model, &shape.parts);
        let launches = self.graphs.get(&shape).copied();
        if let Some(Launches::Captured(graph)) = launches {
            return on.device.replay(graph);
        }
        if launches.is_none() {
            self.launch(&mut on, &shape, program)?;
            if shape.is_common() {
                self.graphs.insert(shape, Launches::Once);
            }
            return Ok(());
        }
        on.device.begin_capture()?;
        let launched = self.launch(&mut on, &shape, program);
        // whatever went wrong, nothing is captured any longer
        let graph = on.device.end_capture();
        if let (Err(_), Ok(graph)) = (&launched, &graph) {
            let _ = on.device.destroy(*graph); // one error is enough
        }
        launched?;
        let graph = graph?;
        self.graphs.insert(shape, Launches::Captured(graph));
        on.device.replay(graph)
    }

    fn launch(
        &self,
        on: &mut Loaded,
        shape: &Shape,
        program: impl FnOnce(&mut Pass<'_>, &Model),
    ) -> std::result::Result<(), DeviceError> {
        let memory = (&self.buffers, &self.cache);
        let mut pass = Pass::new(&mut *on.device, &on.weights, self.model, memory, shape);
        program(&mut pass, self.model);
        pass.finish()
    }

    /// Copies the values between parts (tokens, n_embd) of the first tokens of the batch, as many as `x` has room for.
    pub(crate) fn download_x(&self, x: &mut [f32]) -> Result<()> {
        download(self.model, self.loaded, self.buffers.x.at, x)
    }

    /// Gives the parts that run next the values (tokens, n_embd) of the batch.
    pub(crate) fn upload_x(&self, x: &[f32]) -> Result<()> {
        let device = &mut lock(self.loaded).device;
        device.upload(self.buffers.x.at, bytemuck::cast_slice(x)).map_err(|e| error(self.model, e))
    }

    /// Floats from the device, in the buffer that is kept for them.
    fn download_floats(&mut self, from: Address, n: usize) -> Result<&[f32]> {
        self.floats.resize(n, 0.0);
        download(self.model, self.loaded, from, &mut self.floats)?;
        Ok(&self.floats)
    }
}

impl Place for OnDevice<'_> {
    fn pages(&self) -> &PageTables {
        &self.cache.tables
    }

    fn holds(&self, seq: usize, n: usize) -> bool {
        self.cache.tables.holds(seq, n)
    }

    fn truncate(&mut self, seq: usize, n: usize) {
        self.cache.tables.truncate(seq, n);
    }

    fn make_room(&mut self, seq: usize, next: usize, n: usize) -> Result<()> {
        let device = &mut *lock(self.loaded).device;
        self.cache.make_room(device, (seq, next, n)).map_err(|e| error(self.model, e))
    }

    fn share(&mut self, from: usize, to: usize, n: usize) -> Result<()> {
        let device = &mut *lock(self.loaded).device;
        self.cache.share(device, (from, to), n).map_err(|e| error(self.model, e))
    }

    fn forward(&mut self, batch: Batch<'_>, best: Option<usize>) -> Result<()> {
        self.begin(batch)?;
        self.run(batch, best, &WHOLE)
    }

    fn logits(&mut self, batch: Batch<'_>, best: Option<usize>) -> Result<()> {
        let mut on = lock(self.loaded);
        let shape = Shape::of(batch, best, &(Part::Output..=Part::Output));
        let launched = self
            .upload(&mut on, batch)
            .and_then(|()| self.launch(&mut on, &shape, |pass, model| forward::logits(pass, model)));
        launched.map_err(|e| error(self.model, e))
    }

    fn rows(&mut self, n: usize) -> Result<&[f32]> {
        self.download_floats(self.buffers.logits, n * self.model.spec().n_vocab)
    }

    fn best(&mut self, n: usize, k: usize) -> Result<&[Best]> {
        let (model, loaded, best) = (self.model, self.loaded, self.buffers.best);
        self.best.clear();
        if k == 1 {
            let mut keys = vec![0_u64; n * Argmax::BLOCKS as usize];
            download(model, loaded, best.keys, &mut keys)?;
            let rows = keys.chunks_exact(Argmax::BLOCKS as usize);
            self.best.extend(rows.map(|keys| vec![largest(keys)]));
        } else {
            let (mut places, mut values) = (vec![0_u32; n * k], vec![0.0_f32; n * k]);
            download(model, loaded, best.places, &mut places)?;
            download(model, loaded, best.values, &mut values)?;
            let rows = places.chunks_exact(k).zip(values.chunks_exact(k));
            let both = |(places, values): (&[u32], &[f32])| {
                places.iter().copied().zip(values.iter().copied()).collect()
            };
            self.best.extend(rows.map(both));
        }
        Ok(&self.best)
    }

    fn values(&mut self, tokens: Range<usize>) -> Result<&[f32]> {
        let x = self.buffers.x;
        let first = x.at.offset((tokens.start * x.n * size_of::<f32>()) as u64);
        self.download_floats(first, tokens.len() * x.n)
    }

    fn bytes(&self) -> u64 {
        self.bytes as u64
    }
}

impl Drop for OnDevice<'_> {
    /// Errors have nobody to go to.
    fn drop(&mut self) {
        let mut on = lock(self.loaded);
        for launches in self.graphs.values() {
            if let Launches::Captured(graph) = launches {
                let _ = on.device.destroy(*graph);
            }
        }
        room::free(&mut *on.device, &self.held);
    }
}

fn take(
    spec: &Spec,
    sizes: Sizes,
    kv: KvTypes,
    properties: &Properties,
    room: &mut Room<'_>,
) -> std::result::Result<(Cache, Buffers), DeviceError> {
    let cache = Cache::new(spec, sizes, kv, room)?;
    Ok((cache, Buffers::new(spec, sizes, properties, room)?))
}

/// Bytes of the cache, and of what batches need besides, that sequences of these sizes take for the blocks of `spec`.
pub(crate) fn count(
    spec: &Spec,
    sizes: Sizes,
    kv: KvTypes,
    properties: &Properties,
) -> std::result::Result<(usize, usize), DeviceError> {
    let mut room = Room::counting();
    Cache::new(spec, sizes, kv, &mut room)?;
    let cache = room.bytes();
    Buffers::new(spec, sizes, properties, &mut room)?;
    Ok((cache, room.bytes() - cache))
}

/// Copies numbers from the device.
fn download<T: bytemuck::Pod>(
    model: &Model,
    loaded: &Mutex<Loaded>,
    from: Address,
    to: &mut [T],
) -> Result<()> {
    if to.is_empty() {
        return Ok(());
    }
    let device = &mut lock(loaded).device;
    device.download(from, bytemuck::cast_slice_mut(to)).map_err(|e| error(model, e))
}

/// A panic in an earlier pass cannot have left anything on the device that is read again.
pub(crate) fn lock(loaded: &Mutex<Loaded>) -> MutexGuard<'_, Loaded> {
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
