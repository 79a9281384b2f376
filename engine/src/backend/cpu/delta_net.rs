//! Gated delta nets: see [`crate::block::DeltaNet`].
//!
//! ```text
//! work = in(x) | work_3 = q, k and work_2 = v: conv, silu, lengths of 1 | the delta rule in work_2, norm, gate
//! ```

use std::ops::Range;

use braise_kernels::ops::Activation;
use braise_kernels::sync::{Columns, Units, Worker};

use super::conv::Conv;
use super::inputs::{PrivateInputs, Ready, Rows, Source, Values, multiply, normalize};
use super::{Buffers, CpuWorker, Scratch, UNIT, chunks};
use crate::block::{DeltaNet, DeltaNetKind};
use crate::model::{DeltaNetWeights, Model, NormWeights, Weight};

/// Tokens whose decays are computed ahead of some values of a head; each value meets all of them while its part of the
/// state is in cache.
const TOKENS: usize = 32;

impl CpuWorker<'_, '_> {
    /// `work_2 = ` what goes into the output matrix.
    pub(super) fn delta_heads(
        &mut self,
        layer: usize,
        weights: &DeltaNetWeights,
        norm: Option<&NormWeights>,
    ) {
        let buffers = self.buffers;
        let x = Rows::Values(Values { norm, ..Values::of(&buffers.x) });
        let inputs: Vec<_> = weights.inputs.iter().collect();
        self.project(x, &inputs, &buffers.work);
        self.convolve_heads(layer, weights);
        self.apply_delta_rule(layer, weights);
    }

    /// `work_3 = ` q and k, as long as they should be, and `work_2 = ` v. A unit is a head.
    fn convolve_heads(&mut self, layer: usize, weights: &DeltaNetWeights) {
        let (buffers, kernels) = (self.buffers, self.model.kernels());
        let DeltaNetWeights { spec, kernel, .. } = weights;
        let (dim, width, channels) = (spec.head_dim, spec.width, spec.conv_channels());
        let conv = Conv { kernel, width, channels, runs: self.batch.runs };
        let units = |offset: usize| Units { total: channels / dim, offset, unit: dim };
        let room = &mut self.scratch.tile_2;
        let of = chunks(self.worker, units(0).total);
        while let Some(chunk) = self.worker.claim(of) {
            let mut past = self.kv.states(layer)[0].columns(&chunk, units(0));
            let mut q_and_k = buffers.work_3.columns(&chunk, units(0));
            let mut v = buffers.work_2.columns(&chunk, units(2 * spec.n_head_k));
            let work = buffers.work.read(self.worker);
            let mine = past.range();
            let read = |t: usize, input: &mut [f32]| {
                input.copy_from_slice(&work[t * buffers.work.row_len()..][mine.clone()]);
            };
            let write = |t: usize, y: &mut [f32]| {
                kernels.activate(Activation::Silu, y);
                let n_keys = (2 * spec.keys()).clamp(mine.start, mine.end) - mine.start;
                let (keys, values) = y.split_at_mut(n_keys);
                for (i, head) in keys.chunks_exact_mut(dim).enumerate() {
                    let is_query = mine.start + i * dim < spec.keys();
                    let norm = if is_query { &weights.q_norm } else { &weights.k_norm };
                    room.clear();
                    room.extend_from_slice(head);
                    normalize(kernels, norm, room, head);
                }
                q_and_k.row(t)[..n_keys].copy_from_slice(keys);
                v.row(t)[..values.len()].copy_from_slice(values);
            };
            conv.run(mine.clone(), &mut past, &mut self.scratch.tile, read, write);
        }
        self.worker.barrier();
    }

    /// `work_2 = norm(y)`, gated by z, from v in it. A unit is a head, of which some values' states stay in cache.
    fn apply_delta_rule(&mut self, layer: usize, weights: &DeltaNetWeights) {
        let (spec, buffers) = (&weights.spec, self.buffers);
        let (dim, s) = (spec.head_dim, &mut *self.scratch);
        let all_states = &self.kv.states(layer)[1];
        let of = chunks(self.worker, spec.n_head);
        while let Some(chunk) = self.worker.claim(of) {
            let mut y = buffers.work_2.columns(&chunk, Units::all(spec.n_head, dim));
            let states = all_states.rows(&chunk, Units::all(spec.n_head, 1));
            let gates = Gates { worker: self.worker, model: self.model, buffers, weights };
            let heads = chunk.range(spec.n_head).zip(states.chunks_exact_mut(all_states.row_len()));
            for (i, (head, states)) in heads.enumerate() {
                for run in self.batch.runs {
                    let state = &mut states[run.seq * dim * dim..][..dim * dim];
                    if run.first == 0 {
                        state.fill(0.0);
                    }
                    for start in run.tokens.clone().step_by(TOKENS) {
                        let tokens = start..run.tokens.end.min(start + TOKENS);
                        gates.apply((head, i * dim), tokens, state, &mut y, s);
                    }
                }
            }
        }
        self.worker.barrier();
    }
}

/// What decays, takes in and gates, of the heads of a layer.
struct Gates<'a, 't> {
    worker: &'a Worker<'t>,
    model: &'a Model,
    buffers: &'a Buffers,
    weights: &'a DeltaNetWeights,
}

impl Gates<'_, '_> {
    /// Turns the values of some tokens of one sequence into results, which lie in the columns of `y` from `first` on.
    fn apply(
        &self,
        (head, first): (usize, usize),
        tokens: Range<usize>,
        state: &mut [f32],
        y: &mut Columns<'_, f32>,
        s: &mut Scratch,
    ) {
        let (spec, weights, kernels) = (&self.weights.spec, self.weights, self.model.kernels());
        let (dim, key) = (spec.head_dim, spec.key_head(head) * spec.head_dim);
        let (keys, keys_len) = (self.buffers.work_3.read(self.worker), self.buffers.work_3.row_len());
        self.betas(head, tokens.clone(), &mut s.tile);
        self.decays(head, tokens.clone(), &mut s.inputs, &mut s.tile_2);
        for (j, state) in state.chunks_exact_mut(dim * DeltaNet::UNIT).enumerate() {
            let decays = s.tile_2.chunks_exact(dim);
            for ((t, beta), decay) in tokens.clone().zip(&s.tile).zip(decays) {
                let q = &keys[t * keys_len + key..][..dim];
                let k = &keys[t * keys_len + spec.keys() + key..][..dim];
                let v = &mut y.row(t)[first + j * DeltaNet::UNIT..][..DeltaNet::UNIT];
                kernels.delta_rule(state, q, k, decay, *beta, v);
            }
        }
        self.outputs(head, tokens.clone(), &mut s.inputs, &mut s.tile_2);
        s.tile.resize(dim, 0.0);
        for (t, z) in tokens.zip(s.tile_2.chunks_exact(dim)) {
            let y = &mut y.row(t)[first..][..dim];
            normalize(kernels, &weights.norm, y, &mut s.tile);
            if weights.fine.is_none() {
                kernels.gated(Activation::Silu, z, &s.tile, y);
            } else {
                let results = s.tile.iter().zip(z).map(|(y, z)| y * sigmoid(*z));
                y.iter_mut().zip(results).for_each(|(y, result)| *y = result);
            }
        }
    }

    /// The betas of some tokens.
    fn betas(&self, head: usize, tokens: Range<usize>, to: &mut Vec<f32>) {
        let spec = &self.weights.spec;
        let b = match spec.kind {
            DeltaNetKind::Fine => spec.conv_channels() + head,
            DeltaNetKind::Neighbours | DeltaNetKind::Strided => b_and_a(spec, head).0,
        };
        to.clear();
        to.extend(tokens.map(|t| sigmoid(self.row(t)[b])));
    }

    /// The decays (tokens, head_dim).
    fn decays(&self, head: usize, tokens: Range<usize>, room: &mut PrivateInputs, to: &mut Vec<f32>) {
        let (spec, bias) = (&self.weights.spec, &self.weights.dt_bias);
        let (dim, factor) = (spec.head_dim, self.weights.a[head]);
        let decay = |a: f32| (factor * softplus(a)).exp();
        if let Some(fine) = &self.weights.fine {
            let first = spec.conv_channels() + spec.n_head.next_multiple_of(UNIT);
            self.multiply(&fine.a, head, (first, tokens), room, to);
            for a in to.chunks_exact_mut(dim) {
                a.iter_mut().zip(&bias[head * dim..]).for_each(|(a, bias)| *a = decay(*a + bias));
            }
        } else {
            let a = b_and_a(spec, head).1;
            to.clear();
            tokens.for_each(|t| to.resize(to.len() + dim, decay(self.row(t)[a] + bias[head])));
        }
    }

    /// z (tokens, head_dim).
    fn outputs(&self, head: usize, tokens: Range<usize>, room: &mut PrivateInputs, to: &mut Vec<f32>) {
        let spec = &self.weights.spec;
        if let Some(fine) = &self.weights.fine {
            let first = spec.conv_channels() + spec.n_head.next_multiple_of(UNIT) + spec.head_dim;
            self.multiply(&fine.z, head, (first, tokens), room, to);
        } else {
            let first = spec.conv_channels() + head * spec.head_dim;
            to.clear();
            tokens.for_each(|t| to.extend_from_slice(&self.row(t)[first..][..spec.head_dim]));
        }
    }

    /// A head's rows of `weight` times what is in `work` from column `first` on.
    fn multiply(
        &self,
        weight: &Weight,
        head: usize,
        (first, tokens): (usize, Range<usize>),
        room: &mut PrivateInputs,
        to: &mut Vec<f32>,
    ) {
        let (dim, n) = (self.weights.spec.head_dim, tokens.len());
        let rows = Rows::Values(Values { first, ..Values::of(&self.buffers.work) });
        let source = Source { rows, row_len: weight.cols(), tokens };
        let ready = Ready::prepare_own(self.worker, self.model, room, &source, weight);
        let inputs = ready.read(self.worker, self.buffers, room);
        multiply(self.model, weight, head * dim..(head + 1) * dim, inputs, n, to);
    }

    /// A row of `work`.
    fn row(&self, t: usize) -> &[f32] {
        &self.buffers.work.read(self.worker)[t * self.buffers.work.row_len()..]
    }
}

/// Where a head's b and a are in a row of `work`, if they are there.
fn b_and_a(spec: &DeltaNet, head: usize) -> (usize, usize) {
    let first = spec.conv_channels() + spec.values();
    if spec.kind == DeltaNetKind::Neighbours {
        let shared = spec.n_head / spec.n_head_k;
        let b = first + head / shared * 2 * shared + head % shared;
        (b, b + shared)
    } else {
        (first + head, first + spec.n_head.next_multiple_of(UNIT) + head)
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

/// `ln(1 + e^x)`; of large numbers nothing is left of the logarithm.
pub(super) fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}
