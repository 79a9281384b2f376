//! What layers get of each token besides: see [`crate::block::LayerInputs`].

use std::f32::consts::FRAC_1_SQRT_2;

use braise_kernels::ops::Activation;
use braise_kernels::sync::Units;

use super::dense::dequantize_row;
use super::inputs::{Ready, Rows, Source, Values, multiply, normalize};
use super::{CpuWorker, UNIT, chunks, tiles};
use crate::model::{LayerInputWeights, LayerInputsWeights};

impl CpuWorker<'_, '_> {
    /// Those of all layers, from the embeddings in `x`.
    pub(super) fn make_layer_inputs(&mut self, weights: &LayerInputsWeights) {
        let (buffers, n_tokens) = (self.buffers, self.batch.tokens.len());
        let x = Rows::Values(Values::of(&buffers.x));
        self.project(x, &[&weights.projection], &buffers.layer_inputs);
        let (kernels, n) = (self.model.kernels(), weights.spec.n);
        let scale = 1.0 / (buffers.x.row_len() as f32).sqrt();
        let of_token = (n as f32).sqrt();
        let (row, values) = (&mut self.scratch.tile, &mut self.scratch.tile_2);
        row.resize(weights.table.cols(), 0.0);
        values.resize(n, 0.0);
        let of = chunks(self.worker, n_tokens);
        while let Some(chunk) = self.worker.claim(of) {
            let all = buffers.layer_inputs.rows(&chunk, Units::all(n_tokens, 1));
            for (t, all) in chunk.range(n_tokens).zip(all.chunks_exact_mut(row.len())) {
                dequantize_row(self.model, &weights.table, self.batch.tokens[t] as usize, row);
                for (y, row) in all.chunks_exact_mut(n).zip(row.chunks_exact(n)) {
                    y.iter_mut().for_each(|y| *y *= scale);
                    normalize(kernels, &weights.norm, y, values);
                    for ((y, value), row) in y.iter_mut().zip(&*values).zip(row) {
                        *y = (value + of_token * row) * FRAC_1_SQRT_2;
                    }
                }
            }
        }
        self.worker.barrier();
    }

    /// `work = gelu(gate(x)) * ` the input of layer `layer`.
    pub(super) fn gate_layer_input(&mut self, layer: usize, weights: &LayerInputWeights) {
        let gate = &weights.gate;
        let (n, n_rows) = (self.batch.tokens.len(), gate.rows());
        let rows = Rows::Values(Values::of(&self.buffers.x));
        let source = Source { rows, row_len: gate.cols(), tokens: 0..n };
        let s = &mut *self.scratch;
        let ready = Ready::prepare(self.worker, self.model, self.buffers, &mut s.inputs, &source, &[gate]);
        let inputs = ready.read(self.worker, self.buffers, &s.inputs);
        let kernels = self.model.kernels();
        let (all, row_len) =
            (self.buffers.layer_inputs.read(self.worker), self.buffers.layer_inputs.row_len());
        let units = Units::all(n_rows.div_ceil(UNIT), UNIT);
        let of = chunks(self.worker, units.total);
        while let Some(chunk) = self.worker.claim(of) {
            let mut h = self.buffers.work.columns(&chunk, units);
            let first = h.range().start;
            let mine = first..h.range().end.min(n_rows);
            for rows in tiles(mine, n) {
                multiply(self.model, gate, rows.clone(), inputs, n, &mut s.tile);
                for (t, gate) in s.tile.chunks_exact(rows.len()).enumerate() {
                    let input = &all[t * row_len + layer * n_rows + rows.start..][..rows.len()];
                    let h = &mut h.row(t)[rows.start - first..][..rows.len()];
                    kernels.gated(Activation::Gelu, gate, input, h);
                }
            }
        }
        self.worker.barrier();
    }
}
