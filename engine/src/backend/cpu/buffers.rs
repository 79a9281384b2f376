//! What the workers share: the values of a batch between operations.

use braise_kernels::quant::q8::{BLOCK, SUM_BLOCK};
use braise_kernels::sync::Shared;
use braise_kernels::table::{Kernels, MatMul, Packing};

use super::attention::AttentionBuffers;
use super::{Allocator, PRIVATE_ROWS, UNIT, input_tokens};
use crate::backend::Residual;
use crate::block::{Attention, DeltaNet, DeltaNetKind, Experts, Mixer, Mlp, NormPlace, Pairs, Rope, Spec};
use crate::kv::Room;

/// What the workers share.
#[derive(Debug)]
pub struct Buffers {
    /// (n_batch, n_embd)
    pub(crate) x: Shared<f32>,
    /// A block's result before it is normalized, (n_batch, n_embd).
    pub(super) y: Shared<f32>,
    /// A sum of normalized results, (n_batch, n_embd).
    pub(super) branches: Shared<f32>,
    /// What layers get besides, (n_batch, n_layer * n).
    pub(super) layer_inputs: Shared<f32>,
    /// (n_batch, n_head * head_dim)
    pub(super) q: Shared<f32>,
    /// Gates of the results of attention, (n_batch, n_head * head_dim).
    pub(super) gates: Shared<f32>,
    /// What a block needs between its phases, rows of any length.
    pub(super) work: Shared<f32>,
    pub(super) work_2: Shared<f32>,
    pub(super) work_3: Shared<f32>,
    pub(super) attention: AttentionBuffers,
    /// (n_batch, n_ff)
    pub(super) h: Shared<f32>,
    /// The same of the chosen experts, (positions, n_ff).
    pub(super) h_experts: Shared<f32>,
    /// Scores of the experts and of the one that all tokens take, (n_batch, n_expert + 1).
    pub(super) router: Shared<f32>,
    pub(super) rotations: Vec<Rotation>,
    /// Cosines and sines of the batch's positions, of all rotations beside each other.
    pub(super) cos: Shared<f32>,
    pub(super) sin: Shared<f32>,
    /// Inputs of a matrix product, rows of any length: in floats, and quantized.
    pub(super) input: Shared<f32>,
    pub(super) input_q: Shared<i8>,
    pub(super) input_z: Shared<i8>,
    pub(super) input_d: Shared<f32>,
    pub(super) input_sum: Shared<i16>,
    /// Quantized inputs of many tokens, in tiles.
    pub(super) input_packed: Shared<u32>,
    /// (n_logits, n_vocab)
    pub(crate) logits: Shared<f32>,
}

/// One of the model's ropes.
#[derive(Debug)]
pub(super) struct Rotation {
    /// Radians a token, of each pair.
    pub(super) frequencies: Vec<f64>,
    /// Factor of cosines and sines.
    pub(super) magnitude: f32,
    /// Where in a row of cosines it begins.
    pub(super) first: usize,
    /// See [`Pairs::Halves`].
    pub(super) halves: bool,
}

/// What the layers need at most.
struct Widest {
    q: usize,
    gates: usize,
    work: usize,
    work_2: usize,
    work_3: usize,
    n_ff: usize,
    n_ff_expert: usize,
    scores: usize,
    /// Rows of `h_experts`.
    positions: usize,
    normed: bool,
    branched: bool,
}

impl Widest {
    fn new(spec: &Spec, n_batch: usize, tile: usize) -> Option<Widest> {
        let mut widest = Widest {
            q: 0,
            gates: 0,
            work: 0,
            work_2: 0,
            work_3: 0,
            n_ff: 0,
            n_ff_expert: 0,
            scores: 0,
            positions: 0,
            normed: spec.layer_inputs.is_some(),
            branched: false,
        };
        if let Some(inputs) = spec.layer_inputs {
            widest.work = inputs.n;
        }
        for layer in &spec.layers {
            widest.normed |= layer.norms.mixer_out.is_some() || layer.norms.mlp_out.is_some();
            if let Some(a) = layer.mixer.attention() {
                widest.add_attention(a)?;
            }
            if let Mixer::Latent(latent) = &layer.mixer {
                let heads = &latent.attention.heads;
                let q = heads.n_head.checked_mul(latent.query_dim())?;
                let compressed = latent.q_rank.unwrap_or(q).checked_next_multiple_of(UNIT)?;
                let results = heads.n_head.checked_mul(latent.v_dim)?;
                widest.work = widest.work.max(compressed.checked_add(heads.head_dim)?).max(results);
                widest.work_2 = widest.work_2.max(if latent.q_rank.is_some() { q } else { 0 });
            }
            if let Mixer::ShortConv(conv) = &layer.mixer {
                widest.work = widest.work.max(conv.channels.checked_mul(3)?.checked_next_multiple_of(UNIT)?);
                widest.work_2 = widest.work_2.max(conv.channels);
            }
            if let Mixer::StateSpace(s) | Mixer::Both(_, s) = &layer.mixer {
                widest.work = widest.work.max(s.inputs().checked_next_multiple_of(UNIT)?);
                widest.work_2 = widest.work_2.max(s.channels);
                widest.work_3 = widest.work_3.max(s.selected().checked_next_multiple_of(UNIT)?);
            }
            if let Mixer::DeltaNet(d) = &layer.mixer {
                widest.add_delta_net(d)?;
            }
            match &layer.mlp {
                Mlp::Nothing => {}
                Mlp::Dense(dense) => widest.n_ff = widest.n_ff.max(dense.n_ff),
                Mlp::Experts(e) => widest.add_experts(e, n_batch, tile)?,
                Mlp::Both(both) => {
                    (widest.normed, widest.branched) = (true, true);
                    widest.n_ff = widest.n_ff.max(both.dense.n_ff);
                    widest.add_experts(&both.experts, n_batch, tile)?;
                }
            }
        }
        Some(widest)
    }

    fn add_delta_net(&mut self, d: &DeltaNet) -> Option<()> {
        let heads = d.n_head.checked_next_multiple_of(UNIT)?;
        let others = match d.kind {
            // z, and of each head two numbers more, in one matrix or in two
            DeltaNetKind::Neighbours | DeltaNetKind::Strided => {
                d.values().checked_add(heads.checked_mul(2)?)?
            }
            // b, and what a and z are made of
            DeltaNetKind::Fine => heads.checked_add(2 * d.head_dim)?,
        };
        self.work = self.work.max(d.conv_channels().checked_add(others)?);
        self.work_2 = self.work_2.max(d.values());
        self.work_3 = self.work_3.max(2 * d.keys());
        Some(())
    }

    fn add_experts(&mut self, e: &Experts, n_batch: usize, tile: usize) -> Option<()> {
        self.n_ff = self.n_ff.max(e.shared.map_or(0, |(dense, _)| dense.n_ff));
        self.n_ff_expert = self.n_ff_expert.max(e.expert.n_ff);
        self.scores = self.scores.max(e.n_expert + 1);
        self.work = self.work.max(e.latent.unwrap_or(0).checked_next_multiple_of(UNIT)?);
        self.work_2 = self.work_2.max(e.latent.unwrap_or(0));
        // each expert's tokens are whole tiles
        let filled = e.n_expert.checked_mul(tile - 1)?;
        self.positions = self.positions.max(n_batch.checked_mul(e.n_used)?.checked_add(filled)?);
        Some(())
    }

    fn add_attention(&mut self, a: &Attention) -> Option<()> {
        let q = a.heads.n_head.checked_mul(a.heads.head_dim)?;
        self.q = self.q.max(q);
        if a.gated {
            self.gates = self.gates.max(q.checked_next_multiple_of(UNIT)?);
        }
        if a.qk_norm.is_some_and(|norm| norm.place == NormPlace::Token) {
            self.work = self.work.max(q.checked_add(a.heads.n_head_kv.checked_mul(a.heads.head_dim)?)?);
        }
        Some(())
    }
}

/// What matrix products take of their inputs.
#[derive(Debug, Clone, Copy)]
pub struct Operands {
    pub(super) packing: Option<&'static Packing>,
    /// Values in the longest row.
    pub(super) row_len: usize,
    /// Whether some are in floats, and some quantized row by row.
    floats: bool,
    q8: bool,
}

impl Operands {
    /// Of some matrices: the kernel of each, and values in a row.
    pub fn new(kernels: Kernels, matrices: impl Iterator<Item = (MatMul, usize)>) -> Operands {
        let mut all = Operands { packing: kernels.packing(), row_len: 0, floats: false, q8: false };
        for (matmul, cols) in matrices {
            all.row_len = all.row_len.max(cols);
            let packs = matmul.packing().is_some();
            all.floats |= !matmul.takes_q8() && !packs;
            all.q8 |= matmul.takes_q8() && !packs;
        }
        all
    }
}

impl Buffers {
    /// Room for batches of `room.chunk` tokens, `n_logits` of which may ask for logits at a time. `None` if there is not
    /// that much memory.
    pub fn new(
        allocator: &Allocator<'_>,
        spec: &Spec,
        operands: &Operands,
        room: Room,
        n_logits: usize,
    ) -> Option<Buffers> {
        let Room { n_seq, n_ctx, chunk: n_batch, .. } = room;
        let packing = operands.packing;
        let tokens = input_tokens(packing);
        let widest = Widest::new(spec, n_batch, tokens)?;
        let tiles = n_batch.div_ceil(tokens);
        // the most values of all inputs, those of experts being more rows
        let widest_row = operands.row_len.max(spec.n_embd).next_multiple_of(BLOCK);
        let expert_row = match widest.positions {
            0 => 0,
            _ => spec.n_embd.max(widest.n_ff_expert).next_multiple_of(BLOCK),
        };
        let expert_tiles = widest.positions.div_ceil(tokens);
        // of each form only what some matrix takes
        let values = |needed: bool| match needed {
            true => {
                let rows = tiles.checked_mul(tokens)?.checked_mul(widest_row)?;
                Some(rows.max(expert_tiles.checked_mul(tokens)?.checked_mul(expert_row)?))
            }
            false => Some(0),
        };
        let floats = values(operands.floats)?;
        let q8 = values(operands.q8)?;
        let words = match packing {
            None => 0,
            Some(packing) => {
                let rows = tiles.checked_mul(packing.words(widest_row))?;
                rows.max(expert_tiles.checked_mul(packing.words(expert_row))?)
            }
        };
        let rotations = rotations(&spec.ropes, n_ctx);
        let n_pairs = rotations.iter().map(|rotation| rotation.frequencies.len()).sum();
        let large = |row_len: usize| allocator.zeroed_in_large_pages(n_batch, row_len);
        Some(Buffers {
            x: large(spec.n_embd)?,
            y: large(if widest.normed { spec.n_embd } else { 0 })?,
            branches: large(if widest.branched { spec.n_embd } else { 0 })?,
            layer_inputs: large(spec.layer_inputs.map_or(Some(0), |i| i.n.checked_mul(spec.layers.len()))?)?,
            q: large(widest.q)?,
            gates: large(widest.gates)?,
            work: large(widest.work)?,
            work_2: large(widest.work_2)?,
            work_3: large(widest.work_3)?,
            attention: AttentionBuffers::new(allocator, spec, n_batch, (n_seq, n_ctx))?,
            h: large(widest.n_ff)?,
            h_experts: allocator.zeroed_in_large_pages(widest.positions, widest.n_ff_expert)?,
            router: allocator.zeroed(n_batch, widest.scores)?,
            rotations,
            cos: allocator.zeroed(n_batch, n_pairs)?,
            sin: allocator.zeroed(n_batch, n_pairs)?,
            input: allocator.zeroed_in_large_pages(floats, 1)?,
            input_q: allocator.zeroed_in_large_pages(q8, 1)?,
            input_z: allocator.zeroed(q8 / BLOCK, 1)?,
            input_d: allocator.zeroed(q8 / BLOCK, 1)?,
            input_sum: allocator.zeroed(q8 / SUM_BLOCK, 1)?,
            input_packed: allocator.zeroed_in_large_pages(words, 1)?,
            logits: allocator.zeroed(n_logits, spec.n_vocab)?,
        })
    }

    /// Values of a token that are in use at a time in the widest layer, for [`crate::session::default_chunk`].
    pub(crate) fn values_a_token(spec: &Spec) -> usize {
        let heads = spec.layers.iter().filter_map(|layer| layer.mixer.attention()).map(|a| &a.heads);
        let attention = heads.map(|h| h.n_head.saturating_mul(h.head_dim.saturating_add(h.head_dim_v)));
        let Some(widest) = Widest::new(spec, PRIVATE_ROWS, 1) else { return usize::MAX };
        let n_ff =
            widest.n_ff.saturating_add(widest.n_ff_expert.saturating_mul(widest.positions / PRIVATE_ROWS));
        let inputs = spec.layer_inputs.map_or(0, |i| i.n.saturating_mul(spec.layers.len()));
        // what is between the matrices is packed besides
        [
            spec.n_embd,
            inputs,
            attention.max().unwrap_or(0),
            n_ff,
            n_ff,
            widest.work,
            widest.work_2,
            widest.work_3,
        ]
        .into_iter()
        .fold(0, usize::saturating_add)
    }
}

/// The model's ropes in a context of `n_ctx` tokens.
fn rotations(ropes: &[Rope], n_ctx: usize) -> Vec<Rotation> {
    let mut first = 0;
    let rotation = |rope: &Rope| {
        let (frequencies, magnitude) = rope.frequencies(n_ctx);
        first += frequencies.len();
        let (start, halves) = (first - frequencies.len(), rope.pairs == Pairs::Halves);
        Rotation { frequencies, magnitude, first: start, halves }
    };
    ropes.iter().map(rotation).collect()
}

impl Buffers {
    /// The cosines and sines of all rotations at a position.
    pub(super) fn rotate(&self, position: usize, cos: &mut [f32], sin: &mut [f32]) {
        for rotation in &self.rotations {
            for (j, frequency) in rotation.frequencies.iter().enumerate() {
                let (s, c) = (frequency * position as f64).sin_cos();
                cos[rotation.first + j] = c as f32 * rotation.magnitude;
                sin[rotation.first + j] = s as f32 * rotation.magnitude;
            }
        }
    }

    /// Where a block's result is summed up, and the factor that it gets there.
    pub(super) fn target(&self, residual: Residual<'_>) -> (&Shared<f32>, f32) {
        if residual.norm.is_some() { (&self.y, 1.0) } else { (&self.x, residual.scale) }
    }
}
