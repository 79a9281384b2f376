//! The CPU backend. A team of worker threads runs the whole forward pass together; each operation below is cut into
//! chunks of output rows (or of tokens and heads), which the workers claim, and ends with a barrier.
//!
//! ```text
//! a layer for one token:   qkv + rope + store | attention | output + residual | gate, up, silu | down + residual
//! ```
//!
//! A mixture of experts puts the router's phase before the last two; a normalization of a result takes one more.

mod allocator;
mod attention;
mod buffers;
mod conv;
mod delta_net;
mod dense;
mod experts;
mod heads;
mod inputs;
mod latent;
mod layer_inputs;
mod short_conv;
mod state_space;

use std::ops::Range;

use braise_kernels::ops::{self, BLOCK as ATTENTION_BLOCK};
use braise_kernels::sync::Worker;
use braise_kernels::table::Packing;

pub use super::batch::{Batch, Run};
pub use allocator::Allocator;
pub use buffers::{Buffers, Operands};
pub(crate) use inputs::normalize;

use super::{Backend, Residual, Target};
use crate::block::{Attention, Spec};
use crate::kv::KvCache;
use crate::model::{
    AttentionWeights, DeltaNetWeights, DenseWeights, ExpertsWeights, LatentWeights, LayerInputWeights,
    LayerInputsWeights, Model, NormWeights, ShortConvWeights, StateSpaceWeights,
};

/// Up to so many tokens, each worker prepares a matrix product's inputs for itself, and the kernels of single tokens
/// compute them: they have the same logits in one batch as one by one.
pub(crate) const PRIVATE_ROWS: usize = 8;

/// Rows of a weight matrix in a unit of work, where nothing else (a head) decides.
const UNIT: usize = 32;

/// Results of a matrix product that are computed at a time: as many as stay in cache.
const TILE_RESULTS: usize = 128 * 1024;

/// Chunks for each worker: enough to even out what slows one of them down.
const CHUNKS_PER_WORKER: usize = 6;

/// Tokens whose inputs are prepared together, where a packing does not say how many.
const INPUT_TOKENS: usize = 16;

/// Tokens whose inputs are prepared together.
fn input_tokens(packing: Option<&Packing>) -> usize {
    packing.map_or(INPUT_TOKENS, Packing::tile)
}

/// What a worker has for itself.
#[derive(Debug, Default)]
pub struct Scratch {
    inputs: inputs::PrivateInputs,
    /// Results of a matrix product, (tokens, rows of the tile), before they go where they belong.
    tile: Vec<f32>,
    tile_2: Vec<f32>,
    /// Results for several heads, before each has its own.
    heads: Vec<f32>,
    attention: ops::Scratch,
    /// How the layer's attention is cut.
    cut: attention::Cut,
    /// Which experts the batch's tokens take, from the router to the last matrix.
    routed: experts::Routed,
}

impl Scratch {
    /// About so many bytes it has after batches of `n` tokens. It grows as it is used, so that nothing is more exact.
    pub(crate) fn bytes(spec: &Spec, operands: &Operands, n: usize) -> usize {
        let product = |factors: &[usize]| factors.iter().fold(size_of::<f32>(), |x, y| x.saturating_mul(*y));
        let of_attention = |a: &Attention| {
            let heads = &a.heads;
            let dims = heads.head_dim.saturating_add(heads.head_dim_v);
            let q_rows = heads.head_dim.saturating_mul(1 + usize::from(a.gated));
            // what several heads make of all tokens, and attention's queries, results, and keys and values of some blocks
            let of_heads =
                product(&[n, q_rows]).max(product(&[TILE_RESULTS])).min(product(&[n, heads.n_head, q_rows]));
            of_heads.saturating_add(product(&[
                dims,
                attention::rows(heads, n).saturating_add(4 * ATTENTION_BLOCK),
            ]))
        };
        let attention = spec.layers.iter().filter_map(|layer| layer.mixer.attention()).map(of_attention);
        let tile = product(&[n, tile_rows(n)]);
        [inputs::PrivateInputs::bytes(operands, n), tile, tile, attention.max().unwrap_or(0)]
            .into_iter()
            .fold(0, usize::saturating_add)
    }
}

/// One worker's view of the backend.
#[derive(Debug)]
pub struct CpuWorker<'a, 't> {
    /// The worker.
    pub worker: &'a mut Worker<'t>,
    /// The model.
    pub model: &'a Model,
    /// The batch.
    pub batch: Batch<'a>,
    /// Shared with the other workers.
    pub buffers: &'a Buffers,
    /// Shared with the other workers.
    pub kv: &'a KvCache,
    /// This worker's own.
    pub scratch: &'a mut Scratch,
}

/// Cuts `units` into a number of chunks that suits the team.
fn chunks(worker: &Worker<'_>, units: usize) -> usize {
    if worker.team_size() == 1 { units.min(1) } else { units.min(CHUNKS_PER_WORKER * worker.team_size()) }
}

/// Pieces of some rows, which suit `n` tokens.
fn tiles(rows: Range<usize>, n: usize) -> impl Iterator<Item = Range<usize>> {
    let step = tile_rows(n);
    rows.clone().step_by(step).map(move |start| start..rows.end.min(start + step))
}

/// Rows of such a piece, whole units: kernels for many tokens take rows in panels that divide a unit, and a part of a
/// panel takes them as long as all of it.
fn tile_rows(n: usize) -> usize {
    (TILE_RESULTS / n.max(1) / UNIT * UNIT).clamp(2 * UNIT, 1024)
}

impl Backend for CpuWorker<'_, '_> {
    fn embed(&mut self, model: &Model) {
        self.embed_tokens(model);
    }

    fn rotations(&mut self) {
        self.rotate_positions();
    }

    fn layer_inputs(&mut self, weights: &LayerInputsWeights) {
        self.make_layer_inputs(weights);
    }

    fn add_layer_input(&mut self, layer: usize, weights: &LayerInputWeights) {
        self.gate_layer_input(layer, weights);
        let rows = inputs::Rows::Values(inputs::Values::of(&self.buffers.work));
        let residual = Residual { norm: Some(&weights.norm), scale: 1.0, to: Target::X };
        self.add_product(&weights.output, rows, dense::Sum::ALONE, residual);
        self.finish(residual);
    }

    fn scale(&mut self, factor: f32) {
        self.scale_x(factor);
    }

    fn normalize(&mut self, norm: &NormWeights) {
        self.normalize_x(norm);
    }

    fn qkv(&mut self, layer: usize, weights: &AttentionWeights, norm: Option<&NormWeights>) {
        self.queries_keys_values(layer, weights, norm);
    }

    fn attend(&mut self, layer: usize, weights: &AttentionWeights) {
        self.attention(layer, &weights.spec, &weights.scores);
    }

    fn attn_output(&mut self, weights: &AttentionWeights, residual: Residual<'_>) {
        self.add_attention(weights, residual);
    }

    fn latent(&mut self, layer: usize, weights: &LatentWeights, norm: Option<&NormWeights>) {
        self.compress(weights, norm);
        self.map_queries(layer, weights);
        self.attention(layer, &weights.spec.attention, &weights.scores);
        self.map_results(weights);
    }

    fn latent_output(&mut self, weights: &LatentWeights, residual: Residual<'_>) {
        let rows = inputs::Rows::Values(inputs::Values::of(&self.buffers.work));
        self.add_product(&weights.output, rows, dense::Sum::ALONE, residual);
        self.finish(residual);
    }

    fn short_conv(&mut self, layer: usize, weights: &ShortConvWeights, norm: Option<&NormWeights>) {
        self.convolve(layer, weights, norm);
    }

    fn short_conv_output(&mut self, weights: &ShortConvWeights, residual: Residual<'_>) {
        let rows = inputs::Rows::Values(inputs::Values::of(&self.buffers.work_2));
        self.add_product(&weights.output, rows, dense::Sum::ALONE, residual);
        self.finish(residual);
    }

    fn state_space(&mut self, layer: usize, weights: &StateSpaceWeights, norm: Option<&NormWeights>) {
        self.scan_states(layer, weights, norm);
    }

    fn state_space_output(&mut self, weights: &StateSpaceWeights, residual: Residual<'_>) {
        let rows = inputs::Rows::Values(inputs::Values::of(&self.buffers.work_2));
        self.add_product(&weights.output, rows, dense::Sum::ALONE, residual);
        self.finish(residual);
    }

    fn delta_net(&mut self, layer: usize, weights: &DeltaNetWeights, norm: Option<&NormWeights>) {
        self.delta_heads(layer, weights, norm);
    }

    fn delta_net_output(&mut self, weights: &DeltaNetWeights, residual: Residual<'_>) {
        let rows = inputs::Rows::Values(inputs::Values::of(&self.buffers.work_2));
        self.add_product(&weights.output, rows, dense::Sum::ALONE, residual);
        self.finish(residual);
    }

    fn up(&mut self, weights: &DenseWeights, norm: Option<&NormWeights>) {
        self.gate_and_up(weights, norm);
    }

    fn down(&mut self, weights: &DenseWeights, residual: Residual<'_>) {
        let rows = inputs::Rows::Values(inputs::Values::of(&self.buffers.h));
        self.add_product(&weights.down, rows, dense::Sum::ALONE, residual);
        self.finish(residual);
    }

    fn route(&mut self, weights: &ExpertsWeights, norm: Option<&NormWeights>) {
        self.choose_experts(weights, norm);
    }

    fn experts_up(&mut self, weights: &ExpertsWeights, norm: Option<&NormWeights>) {
        if let Some([down, _]) = &weights.latent {
            let rows = inputs::Rows::Values(inputs::Values { norm, ..inputs::Values::of(&self.buffers.x) });
            self.project(rows, &[down], &self.buffers.work);
        }
        self.up_of_experts(weights, norm);
        if let Some((shared, _)) = &weights.shared {
            self.gate_and_up(shared, norm);
        }
    }

    fn experts_down(&mut self, weights: &ExpertsWeights, residual: Residual<'_>) {
        self.down_of_experts(weights, residual);
        if let Some([_, up]) = &weights.latent {
            let rows = inputs::Rows::Values(inputs::Values::of(&self.buffers.work_2));
            self.add_product(up, rows, dense::Sum::ALONE, residual);
        }
        if let Some((shared, gate)) = &weights.shared {
            let rows = inputs::Rows::Values(inputs::Values::of(&self.buffers.h));
            let factor = gate.as_ref().map(|_| weights.spec.n_expert);
            self.add_product(&shared.down, rows, dense::Sum { more: true, factor }, residual);
        }
        self.finish(residual);
    }

    fn add_branches(&mut self, residual: Residual<'_>) {
        self.add_normalized(&self.buffers.branches, residual);
    }

    fn logits(&mut self, model: &Model) {
        self.output_logits(model);
    }
}
