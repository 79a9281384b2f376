//! Gated delta nets: see [`crate::block::DeltaNet`].
//!
//! ```text
//! work = in(x) | work_3 = q, k and work_2 = v: conv, silu, lengths of 1 | the delta rule in work_2, norm, gate
//! ```

use braise_kernels::ops::Activation;
use braise_kernels::sync::Units;

use super::conv::Conv;
use super::inputs::{Rows, Values, normalize};
use super::{CpuWorker, UNIT, chunks};
use crate::block::{DeltaNet, Sharing};
use crate::model::{DeltaNetWeights, NormWeights};

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
        let (n, buffers, kernels) = (self.batch.tokens.len(), self.buffers, self.model.kernels());
        let DeltaNetWeights { spec, kernel, .. } = weights;
        let (dim, width, channels) = (spec.head_dim, spec.width, spec.conv_channels());
        let conv = Conv { kernel, width, channels, n, continues: self.batch.first > 0 };
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

    /// `work_2 = norm(y) silu(z)` from v in it. A unit is a head, of which some values' states stay in cache.
    fn apply_delta_rule(&mut self, layer: usize, weights: &DeltaNetWeights) {
        let (n, spec, buffers, kernels) =
            (self.batch.tokens.len(), &weights.spec, self.buffers, self.model.kernels());
        let (dim, s) = (spec.head_dim, &mut *self.scratch);
        let of = chunks(self.worker, spec.n_head);
        while let Some(chunk) = self.worker.claim(of) {
            let mut y = buffers.work_2.columns(&chunk, Units::all(spec.n_head, dim));
            let states = self.kv.states(layer)[1].rows(&chunk, Units::all(spec.n_head, 1));
            if self.batch.first == 0 {
                states.fill(0.0);
            }
            let (work, work_len) = (buffers.work.read(self.worker), buffers.work.row_len());
            let (keys, keys_len) = (buffers.work_3.read(self.worker), buffers.work_3.row_len());
            let heads = chunk.range(spec.n_head).zip(states.chunks_exact_mut(dim * dim));
            for (i, (head, state)) in heads.enumerate() {
                let (key, (b, a)) = (spec.key_head(head) * dim, gates(spec, head));
                for start in (0..n).step_by(TOKENS) {
                    let tokens = start..n.min(start + TOKENS);
                    s.tile.clear();
                    s.tile_2.clear();
                    for t in tokens.clone() {
                        let gates = &work[t * work_len..];
                        s.tile.push(1.0 / (1.0 + (-gates[b]).exp()));
                        let decay = (weights.a[head] * softplus(gates[a] + weights.dt_bias[head])).exp();
                        s.tile_2.resize(s.tile_2.len() + dim, decay);
                    }
                    for (j, state) in state.chunks_exact_mut(dim * DeltaNet::UNIT).enumerate() {
                        let decays = s.tile_2.chunks_exact(dim);
                        for ((t, beta), decay) in tokens.clone().zip(&s.tile).zip(decays) {
                            let q = &keys[t * keys_len + key..][..dim];
                            let k = &keys[t * keys_len + spec.keys() + key..][..dim];
                            let v = &mut y.row(t)[i * dim + j * DeltaNet::UNIT..][..DeltaNet::UNIT];
                            kernels.delta_rule(state, q, k, decay, *beta, v);
                        }
                    }
                }
                for t in 0..n {
                    let y = &mut y.row(t)[i * dim..][..dim];
                    s.tile.resize(dim, 0.0);
                    normalize(kernels, &weights.norm, y, &mut s.tile);
                    let z = &work[t * work_len + spec.conv_channels() + head * dim..][..dim];
                    kernels.gated(Activation::Silu, z, &s.tile, y);
                }
            }
        }
        self.worker.barrier();
    }
}

/// Where a head's b and a are in a row of `work`.
fn gates(spec: &DeltaNet, head: usize) -> (usize, usize) {
    let first = spec.conv_channels() + spec.values();
    match spec.sharing {
        Sharing::Neighbours => {
            let shared = spec.n_head / spec.n_head_k;
            let b = first + head / shared * 2 * shared + head % shared;
            (b, b + shared)
        }
        Sharing::Strided => (first + head, first + spec.n_head.next_multiple_of(UNIT) + head),
    }
}

/// `ln(1 + e^x)`; of large numbers nothing is left of the logarithm.
pub(super) fn softplus(x: f32) -> f32 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}
