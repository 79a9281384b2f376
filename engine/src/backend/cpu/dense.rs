//! Embedding, feed-forward network, residual sum and logits.

use braise_kernels::sync::{Shared, Units};

use super::inputs::{Ready, Rows, Source, Values, multiply, normalize};
use super::{CpuWorker, UNIT, chunks, tiles};
use crate::backend::{Residual, Target};
use crate::model::{DenseWeights, Model, NormWeights, Weight};

/// How a product joins others of the same block.
#[derive(Clone, Copy)]
pub(super) struct Sum {
    /// Whether there are such products before it.
    pub(super) more: bool,
    /// Column of the router's scores whose sigmoid is the product's factor, if it has one.
    pub(super) factor: Option<usize>,
}

impl Sum {
    /// A block of one product.
    pub(super) const ALONE: Sum = Sum { more: false, factor: None };
}

impl CpuWorker<'_, '_> {
    pub(super) fn embed_tokens(&mut self, model: &Model) {
        let (table, batch, buffers) = (&model.token_embd, &self.batch, self.buffers);
        let n = batch.tokens.len();
        let scale = model.spec().embedding.scale;
        let (n_embd, n_pairs) = (table.cols(), buffers.cos.row_len());
        let of = chunks(self.worker, n);
        while let Some(chunk) = self.worker.claim(of) {
            let units = Units::all(n, 1);
            let x = buffers.x.rows(&chunk, units);
            let cos = buffers.cos.rows(&chunk, units);
            let sin = buffers.sin.rows(&chunk, units);
            for (i, t) in chunk.range(n).enumerate() {
                let (position, x) = (batch.position(t), &mut x[i * n_embd..(i + 1) * n_embd]);
                dequantize_row(model, table, batch.tokens[t] as usize, x);
                if scale != 1.0 {
                    x.iter_mut().for_each(|x| *x *= scale);
                }
                if let Some(positions) = &model.position_embd {
                    let row = &mut self.scratch.tile;
                    row.resize(n_embd, 0.0);
                    dequantize_row(model, positions, position, row);
                    model.kernels().add(row, x);
                }
                if let Some(kind) = &model.kind_embd {
                    model.kernels().add(kind, x);
                }
                for rotation in &buffers.rotations {
                    for (j, frequency) in rotation.frequencies.iter().enumerate() {
                        let (s, c) = (frequency * position as f64).sin_cos();
                        let at = i * n_pairs + rotation.first + j;
                        cos[at] = c as f32 * rotation.magnitude;
                        sin[at] = s as f32 * rotation.magnitude;
                    }
                }
            }
        }
        self.worker.barrier();
    }

    /// `h = f(gate(n)) * up(n)` with `n` the normalized `x`, or `h = f(up(n))`.
    pub(super) fn gate_and_up(&mut self, weights: &DenseWeights, norm: Option<&NormWeights>) {
        let DenseWeights { spec, gate, up, .. } = weights;
        let n = self.batch.tokens.len();
        let rows = Rows::Values(Values { norm, ..Values::of(&self.buffers.x) });
        let source = Source { rows, row_len: up.cols(), tokens: 0..n };
        let s = &mut *self.scratch;
        let both = [up, gate.as_ref().unwrap_or(up)];
        let ready = Ready::prepare(self.worker, self.model, self.buffers, &mut s.inputs, &source, &both);
        let inputs = ready.read(self.worker, self.buffers, &s.inputs);
        let kernels = self.model.kernels();
        let units = Units::all(spec.n_ff.div_ceil(UNIT), UNIT);
        let of = chunks(self.worker, units.total);
        while let Some(chunk) = self.worker.claim(of) {
            let mut h = self.buffers.h.columns(&chunk, units);
            let all = h.range().start..h.range().end.min(spec.n_ff);
            for rows in tiles(all.clone(), n) {
                multiply(self.model, up, rows.clone(), inputs, n, &mut s.tile);
                if let Some(gate) = gate {
                    multiply(self.model, gate, rows.clone(), inputs, n, &mut s.tile_2);
                }
                for (t, up) in s.tile.chunks_exact(rows.len()).enumerate() {
                    let h = &mut h.row(t)[rows.start - all.start..rows.end - all.start];
                    if gate.is_some() {
                        kernels.gated(spec.activation, &s.tile_2[t * rows.len()..][..rows.len()], up, h);
                    } else {
                        h.copy_from_slice(up);
                        kernels.activate(spec.activation, h);
                    }
                    if let Some(divisors) = weights.divisors.get(rows.clone()) {
                        h.iter_mut().zip(divisors).for_each(|(h, d)| *h /= d);
                    }
                }
            }
        }
        self.worker.barrier();
    }

    /// `x += scale * weight(rows)`; where results are normalized, they are summed up in `y` instead, until
    /// [`CpuWorker::finish`].
    pub(super) fn add_product(&mut self, weight: &Weight, rows: Rows<'_>, sum: Sum, residual: Residual<'_>) {
        let n = self.batch.tokens.len();
        let source = Source { rows, row_len: weight.cols(), tokens: 0..n };
        let s = &mut *self.scratch;
        let ready = Ready::prepare(self.worker, self.model, self.buffers, &mut s.inputs, &source, &[weight]);
        let inputs = ready.read(self.worker, self.buffers, &s.inputs);
        let (into, scale) = self.buffers.target(residual);
        let fresh = residual.norm.is_some() && !sum.more;
        let router = sum.factor.map(|column| (self.buffers.router.read(self.worker), column));
        let units = Units::all(weight.rows().div_ceil(UNIT), UNIT);
        let of = chunks(self.worker, units.total);
        while let Some(chunk) = self.worker.claim(of) {
            let mut x = into.columns(&chunk, units);
            let all = x.range();
            for rows in tiles(all.clone(), n) {
                multiply(self.model, weight, rows.clone(), inputs, n, &mut s.tile);
                for (t, y) in s.tile.chunks_exact_mut(rows.len()).enumerate() {
                    let x = &mut x.row(t)[rows.start - all.start..rows.end - all.start];
                    let mut factor = scale;
                    if let Some((scores, column)) = router {
                        factor /= 1.0 + (-scores[t * self.buffers.router.row_len() + column]).exp();
                    }
                    if factor != 1.0 {
                        y.iter_mut().for_each(|y| *y *= factor);
                    }
                    if fresh {
                        x.copy_from_slice(y);
                    } else {
                        self.model.kernels().add(y, x);
                    }
                }
            }
        }
        self.worker.barrier();
    }

    /// `x += scale * norm(y)`, where results are normalized.
    pub(super) fn finish(&mut self, residual: Residual<'_>) {
        if residual.norm.is_some() {
            self.add_normalized(&self.buffers.y, residual);
        }
    }

    /// `x += scale * norm(y)`; or the sum of branches in place of `x`.
    pub(super) fn add_normalized(&mut self, y: &Shared<f32>, residual: Residual<'_>) {
        let (n, kernels) = (self.batch.tokens.len(), self.model.kernels());
        let n_embd = self.buffers.x.row_len();
        let y = y.read(self.worker);
        let into = if residual.to == Target::X { &self.buffers.x } else { &self.buffers.branches };
        let row = &mut self.scratch.tile;
        row.resize(n_embd, 0.0);
        let of = chunks(self.worker, n);
        while let Some(chunk) = self.worker.claim(of) {
            let x = into.rows(&chunk, Units::all(n, 1));
            for (t, x) in chunk.range(n).zip(x.chunks_exact_mut(n_embd)) {
                let y = &y[t * n_embd..][..n_embd];
                match residual.norm {
                    Some(norm) => normalize(kernels, norm, y, row),
                    None => row.copy_from_slice(y),
                }
                if residual.to == Target::FirstBranch {
                    x.fill(0.0);
                }
                if residual.scale != 1.0 {
                    row.iter_mut().for_each(|y| *y *= residual.scale);
                }
                kernels.add(row, x);
            }
        }
        self.worker.barrier();
    }

    /// `x *= factor`.
    pub(super) fn scale_x(&mut self, factor: f32) {
        let n = self.batch.tokens.len();
        let of = chunks(self.worker, n);
        while let Some(chunk) = self.worker.claim(of) {
            self.buffers.x.rows(&chunk, Units::all(n, 1)).iter_mut().for_each(|x| *x *= factor);
        }
        self.worker.barrier();
    }

    /// `x = norm(x)`.
    pub(super) fn normalize_x(&mut self, norm: &NormWeights) {
        let n = self.batch.tokens.len();
        let n_embd = self.buffers.x.row_len();
        let row = &mut self.scratch.tile;
        let of = chunks(self.worker, n);
        while let Some(chunk) = self.worker.claim(of) {
            let x = self.buffers.x.rows(&chunk, Units::all(n, 1));
            for x in x.chunks_exact_mut(n_embd) {
                row.clear();
                row.extend_from_slice(x);
                normalize(self.model.kernels(), norm, row, x);
            }
        }
        self.worker.barrier();
    }

    pub(super) fn output_logits(&mut self, model: &Model) {
        let (order, spec) = (self.batch.logits, &model.spec().output);
        let (n, output) = (order.len(), model.output());
        let (norm, order) = (model.output_norm.as_ref(), Some(order));
        let rows = Rows::Values(Values { norm, order, ..Values::of(&self.buffers.x) });
        let source = Source { rows, row_len: output.cols(), tokens: 0..n };
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
                if spec.scale != 1.0 {
                    s.tile.iter_mut().for_each(|y| *y *= spec.scale);
                }
                if let Some(cap) = spec.softcap {
                    s.tile.iter_mut().for_each(|y| *y = cap * (*y / cap).tanh());
                }
                for (t, y) in s.tile.chunks_exact(rows.len()).enumerate() {
                    logits.row(t)[rows.start - all.start..rows.end - all.start].copy_from_slice(y);
                }
            }
        }
        self.worker.barrier();
    }
}

/// One row of a matrix, in floats.
pub(super) fn dequantize_row(model: &Model, table: &Weight, row: usize, to: &mut [f32]) {
    let scalar = table.matmul.weights().scalar().expect("a kernel has a scalar version");
    let bytes = table.row_bytes();
    (scalar.dequantize)(&model.data(table)[row * bytes..(row + 1) * bytes], to);
}
