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

use braise_kernels::ops::{Attention, KEY_BLOCK, ROWS};
use braise_kernels::quant::packed::{PackedMat, TILE, pack, tile_words};
use braise_kernels::quant::q8::{BLOCK, Q8Buf, Q8Mat, Q8Row, SUM_BLOCK};
use braise_kernels::sync::{Chunk, Shared, Team, Units, Worker};
use braise_kernels::table::{Acts, F32Mat, MatMul};

use super::Backend;
use crate::block::{self, Pairs, Spec};
use crate::kv::KvCache;
use crate::model::{LayerWeights, Model, Weight};

/// Up to so many tokens, each worker prepares a matrix product's inputs for itself, and the kernels of single tokens
/// compute them: they have the same logits in one batch as one by one.
pub(crate) const PRIVATE_ROWS: usize = 8;

/// Rows of a weight matrix in a unit of work, where nothing else (a head) decides.
const UNIT: usize = 16;

/// Rows of a weight matrix that are multiplied at a time.
const TILE_ROWS: usize = 64;

/// Chunks for each worker: enough to even out what slows one of them down.
const CHUNKS_PER_WORKER: usize = 6;

/// Tokens whose attention is computed together, when there are many.
const ATTENTION_TOKENS: usize = 16;

/// Bytes of activations that stay in a core's cache while weights stream past them.
const ACTS_IN_CACHE: usize = 256 * 1024;

/// What the workers share: the values of a batch between operations.
#[derive(Debug)]
pub struct Buffers {
    /// (n_batch, n_embd)
    x: Shared<f32>,
    /// (n_batch, n_head * head_dim)
    q: Shared<f32>,
    /// (n_batch * n_head_kv, group * head_dim_v)
    attn: Shared<f32>,
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
    /// Room for batches of `n_batch` tokens, `n_logits` of which may ask for logits at a time. `None` if there is not
    /// that much memory.
    pub fn new(team: &Team, spec: &Spec, n_batch: usize, n_logits: usize) -> Option<Buffers> {
        let max = |f: fn(&block::Layer) -> usize| spec.layers.iter().map(f).max().unwrap_or(0);
        let q = max(|l| l.attention.n_head * l.attention.head_dim);
        let attn = max(|l| l.attention.n_head * l.attention.head_dim_v);
        let n_ff = max(|l| l.mlp.n_ff);
        let n_head_kv = max(|l| l.attention.n_head_kv);
        let widest = spec.n_embd.max(attn).max(n_ff).next_multiple_of(BLOCK);
        let n_input = n_batch.checked_next_multiple_of(TILE)?.checked_mul(widest)?;
        Some(Buffers {
            x: Shared::zeroed(team, n_batch, spec.n_embd)?,
            q: Shared::zeroed(team, n_batch, q)?,
            attn: Shared::zeroed(team, n_batch.checked_mul(n_head_kv)?, attn / n_head_kv)?,
            h: Shared::zeroed(team, n_batch, n_ff)?,
            cos: Shared::zeroed(team, n_batch, spec.rope.n_dims / 2)?,
            sin: Shared::zeroed(team, n_batch, spec.rope.n_dims / 2)?,
            input: Shared::zeroed(team, n_input, 1)?,
            input_q: Shared::zeroed(team, n_input, 1)?,
            input_z: Shared::zeroed(team, n_input / BLOCK, 1)?,
            input_d: Shared::zeroed(team, n_input / BLOCK, 1)?,
            input_sum: Shared::zeroed(team, n_input / SUM_BLOCK, 1)?,
            input_packed: Shared::zeroed(
                team,
                (n_input / TILE / widest).checked_mul(tile_words(widest))?,
                1,
            )?,
            logits: Shared::zeroed(team, n_logits, spec.n_vocab)?,
        })
    }

    /// Bytes of all buffers.
    pub fn bytes(&self) -> usize {
        let floats =
            [&self.x, &self.q, &self.attn, &self.h, &self.cos, &self.sin, &self.input, &self.input_d];
        let quantized = self.input_q.bytes() + self.input_z.bytes() + self.input_sum.bytes();
        let floats: usize = floats.iter().map(|buffer| buffer.bytes()).sum();
        floats + quantized + self.input_packed.bytes() + self.logits.bytes()
    }
}

/// What a worker has for itself.
#[derive(Debug, Default)]
pub struct Scratch {
    inputs: PrivateInputs,
    /// Results of a matrix product, (tokens, rows of the tile), before they go where they belong.
    tile: Vec<f32>,
    tile_2: Vec<f32>,
    /// Attention scores of the queries that are computed together.
    scores: Vec<f32>,
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

/// Where a matrix product's inputs come from: rows of a shared buffer, normalized or as they are.
struct Source<'a> {
    rows: &'a Shared<f32>,
    row_len: usize,
    norm: Option<&'a [f32]>,
    /// Which rows, counted in `row_len`.
    tokens: Range<usize>,
}

impl Source<'_> {
    /// Writes the values of one token to `y`.
    fn row(&self, worker: &Worker<'_>, model: &Model, token: usize, y: &mut [f32]) {
        let x = &self.rows.read(worker)[token * self.row_len..(token + 1) * self.row_len];
        match self.norm {
            Some(weight) => model.kernels().rms_norm(x, weight, model.spec().norm_eps, y),
            None => y.copy_from_slice(x),
        }
    }
}

/// A matrix product's inputs in all forms; only those that were prepared may be used.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    f32: F32Mat<'a>,
    q8: Q8Mat<'a>,
    packed: PackedMat<'a>,
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
fn chunks(worker: &Worker<'_>, units: usize) -> usize {
    if worker.team_size() == 1 { units.min(1) } else { units.min(CHUNKS_PER_WORKER * worker.team_size()) }
}

/// Which inputs of a matrix product are ready, and where.
#[derive(Debug, Clone, Copy)]
struct Ready {
    n: usize,
    k: usize,
    /// Whether there are inputs in floats.
    floats: bool,
    /// Whether there are quantized ones, row by row.
    q8: bool,
    /// Whether there are quantized ones, in tiles.
    packed: bool,
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
        let packs = |w: &Weight| many && w.matmul.takes_packed();
        let ready = Ready {
            n,
            k,
            floats: weights.iter().any(|w| !w.matmul.takes_q8()),
            q8: weights.iter().any(|w| w.matmul.takes_q8() && !packs(w)),
            packed: weights.iter().any(|w| packs(w)),
        };
        private.f32.resize(PRIVATE_ROWS * k, 0.0);
        if private.q8.len() < PRIVATE_ROWS * k && (ready.q8 || ready.packed) {
            private.q8 = Q8Buf::new(PRIVATE_ROWS * k);
        }
        if many {
            let of = chunks(worker, n.div_ceil(TILE));
            while let Some(chunk) = worker.claim(of) {
                ready.prepare_chunk(worker, &chunk, model, buffers, private, source);
            }
            worker.barrier();
        } else {
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

    /// Prepares some tiles of tokens.
    fn prepare_chunk(
        self,
        worker: &Worker<'_>,
        chunk: &Chunk<'_>,
        model: &Model,
        buffers: &Buffers,
        private: &mut PrivateInputs,
        source: &Source<'_>,
    ) {
        let Ready { n, k, floats, q8, packed } = self;
        let units = |unit: usize| Units::all(n.div_ceil(TILE), unit);
        let rows = |unit: usize| units(TILE * k / unit);
        let f32 = if floats { buffers.input.rows(chunk, rows(1)) } else { &mut [] };
        let (q, z, d, sum) = if q8 {
            let (q, z) = (buffers.input_q.rows(chunk, rows(1)), buffers.input_z.rows(chunk, rows(BLOCK)));
            (q, z, buffers.input_d.rows(chunk, rows(BLOCK)), buffers.input_sum.rows(chunk, rows(SUM_BLOCK)))
        } else {
            (&mut [][..], &mut [][..], &mut [][..], &mut [][..])
        };
        let words = tile_words(k);
        let tiles = if packed { buffers.input_packed.rows(chunk, units(words)) } else { &mut [] };
        let tokens = chunk.range(n.div_ceil(TILE));
        for (i, token) in (tokens.start * TILE..n.min(tokens.end * TILE)).enumerate() {
            let row = &mut private.f32[..k];
            source.row(worker, model, source.tokens.start + token, row);
            if floats {
                f32[i * k..(i + 1) * k].copy_from_slice(row);
            }
            let at = |unit: usize| i * k / unit..(i + 1) * k / unit;
            if q8 {
                let (z, d) = (&mut z[at(BLOCK)], &mut d[at(BLOCK)]);
                model.kernels().quantize_q8(row, &mut q[at(1)], z, d, &mut sum[at(SUM_BLOCK)]);
            }
            if packed {
                let (q, z, d, sum) = private.q8.parts(k);
                model.kernels().quantize_q8(row, q, z, d, sum);
                pack(private.q8.row(k), i % TILE, &mut tiles[i / TILE * words..][..words]);
            }
        }
    }

    /// The inputs.
    fn read<'b>(
        self,
        worker: &'b Worker<'_>,
        buffers: &'b Buffers,
        private: &'b PrivateInputs,
    ) -> Inputs<'b> {
        let Ready { n, k, floats, q8, packed } = self;
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
        let tiles =
            if packed { &buffers.input_packed.read(worker)[..n.div_ceil(TILE) * tile_words(k)] } else { &[] };
        Inputs {
            f32: F32Mat { row_len: k, all: f32 },
            q8: Q8Mat { row_len: k, all: row },
            packed: PackedMat { row_len: k, cols: n, tiles },
        }
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
    if n > PRIVATE_ROWS && weight.matmul.takes_packed() {
        weight.matmul.call(w, Acts::Packed(inputs.packed), tile);
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

/// Pieces of at most `TILE_ROWS` rows.
fn tiles(rows: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    rows.clone().step_by(TILE_ROWS).map(move |start| start..rows.end.min(start + TILE_ROWS))
}

impl CpuWorker<'_, '_> {
    /// `x += weight(source)`.
    fn add_product(&mut self, weight: &Weight, rows: &Shared<f32>) {
        let n = self.batch.tokens.len();
        let source = Source { rows, row_len: weight.cols(), norm: None, tokens: 0..n };
        let s = &mut *self.scratch;
        let ready = Ready::prepare(self.worker, self.model, self.buffers, &mut s.inputs, &source, &[weight]);
        let inputs = ready.read(self.worker, self.buffers, &s.inputs);
        let units = Units::all(weight.rows().div_ceil(UNIT), UNIT);
        let of = chunks(self.worker, units.total);
        while let Some(chunk) = self.worker.claim(of) {
            let mut x = self.buffers.x.columns(&chunk, units);
            let all = x.range();
            for rows in tiles(all.clone()) {
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
        let norm = Some(&weights.attn_norm[..]);
        let source = Source { rows: &self.buffers.x, row_len: q.cols(), norm, tokens: 0..n };
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
        let n = self.batch.tokens.len();
        let (n_head_kv, group) = (spec.n_head_kv, spec.group());
        // Few tokens: a unit is a head of a token. Many: all heads of some tokens, which read each key together.
        let tokens = if n <= PRIVATE_ROWS { 1 } else { ATTENTION_TOKENS };
        let units = if tokens == 1 {
            Units::all(n * n_head_kv, 1)
        } else {
            Units::all(n.div_ceil(tokens), tokens * n_head_kv)
        };
        let of = if tokens == 1 { chunks(self.worker, units.total) } else { units.total };
        while let Some(chunk) = self.worker.claim(of) {
            let q = self.buffers.q.read(self.worker);
            let rows = units.elements(&chunk, n * n_head_kv);
            let out_all = self.buffers.attn.rows(&chunk, units);
            let heads = if tokens == 1 { rows.clone() } else { rows.start..rows.start + n_head_kv };
            for row in heads {
                let (token, head) = (row / n_head_kv, row % n_head_kv);
                let n_tokens = if tokens == 1 { 1 } else { rows.len() / n_head_kv };
                let n_kv = self.batch.first + token + n_tokens;
                let (k, v) = self.kv.head(layer, self.worker, head, n_kv);
                self.scratch.scores.resize(ROWS * n_kv.next_multiple_of(KEY_BLOCK), 0.0);
                self.model.kernels().attention(Attention {
                    q: &q[token * self.buffers.q.row_len() + head * group * spec.head_dim..],
                    q_stride: self.buffers.q.row_len(),
                    k,
                    v,
                    n_tokens,
                    group,
                    head_dim: spec.head_dim,
                    head_dim_v: spec.head_dim_v,
                    scale: spec.scale,
                    scores: &mut self.scratch.scores,
                    out: &mut out_all[(row - rows.start) * group * spec.head_dim_v..],
                    out_stride: n_head_kv * group * spec.head_dim_v,
                });
            }
        }
        self.worker.barrier();
    }

    fn attn_output(&mut self, weights: &LayerWeights) {
        let buffers = self.buffers;
        self.add_product(&weights.attn_output, &buffers.attn);
    }

    fn gate_up(&mut self, spec: &block::Mlp, weights: &LayerWeights) {
        let n = self.batch.tokens.len();
        let LayerWeights { gate, up, .. } = weights;
        let norm = Some(&weights.ffn_norm[..]);
        let source = Source { rows: &self.buffers.x, row_len: gate.cols(), norm, tokens: 0..n };
        let s = &mut *self.scratch;
        let ready =
            Ready::prepare(self.worker, self.model, self.buffers, &mut s.inputs, &source, &[gate, up]);
        let inputs = ready.read(self.worker, self.buffers, &s.inputs);
        let units = Units::all(spec.n_ff.div_ceil(UNIT), UNIT);
        let of = chunks(self.worker, units.total);
        while let Some(chunk) = self.worker.claim(of) {
            let mut h = self.buffers.h.columns(&chunk, units);
            let all = h.range();
            for rows in tiles(all.clone()) {
                multiply(self.model, gate, rows.clone(), inputs, n, &mut s.tile);
                multiply(self.model, up, rows.clone(), inputs, n, &mut s.tile_2);
                let pairs = s.tile.chunks_exact(rows.len()).zip(s.tile_2.chunks_exact(rows.len()));
                for (t, (gate, up)) in pairs.enumerate() {
                    let h = &mut h.row(t)[rows.start - all.start..rows.end - all.start];
                    self.model.kernels().swiglu(gate, up, h);
                }
            }
        }
        self.worker.barrier();
    }

    fn down(&mut self, _: &block::Mlp, weights: &LayerWeights) {
        let buffers = self.buffers;
        self.add_product(&weights.down, &buffers.h);
    }

    fn logits(&mut self, norm: &[f32], output: &Weight) {
        let tokens = self.batch.logits.clone();
        let n = tokens.len();
        let source = Source { rows: &self.buffers.x, row_len: output.cols(), norm: Some(norm), tokens };
        let s = &mut *self.scratch;
        let ready = Ready::prepare(self.worker, self.model, self.buffers, &mut s.inputs, &source, &[output]);
        let inputs = ready.read(self.worker, self.buffers, &s.inputs);
        let units = Units::all(output.rows().div_ceil(UNIT), UNIT);
        let of = chunks(self.worker, units.total);
        while let Some(chunk) = self.worker.claim(of) {
            let mut logits = self.buffers.logits.columns(&chunk, units);
            let all = logits.range();
            for rows in tiles(all.clone()) {
                multiply(self.model, output, rows.clone(), inputs, n, &mut s.tile);
                for (t, y) in s.tile.chunks_exact(rows.len()).enumerate() {
                    logits.row(t)[rows.start - all.start..rows.end - all.start].copy_from_slice(y);
                }
            }
        }
        self.worker.barrier();
    }
}
