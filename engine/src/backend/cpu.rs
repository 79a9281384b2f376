//! The CPU backend. A team of worker threads runs the whole forward pass together; each operation below is cut into
//! chunks of output rows (or of tokens and heads), which the workers claim, and ends with a barrier.
//!
//! ```text
//! a layer for one token:   qkv + rope + store | attention | output + residual | gate, up, silu | down + residual
//! ```
//!
//! Few tokens: every worker normalizes and quantizes the inputs for itself, which is quicker than to wait for others.
//! Many tokens: that is shared too, at the price of a barrier.

use std::ops::Range;

use braise_kernels::ops::{self, Activation};
use braise_kernels::quant::q8::{BLOCK, Q8Buf, Q8Mat, Q8Row, SUM_BLOCK};
use braise_kernels::sync::{Chunk, Shared, Team, Units, Worker};
use braise_kernels::table::{Acts, F32Mat, MatMul, PackedMat, Packing};

use super::Backend;
use super::attention::{self, AttentionBuffers};
use crate::block::{self, Pairs};
use crate::kv::KvCache;
use crate::model::{LayerWeights, Model, Weight};

/// Up to so many tokens, each worker prepares a matrix product's inputs for itself, and the kernels of single tokens
/// compute them: they have the same logits in one batch as one by one.
pub(crate) const PRIVATE_ROWS: usize = 8;

/// Rows of a weight matrix in a unit of work, where nothing else (a head) decides.
const UNIT: usize = 32;

/// Results of a matrix product that are computed at a time: as many as stay in cache.
const TILE_RESULTS: usize = 64 * 1024;

/// Chunks for each worker: enough to even out what slows one of them down.
const CHUNKS_PER_WORKER: usize = 6;

/// Tokens whose inputs are prepared together, where a packing does not say how many.
const INPUT_TOKENS: usize = 16;

/// Bytes of activations that stay in a core's cache while weights stream past them.
const ACTS_IN_CACHE: usize = 256 * 1024;

/// What the workers share: the values of a batch between operations.
#[derive(Debug)]
pub struct Buffers {
    /// (n_batch, n_embd)
    x: Shared<f32>,
    /// (n_batch, n_head * head_dim)
    q: Shared<f32>,
    attention: AttentionBuffers,
    /// (n_batch, n_ff)
    h: Shared<f32>,
    /// Cosines and sines of the batch's positions, (n_batch, n_dims / 2).
    cos: Shared<f32>,
    sin: Shared<f32>,
    /// Inputs of a matrix product, rows of any length: in floats, and quantized.
    input: Shared<f32>,
    input_q: Shared<i8>,
    input_z: Shared<i8>,
    input_d: Shared<f32>,
    input_sum: Shared<i16>,
    /// Quantized inputs of many tokens, in tiles.
    input_packed: Shared<u32>,
    /// (n_logits, n_vocab)
    pub(crate) logits: Shared<f32>,
}

impl Buffers {
    /// Room for batches of `n_batch` tokens, `n_logits` of which may ask for logits at a time, in a context of `n_ctx`.
    /// `None` if there is not that much memory.
    pub fn new(team: &Team, model: &Model, n_batch: usize, n_logits: usize, n_ctx: usize) -> Option<Buffers> {
        let spec = model.spec();
        let max = |f: fn(&block::Layer) -> usize| spec.layers.iter().map(f).max().unwrap_or(0);
        let q = max(|l| l.attention.n_head * l.attention.head_dim);
        let attn = max(|l| l.attention.n_head * l.attention.head_dim_v);
        let n_ff = max(|l| l.mlp.n_ff);
        let widest = spec.n_embd.max(attn).max(n_ff).next_multiple_of(BLOCK);
        let packing = model.kernels().packing();
        let tokens = input_tokens(packing);
        let tiles = n_batch.div_ceil(tokens);
        // of each form only what some matrix takes
        let room = |needed: fn(&MatMul) -> bool| match model.weights().any(|w| needed(&w.matmul)) {
            true => tiles.checked_mul(tokens)?.checked_mul(widest),
            false => Some(0),
        };
        let floats = room(|matmul| !matmul.takes_q8())?;
        let q8 = room(|matmul| matmul.takes_q8() && matmul.packing().is_none())?;
        let words = packing.map_or(Some(0), |packing| tiles.checked_mul(packing.words(widest)))?;
        Some(Buffers {
            x: Shared::zeroed_in_large_pages(team, n_batch, spec.n_embd)?,
            q: Shared::zeroed_in_large_pages(team, n_batch, q)?,
            attention: AttentionBuffers::new(team, spec, n_batch, n_ctx)?,
            h: Shared::zeroed_in_large_pages(team, n_batch, n_ff)?,
            cos: Shared::zeroed(team, n_batch, spec.rope.n_dims / 2)?,
            sin: Shared::zeroed(team, n_batch, spec.rope.n_dims / 2)?,
            input: Shared::zeroed_in_large_pages(team, floats, 1)?,
            input_q: Shared::zeroed_in_large_pages(team, q8, 1)?,
            input_z: Shared::zeroed(team, q8 / BLOCK, 1)?,
            input_d: Shared::zeroed(team, q8 / BLOCK, 1)?,
            input_sum: Shared::zeroed(team, q8 / SUM_BLOCK, 1)?,
            input_packed: Shared::zeroed_in_large_pages(team, words, 1)?,
            logits: Shared::zeroed(team, n_logits, spec.n_vocab)?,
        })
    }

    /// Bytes of all buffers.
    pub fn bytes(&self) -> usize {
        let floats = [&self.x, &self.q, &self.h, &self.cos, &self.sin, &self.input, &self.input_d];
        let quantized = self.input_q.bytes() + self.input_z.bytes() + self.input_sum.bytes();
        let floats: usize = floats.iter().map(|buffer| buffer.bytes()).sum();
        floats + quantized + self.attention.bytes() + self.input_packed.bytes() + self.logits.bytes()
    }
}

/// Tokens whose inputs are prepared together.
fn input_tokens(packing: Option<&Packing>) -> usize {
    packing.map_or(INPUT_TOKENS, Packing::tile)
}

/// What a worker has for itself.
#[derive(Debug, Default)]
pub struct Scratch {
    inputs: PrivateInputs,
    /// Results of a matrix product, (tokens, rows of the tile), before they go where they belong.
    tile: Vec<f32>,
    tile_2: Vec<f32>,
    attention: ops::Scratch,
}

/// A worker's own inputs of a matrix product of few tokens.
#[derive(Debug, Default)]
struct PrivateInputs {
    /// As floats; of many tokens, only the one that is being prepared.
    f32: Vec<f32>,
    q8: Q8Buf,
}

/// The tokens of one forward pass.
#[derive(Debug, Clone)]
pub struct Batch<'a> {
    /// Their ids.
    pub tokens: &'a [u32],
    /// Position of the first.
    pub first: usize,
    /// Those of them whose logits are asked for.
    pub logits: Range<usize>,
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

/// Where a matrix product's inputs come from.
struct Source<'a> {
    rows: Rows<'a>,
    row_len: usize,
    /// Which rows, counted in `row_len`.
    tokens: Range<usize>,
}

/// The rows of a [`Source`].
enum Rows<'a> {
    /// Those of a shared buffer.
    Plain(&'a Shared<f32>),
    /// The same, normalized with these weights.
    Normalized(&'a Shared<f32>, &'a [f32]),
    /// The results of attention.
    Attention(&'a AttentionBuffers, &'a Batch<'a>, &'a block::Attention),
}

impl Source<'_> {
    /// The values of some tokens, counted from the first of the source; `normalized` gives room for them.
    fn block<'b>(
        &'b self,
        worker: &'b Worker<'_>,
        model: &Model,
        tokens: Range<usize>,
        normalized: &'b mut Vec<f32>,
    ) -> &'b [f32] {
        let (k, n) = (self.row_len, tokens.len());
        let first = self.tokens.start + tokens.start;
        if let Rows::Plain(x) = self.rows {
            return &x.read(worker)[first * k..(first + n) * k];
        }
        if normalized.len() < n * k {
            normalized.resize(n * k, 0.0);
        }
        for (token, y) in (first..first + n).zip(normalized.chunks_exact_mut(k)) {
            self.row(worker, model, token, y);
        }
        &normalized[..n * k]
    }

    /// Writes the values of one token to `y`.
    fn row(&self, worker: &Worker<'_>, model: &Model, token: usize, y: &mut [f32]) {
        let row = token * self.row_len..(token + 1) * self.row_len;
        match self.rows {
            Rows::Plain(x) => y.copy_from_slice(&x.read(worker)[row]),
            Rows::Normalized(x, weight) => {
                model.kernels().rms_norm(&x.read(worker)[row], weight, model.spec().norm_eps, y);
            }
            Rows::Attention(buffers, batch, spec) => buffers.row(worker, model, batch, spec, token, y),
        }
    }
}

/// A matrix product's inputs in all forms; only those that were prepared may be used.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    f32: F32Mat<'a>,
    q8: Q8Mat<'a>,
    packed: Option<PackedMat<'a>>,
}

impl<'a> Inputs<'a> {
    /// Tokens `cols`, row by row, in the form that `matmul` takes.
    fn acts(&self, matmul: &MatMul, cols: Range<usize>) -> Acts<'a> {
        if matmul.takes_q8() {
            let k = self.q8.row_len;
            let part = |unit: usize| cols.start * k / unit..cols.end * k / unit;
            let all = self.q8.all;
            let (z, d) = (&all.z[part(BLOCK)], &all.d[part(BLOCK)]);
            let row = Q8Row { q: &all.q[part(1)], z, d, sum: &all.sum[part(SUM_BLOCK)] };
            Acts::Q8(Q8Mat { row_len: k, all: row })
        } else {
            let k = self.f32.row_len;
            Acts::F32(F32Mat { row_len: k, all: &self.f32.all[cols.start * k..cols.end * k] })
        }
    }
}

/// Cuts `units` into a number of chunks that suits the team.
pub(super) fn chunks(worker: &Worker<'_>, units: usize) -> usize {
    if worker.team_size() == 1 { units.min(1) } else { units.min(CHUNKS_PER_WORKER * worker.team_size()) }
}

/// Which inputs of a matrix product are ready, and where.
#[derive(Debug)]
struct Ready {
    n: usize,
    k: usize,
    /// Whether there are inputs in floats.
    floats: bool,
    /// Whether there are quantized ones, row by row.
    q8: bool,
    /// The matrix product whose packing there is one in, if any.
    packed: Option<MatMul>,
}

impl Ready {
    /// Prepares the inputs that the kernels of `weights` take.
    fn prepare(
        worker: &mut Worker<'_>,
        model: &Model,
        buffers: &Buffers,
        private: &mut PrivateInputs,
        source: &Source<'_>,
        weights: &[&Weight],
    ) -> Ready {
        let (n, k) = (source.tokens.len(), source.row_len);
        let many = n > PRIVATE_ROWS;
        let packs = |w: &Weight| many && w.matmul.packing().is_some();
        let ready = Ready {
            n,
            k,
            floats: weights.iter().any(|w| !w.matmul.takes_q8()),
            q8: weights.iter().any(|w| w.matmul.takes_q8() && !packs(w)),
            packed: weights.iter().find(|w| packs(w)).map(|w| w.matmul),
        };
        if many {
            let of = chunks(worker, n.div_ceil(ready.tokens()));
            while let Some(chunk) = worker.claim(of) {
                ready.prepare_chunk(worker, &chunk, model, buffers, private, source);
            }
            worker.barrier();
        } else {
            if private.f32.len() < PRIVATE_ROWS * k {
                private.f32.resize(PRIVATE_ROWS * k, 0.0);
            }
            if private.q8.len() < PRIVATE_ROWS * k && ready.q8 {
                private.q8 = Q8Buf::new(PRIVATE_ROWS * k);
            }
            for (token, y) in source.tokens.clone().zip(private.f32.chunks_exact_mut(k)) {
                source.row(worker, model, token, y);
            }
            if ready.q8 {
                let (q, z, d, sum) = private.q8.parts(n * k);
                model.kernels().quantize_q8(&private.f32[..n * k], q, z, d, sum);
            }
        }
        ready
    }

    /// Tokens that are prepared together.
    fn tokens(&self) -> usize {
        input_tokens(self.packed.as_ref().and_then(MatMul::packing))
    }

    /// Prepares some tiles of tokens.
    fn prepare_chunk(
        &self,
        worker: &Worker<'_>,
        chunk: &Chunk<'_>,
        model: &Model,
        buffers: &Buffers,
        private: &mut PrivateInputs,
        source: &Source<'_>,
    ) {
        let &Ready { n, k, floats, q8, packed } = self;
        let tokens = self.tokens();
        let units = |unit: usize| Units::all(n.div_ceil(tokens), unit);
        let rows = |unit: usize| units(tokens * k / unit);
        let f32 = if floats { buffers.input.rows(chunk, rows(1)) } else { &mut [] };
        let (q, z, d, sum) = if q8 {
            let (q, z) = (buffers.input_q.rows(chunk, rows(1)), buffers.input_z.rows(chunk, rows(BLOCK)));
            (q, z, buffers.input_d.rows(chunk, rows(BLOCK)), buffers.input_sum.rows(chunk, rows(SUM_BLOCK)))
        } else {
            (&mut [][..], &mut [][..], &mut [][..], &mut [][..])
        };
        let mut tiles = packed.map(|matmul| {
            let words = matmul.packing().map_or(0, |packing| packing.words(k));
            (matmul, buffers.input_packed.rows(chunk, units(words)).chunks_exact_mut(words))
        });
        let range = chunk.range(n.div_ceil(tokens));
        for (i, first) in range.map(|tile| tile * tokens).enumerate() {
            let tokens_here = first..n.min(first + tokens);
            let x = source.block(worker, model, tokens_here.clone(), &mut private.f32);
            let at = |unit: usize| i * tokens * k / unit..(i * tokens + tokens_here.len()) * k / unit;
            if floats {
                f32[at(1)].copy_from_slice(x);
            }
            if q8 {
                let (z, d) = (&mut z[at(BLOCK)], &mut d[at(BLOCK)]);
                model.kernels().quantize_q8(x, &mut q[at(1)], z, d, &mut sum[at(SUM_BLOCK)]);
            }
            if let Some((matmul, tiles)) = &mut tiles {
                matmul.pack(x, k, tiles.next().expect("a tile for each run of tokens"));
            }
        }
    }

    /// The inputs.
    fn read<'b>(
        &self,
        worker: &'b Worker<'_>,
        buffers: &'b Buffers,
        private: &'b PrivateInputs,
    ) -> Inputs<'b> {
        let &Ready { n, k, floats, q8, packed } = self;
        let many = n > PRIVATE_ROWS;
        let f32 = match floats {
            true if many => &buffers.input.read(worker)[..n * k],
            true => &private.f32[..n * k],
            false => &[],
        };
        let row = match q8 {
            true if many => Q8Row {
                q: &buffers.input_q.read(worker)[..n * k],
                z: &buffers.input_z.read(worker)[..n * k / BLOCK],
                d: &buffers.input_d.read(worker)[..n * k / BLOCK],
                sum: &buffers.input_sum.read(worker)[..n * k / SUM_BLOCK],
            },
            true => private.q8.row(n * k),
            false => Q8Row::default(),
        };
        let packed = packed.and_then(|matmul| matmul.packing()).map(|packing| {
            let tiles = &buffers.input_packed.read(worker)[..n.div_ceil(packing.tile()) * packing.words(k)];
            PackedMat { row_len: k, cols: n, tiles }
        });
        Inputs { f32: F32Mat { row_len: k, all: f32 }, q8: Q8Mat { row_len: k, all: row }, packed }
    }
}

/// `tile[t, r] = ` row `rows.start + r` of `weight` times token t, times the scale, plus the bias.
fn multiply(
    model: &Model,
    weight: &Weight,
    rows: Range<usize>,
    inputs: Inputs<'_>,
    n: usize,
    tile: &mut Vec<f32>,
) {
    tile.resize(n * rows.len(), 0.0);
    let bytes = weight.row_bytes();
    let w = &model.data(weight)[rows.start * bytes..rows.end * bytes];
    let packed = inputs.packed.filter(|_| weight.matmul.packing().is_some());
    if let Some(packed) = packed {
        weight.matmul.call(w, Acts::Packed(packed), tile);
    } else {
        let step = (ACTS_IN_CACHE / weight.cols()).max(1).next_multiple_of(8);
        for first in (0..n).step_by(step) {
            let cols = first..n.min(first + step);
            let y = &mut tile[cols.start * rows.len()..cols.end * rows.len()];
            weight.matmul.call(w, inputs.acts(&weight.matmul, cols), y);
        }
    }
    if let Some(scale) = weight.scale {
        tile.iter_mut().for_each(|y| *y *= scale);
    }
    if let Some(bias) = &weight.bias {
        for y in tile.chunks_exact_mut(rows.len()) {
            model.kernels().add(&bias[rows.clone()], y);
        }
    }
}

/// Pieces of some rows, which suit `n` tokens.
fn tiles(rows: Range<usize>, n: usize) -> impl Iterator<Item = Range<usize>> {
    let step = (TILE_RESULTS / n.max(1)).clamp(64, 1024);
    rows.clone().step_by(step).map(move |start| start..rows.end.min(start + step))
}

impl CpuWorker<'_, '_> {
    /// `x += weight(source)`.
    fn add_product(&mut self, weight: &Weight, rows: Rows<'_>) {
        let n = self.batch.tokens.len();
        let source = Source { rows, row_len: weight.cols(), tokens: 0..n };
        let s = &mut *self.scratch;
        let ready = Ready::prepare(self.worker, self.model, self.buffers, &mut s.inputs, &source, &[weight]);
        let inputs = ready.read(self.worker, self.buffers, &s.inputs);
        let units = Units::all(weight.rows().div_ceil(UNIT), UNIT);
        let of = chunks(self.worker, units.total);
        while let Some(chunk) = self.worker.claim(of) {
            let mut x = self.buffers.x.columns(&chunk, units);
            let all = x.range();
            for rows in tiles(all.clone(), n) {
                multiply(self.model, weight, rows.clone(), inputs, n, &mut s.tile);
                for (t, y) in s.tile.chunks_exact(rows.len()).enumerate() {
                    let x = &mut x.row(t)[rows.start - all.start..rows.end - all.start];
                    self.model.kernels().add(y, x);
                }
            }
        }
        self.worker.barrier();
    }
}

impl Backend for CpuWorker<'_, '_> {
    fn embed(&mut self, table: &Weight) {
        let n = self.batch.tokens.len();
        let (frequencies, magnitude) = self.model.spec().rope.frequencies();
        let scalar = table.matmul.weights().scalar().expect("a kernel has a scalar version");
        let bytes = table.row_bytes();
        let of = chunks(self.worker, n);
        while let Some(chunk) = self.worker.claim(of) {
            let units = Units::all(n, 1);
            let x = self.buffers.x.rows(&chunk, units);
            let cos = self.buffers.cos.rows(&chunk, units);
            let sin = self.buffers.sin.rows(&chunk, units);
            let half = frequencies.len();
            for (i, t) in chunk.range(n).enumerate() {
                let row = self.batch.tokens[t] as usize * bytes;
                let x = &mut x[i * table.cols()..(i + 1) * table.cols()];
                (scalar.dequantize)(&self.model.data(table)[row..row + bytes], x);
                for (j, frequency) in frequencies.iter().enumerate() {
                    let (s, c) = (frequency * (self.batch.first + t) as f64).sin_cos();
                    cos[i * half + j] = c as f32 * magnitude;
                    sin[i * half + j] = s as f32 * magnitude;
                }
            }
        }
        self.worker.barrier();
    }

    fn qkv(&mut self, layer: usize, spec: &block::Attention, weights: &LayerWeights) {
        let n = self.batch.tokens.len();
        let LayerWeights { q, k, v, .. } = weights;
        let rows = Rows::Normalized(&self.buffers.x, &weights.attn_norm);
        let source = Source { rows, row_len: q.cols(), tokens: 0..n };
        let s = &mut *self.scratch;
        let ready = Ready::prepare(self.worker, self.model, self.buffers, &mut s.inputs, &source, &[q, k, v]);
        let inputs = ready.read(self.worker, self.buffers, &s.inputs);

        let (cos, sin) = (self.buffers.cos.read(self.worker), self.buffers.sin.read(self.worker));
        let (half, halves) = (self.buffers.cos.row_len(), self.model.spec().rope.pairs == Pairs::Halves);
        let rotate = |t: usize, head: &mut [f32]| {
            let at = t * half..(t + 1) * half;
            self.model.kernels().rope(head, &cos[at.clone()], &sin[at], halves);
        };
        let (d_k, d_v) = (spec.head_dim, spec.head_dim_v);
        // a unit is a head: first those of the queries, then of the keys, then of the values
        let total = spec.n_head + 2 * spec.n_head_kv;
        let heads = |offset: usize, unit: usize| Units { total, offset, unit };
        let of = chunks(self.worker, total);
        while let Some(chunk) = self.worker.claim(of) {
            let mut queries = self.buffers.q.columns(&chunk, heads(0, d_k));
            let mut keys = self.kv.keys(layer, &chunk, heads(spec.n_head, 1));
            let mut values = self.kv.values(layer, &chunk, heads(spec.n_head + spec.n_head_kv, 1));
            let first_query = queries.range().start;
            for head in chunk.range(total) {
                if head < spec.n_head {
                    multiply(self.model, q, head * d_k..(head + 1) * d_k, inputs, n, &mut s.tile);
                    for (t, y) in s.tile.chunks_exact_mut(d_k).enumerate() {
                        rotate(t, y);
                        queries.row(t)[head * d_k - first_query..][..d_k].copy_from_slice(y);
                    }
                } else if head < spec.n_head + spec.n_head_kv {
                    let head = head - spec.n_head;
                    multiply(self.model, k, head * d_k..(head + 1) * d_k, inputs, n, &mut s.tile);
                    for (t, y) in s.tile.chunks_exact_mut(d_k).enumerate() {
                        rotate(t, y);
                    }
                    keys.store_keys(self.batch.first, &s.tile);
                } else {
                    let head = head - spec.n_head - spec.n_head_kv;
                    multiply(self.model, v, head * d_v..(head + 1) * d_v, inputs, n, &mut s.tile);
                    values.store_values(self.batch.first, &s.tile);
                }
            }
        }
        self.worker.barrier();
    }

    fn attend(&mut self, layer: usize, spec: &block::Attention) {
        let (q, kv) = (&self.buffers.q, self.kv);
        let (buffers, scratch) = (&self.buffers.attention, &mut self.scratch.attention);
        attention::attend(self.worker, self.model, &self.batch, (layer, spec), (q, kv), buffers, scratch);
    }

    fn attn_output(&mut self, spec: &block::Attention, weights: &LayerWeights) {
        let (buffers, batch) = (self.buffers, self.batch.clone());
        self.add_product(&weights.attn_output, Rows::Attention(&buffers.attention, &batch, spec));
    }

    fn gate_up(&mut self, spec: &block::Mlp, weights: &LayerWeights) {
        let n = self.batch.tokens.len();
        let LayerWeights { gate, up, .. } = weights;
        let rows = Rows::Normalized(&self.buffers.x, &weights.ffn_norm);
        let source = Source { rows, row_len: gate.cols(), tokens: 0..n };
        let s = &mut *self.scratch;
        let ready =
            Ready::prepare(self.worker, self.model, self.buffers, &mut s.inputs, &source, &[gate, up]);
        let inputs = ready.read(self.worker, self.buffers, &s.inputs);
        let units = Units::all(spec.n_ff.div_ceil(UNIT), UNIT);
        let of = chunks(self.worker, units.total);
        while let Some(chunk) = self.worker.claim(of) {
            let mut h = self.buffers.h.columns(&chunk, units);
            let all = h.range();
            for rows in tiles(all.clone(), n) {
                multiply(self.model, gate, rows.clone(), inputs, n, &mut s.tile);
                multiply(self.model, up, rows.clone(), inputs, n, &mut s.tile_2);
                let pairs = s.tile.chunks_exact(rows.len()).zip(s.tile_2.chunks_exact(rows.len()));
                for (t, (gate, up)) in pairs.enumerate() {
                    let h = &mut h.row(t)[rows.start - all.start..rows.end - all.start];
                    self.model.kernels().gated(Activation::Silu, gate, up, h);
                }
            }
        }
        self.worker.barrier();
    }

    fn down(&mut self, _: &block::Mlp, weights: &LayerWeights) {
        let buffers = self.buffers;
        self.add_product(&weights.down, Rows::Plain(&buffers.h));
    }

    fn logits(&mut self, norm: &[f32], output: &Weight) {
        let tokens = self.batch.logits.clone();
        let n = tokens.len();
        let rows = Rows::Normalized(&self.buffers.x, norm);
        let source = Source { rows, row_len: output.cols(), tokens };
        let s = &mut *self.scratch;
        let ready = Ready::prepare(self.worker, self.model, self.buffers, &mut s.inputs, &source, &[output]);
        let inputs = ready.read(self.worker, self.buffers, &s.inputs);
        let units = Units::all(output.rows().div_ceil(UNIT), UNIT);
        let of = chunks(self.worker, units.total);
        while let Some(chunk) = self.worker.claim(of) {
            let mut logits = self.buffers.logits.columns(&chunk, units);
            let all = logits.range();
            for rows in tiles(all.clone(), n) {
                multiply(self.model, output, rows.clone(), inputs, n, &mut s.tile);
                for (t, y) in s.tile.chunks_exact(rows.len()).enumerate() {
                    logits.row(t)[rows.start - all.start..rows.end - all.start].copy_from_slice(y);
                }
            }
        }
        self.worker.barrier();
    }
}
