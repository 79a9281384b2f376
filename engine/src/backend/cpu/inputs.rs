//! The inputs of matrix products, in the forms that kernels take, and the products.
//!
//! Few tokens: every worker normalizes and quantizes the inputs for itself, which is quicker than to wait for others.
//! Many tokens: that is shared too, at the price of a barrier.

use std::ops::Range;

use braise_kernels::quant::q8::{BLOCK, Q8Buf, Q8Mat, Q8Row, SUM_BLOCK};
use braise_kernels::sync::{Chunk, Shared, Units, Worker};
use braise_kernels::table::{Acts, F32Mat, Kernels, MatMul, PackedMat};

use super::attention::Results;
use super::{Buffers, Operands, PRIVATE_ROWS, chunks, input_tokens};
use crate::block::NormKind;
use crate::model::{Model, NormWeights, Weight};

/// Bytes of activations that stay in a core's cache while weights stream past them.
const ACTS_IN_CACHE: usize = 256 * 1024;

/// Where a matrix product's inputs come from.
pub(super) struct Source<'a> {
    pub(super) rows: Rows<'a>,
    pub(super) row_len: usize,
    /// Which rows.
    pub(super) tokens: Range<usize>,
}

/// The rows of a [`Source`].
#[derive(Clone, Copy)]
pub(super) enum Rows<'a> {
    /// Those of a shared buffer.
    Values(Values<'a>),
    /// The results of attention, all heads.
    Attention(&'a Results<'a>),
    /// The results of attention, one head.
    Head(&'a Results<'a>, usize),
}

/// Rows of a shared buffer, or parts of them.
#[derive(Clone, Copy)]
pub(super) struct Values<'a> {
    pub(super) buffer: &'a Shared<f32>,
    /// Where in a row of the buffer they begin.
    pub(super) first: usize,
    /// How they are normalized, if they are.
    pub(super) norm: Option<&'a NormWeights>,
    /// Which rows of the buffer they are, in this order; [`NOBODY`] is none. `None`: all.
    pub(super) order: Option<&'a [u32]>,
}

/// In place of a token, where a tile is filled up.
pub(super) const NOBODY: u32 = u32::MAX;

impl<'a> Values<'a> {
    /// The rows of a buffer as they are.
    pub(super) fn of(buffer: &'a Shared<f32>) -> Values<'a> {
        Values { buffer, first: 0, norm: None, order: None }
    }
}

impl Source<'_> {
    /// The values of some tokens, counted from the first of the source; `room` gives room for them.
    fn block<'b>(
        &'b self,
        worker: &'b Worker<'_>,
        model: &Model,
        tokens: Range<usize>,
        room: &'b mut Vec<f32>,
    ) -> &'b [f32] {
        let (k, n) = (self.row_len, tokens.len());
        let first = self.tokens.start + tokens.start;
        if let Rows::Values(Values { buffer, first: 0, norm: None, order: None }) = self.rows
            && buffer.row_len() == k
        {
            return &buffer.read(worker)[first * k..(first + n) * k];
        }
        if room.len() < n * k {
            room.resize(n * k, 0.0);
        }
        for (token, y) in (first..first + n).zip(room.chunks_exact_mut(k)) {
            self.row(worker, model, token, y);
        }
        &room[..n * k]
    }

    /// Writes the values of one token to `y`.
    fn row(&self, worker: &Worker<'_>, model: &Model, token: usize, y: &mut [f32]) {
        match self.rows {
            Rows::Values(Values { buffer, first, norm, order }) => {
                let row = order.map_or(token, |order| order[token] as usize);
                if row == NOBODY as usize {
                    return y.fill(0.0);
                }
                let x = &buffer.read(worker)[row * buffer.row_len() + first..][..y.len()];
                match norm {
                    Some(norm) => normalize(model.kernels(), norm, x, y),
                    None => y.copy_from_slice(x),
                }
            }
            Rows::Attention(results) => results.row(worker, model, token, y),
            Rows::Head(results, head) => results.head(worker, model, token, head, y),
        }
    }
}

/// `y = ` the normalized `x`.
pub(crate) fn normalize(kernels: Kernels, norm: &NormWeights, x: &[f32], y: &mut [f32]) {
    match norm.kind {
        NormKind::Rms => {
            kernels.rms_norm(x, &norm.weight, norm.eps, y);
            if !norm.bias.is_empty() {
                kernels.add(&norm.bias, y);
            }
        }
        NormKind::Layer => kernels.layer_norm(x, &norm.weight, &norm.bias, norm.eps, y),
    }
}

/// A worker's own inputs of a matrix product of few tokens.
#[derive(Debug, Default)]
pub(super) struct PrivateInputs {
    /// As floats; of many tokens, only the one that is being prepared.
    f32: Vec<f32>,
    q8: Q8Buf,
    /// Of many tokens, in tiles.
    packed: Vec<u32>,
}

impl PrivateInputs {
    /// About so many bytes they have after batches of `n` tokens.
    pub(super) fn bytes(operands: &Operands, n: usize) -> usize {
        let tokens = n.min(input_tokens(operands.packing)).max(PRIVATE_ROWS);
        // as floats, and a code and a share of scale, zero point and sums
        tokens.saturating_mul(operands.row_len).saturating_mul(size_of::<f32>() + 2)
    }
}

/// A matrix product's inputs in all forms; only those that were prepared may be used.
#[derive(Clone, Copy)]
pub(super) struct Inputs<'a> {
    f32: F32Mat<'a>,
    q8: Q8Mat<'a>,
    packed: Option<PackedMat<'a>>,
    /// Rows of a tile, and its 32-bit words.
    tile: (usize, usize),
}

impl<'a> Inputs<'a> {
    /// Tokens `cols`, row by row, in the form that `matmul` takes.
    fn acts(&self, matmul: &MatMul, cols: Range<usize>) -> Acts<'a> {
        if matmul.takes_q8() {
            Acts::Q8(self.q8_rows(cols))
        } else {
            let k = self.f32.row_len;
            Acts::F32(F32Mat { row_len: k, all: &self.f32.all[cols.start * k..cols.end * k] })
        }
    }

    fn q8_rows(&self, cols: Range<usize>) -> Q8Mat<'a> {
        let k = self.q8.row_len;
        let part = |unit: usize| cols.start * k / unit..cols.end * k / unit;
        let all = self.q8.all;
        let (z, d) = (&all.z[part(BLOCK)], &all.d[part(BLOCK)]);
        let row = Q8Row { q: &all.q[part(1)], z, d, sum: &all.sum[part(SUM_BLOCK)] };
        Q8Mat { row_len: k, all: row }
    }

    /// Those of some tokens, the first of which begins a tile if there are tiles.
    pub(super) fn part(&self, tokens: Range<usize>) -> Inputs<'a> {
        let mut part = *self;
        let k = self.f32.row_len;
        if !self.f32.all.is_empty() {
            part.f32.all = &self.f32.all[tokens.start * k..tokens.end * k];
        }
        if !self.q8.all.q.is_empty() {
            part.q8 = self.q8_rows(tokens.clone());
        }
        part.packed = self.packed.map(|packed| {
            let (rows, words) = self.tile;
            let tiles = tokens.start / rows * words..tokens.end.div_ceil(rows) * words;
            PackedMat { row_len: packed.row_len, cols: tokens.len(), tiles: &packed.tiles[tiles] }
        });
        part
    }
}

/// Which inputs of a matrix product are ready, and where.
#[derive(Debug)]
pub(super) struct Ready {
    n: usize,
    k: usize,
    /// Whether the workers share them.
    shared: bool,
    /// Whether there are inputs in floats.
    floats: bool,
    /// Whether there are quantized ones, row by row.
    q8: bool,
    /// The matrix product whose packing there is one in, if any.
    packed: Option<MatMul>,
}

impl Ready {
    /// Prepares the inputs that the kernels of `weights` take: together, if they are many.
    pub(super) fn prepare(
        worker: &mut Worker<'_>,
        model: &Model,
        buffers: &Buffers,
        private: &mut PrivateInputs,
        source: &Source<'_>,
        weights: &[&Weight],
    ) -> Ready {
        if source.tokens.len() <= PRIVATE_ROWS {
            return Ready::prepare_alone(worker, model, private, source, weights);
        }
        let packs = |w: &&&Weight| w.matmul.packing().is_some();
        let ready = Ready {
            n: source.tokens.len(),
            k: source.row_len,
            shared: true,
            floats: weights.iter().any(|w| !w.matmul.takes_q8() && !packs(&w)),
            q8: weights.iter().any(|w| w.matmul.takes_q8() && !packs(&w)),
            packed: weights.iter().find(packs).map(|w| w.matmul),
        };
        let of = chunks(worker, ready.n.div_ceil(ready.tokens()));
        while let Some(chunk) = worker.claim(of) {
            ready.prepare_chunk(worker, &chunk, model, buffers, private, source);
        }
        worker.barrier();
        ready
    }

    /// Prepares them for this worker alone.
    pub(super) fn prepare_alone(
        worker: &Worker<'_>,
        model: &Model,
        private: &mut PrivateInputs,
        source: &Source<'_>,
        weights: &[&Weight],
    ) -> Ready {
        let (n, k) = (source.tokens.len(), source.row_len);
        let ready = Ready {
            n,
            k,
            shared: false,
            floats: weights.iter().any(|w| !w.matmul.takes_q8()),
            q8: weights.iter().any(|w| w.matmul.takes_q8()),
            packed: None,
        };
        let room = n.max(PRIVATE_ROWS) * k;
        if private.f32.len() < room {
            private.f32.resize(room, 0.0);
        }
        if private.q8.len() < room && ready.q8 {
            private.q8 = Q8Buf::new(room);
        }
        for (token, y) in source.tokens.clone().zip(private.f32.chunks_exact_mut(k)) {
            source.row(worker, model, token, y);
        }
        if ready.q8 {
            let (q, z, d, sum) = private.q8.parts(n * k);
            model.kernels().quantize_q8(&private.f32[..n * k], q, z, d, sum);
        }
        ready
    }

    /// Prepares the inputs of `weight` for this worker alone, where each worker multiplies something else, such as a
    /// head: many of them in tiles.
    pub(super) fn prepare_own(
        worker: &Worker<'_>,
        model: &Model,
        private: &mut PrivateInputs,
        source: &Source<'_>,
        weight: &Weight,
    ) -> Ready {
        let (n, k) = (source.tokens.len(), source.row_len);
        let Some(packing) = weight.matmul.packing().filter(|_| n > PRIVATE_ROWS) else {
            return Ready::prepare_alone(worker, model, private, source, &[weight]);
        };
        let (tile, words) = (packing.tile(), packing.words(k));
        let PrivateInputs { f32, packed, .. } = private;
        packed.resize(packed.len().max(n.div_ceil(tile) * words), 0);
        for (first, tiles) in (0..n).step_by(tile).zip(packed.chunks_exact_mut(words)) {
            let x = source.block(worker, model, first..n.min(first + tile), f32);
            weight.matmul.pack(x, k, tiles);
        }
        Ready { n, k, shared: false, floats: false, q8: false, packed: Some(weight.matmul) }
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
        let &Ready { n, k, floats, q8, packed, .. } = self;
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
    pub(super) fn read<'b>(
        &self,
        worker: &'b Worker<'_>,
        buffers: &'b Buffers,
        private: &'b PrivateInputs,
    ) -> Inputs<'b> {
        let &Ready { n, k, shared, floats, q8, packed } = self;
        let f32 = match floats {
            true if shared => &buffers.input.read(worker)[..n * k],
            true => &private.f32[..n * k],
            false => &[],
        };
        let row = match q8 {
            true if shared => Q8Row {
                q: &buffers.input_q.read(worker)[..n * k],
                z: &buffers.input_z.read(worker)[..n * k / BLOCK],
                d: &buffers.input_d.read(worker)[..n * k / BLOCK],
                sum: &buffers.input_sum.read(worker)[..n * k / SUM_BLOCK],
            },
            true => private.q8.row(n * k),
            false => Q8Row::default(),
        };
        let packing = packed.and_then(|matmul| matmul.packing());
        let tile = packing.map_or((1, 0), |packing| (packing.tile(), packing.words(k)));
        let packed = packing.map(|_| {
            let all = if shared { buffers.input_packed.read(worker) } else { &private.packed };
            let tiles = &all[..n.div_ceil(tile.0) * tile.1];
            PackedMat { row_len: k, cols: n, tiles }
        });
        Inputs { f32: F32Mat { row_len: k, all: f32 }, q8: Q8Mat { row_len: k, all: row }, packed, tile }
    }
}

/// `tile[t, r] = ` row `rows.start + r` of `weight` times token t, times the scale, plus the bias.
pub(super) fn multiply(
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
    if let Some(scale) = weight.scale_of(&rows) {
        tile.iter_mut().for_each(|y| *y *= scale);
    }
    if let Some(bias) = &weight.bias {
        for y in tile.chunks_exact_mut(rows.len()) {
            model.kernels().add(&bias[rows.clone()], y);
        }
    }
}
