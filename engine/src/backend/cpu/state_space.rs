//! Selective state spaces: see [`crate::block::StateSpace`].
//!
//! ```text
//! work = in(x) | work_2, work_3 = conv, silu | work_3 = selection of work_2, first generation | scan in work_2 | norm
//! ```

use std::ops::Range;

use braise_kernels::ops::Activation;
use braise_kernels::sync::{Shared, Units};

use super::conv::Conv;
use super::delta_net::softplus;
use super::inputs::{Inputs, Ready, Rows, Source, Values, multiply, normalize};
use super::{CpuWorker, UNIT, chunks, tiles};
use crate::block::StateSpace;
use crate::model::{Model, NormWeights, StateSpaceWeights};

impl CpuWorker<'_, '_> {
    /// `work_2 = ` what goes into the output matrix.
    pub(super) fn scan_states(
        &mut self,
        layer: usize,
        weights: &StateSpaceWeights,
        norm: Option<&NormWeights>,
    ) {
        let buffers = self.buffers;
        let x = Rows::Values(Values { norm, ..Values::of(&buffers.x) });
        self.project(x, &[&weights.input], &buffers.work);
        self.convolve_inputs(layer, weights);
        if let Some(selection) = &weights.selection {
            self.project(Rows::Values(Values::of(&buffers.work_2)), &[&selection.x], &buffers.work_3);
            self.normalize_parts(&buffers.work_3, &selection.norms);
        }
        self.scan(layer, weights);
        self.normalize_parts(&buffers.work_2, &weights.norms);
    }

    /// `work_2 = ` x, and `work_3 = ` B and C, where they go through the convolution.
    fn convolve_inputs(&mut self, layer: usize, weights: &StateSpaceWeights) {
        let (buffers, kernels) = (self.buffers, self.model.kernels());
        let StateSpaceWeights { spec, kernel, conv_bias, .. } = weights;
        let (channels, first) = (spec.conv_channels(), spec.conv_and_gate().0);
        let conv = Conv { kernel, width: spec.width, channels, runs: self.batch.runs };
        let total = channels.div_ceil(UNIT);
        let units = |offset: usize| Units { total, offset, unit: UNIT };
        let of = chunks(self.worker, total);
        while let Some(chunk) = self.worker.claim(of) {
            let mut past = self.kv.states(layer)[0].columns(&chunk, units(0));
            let mut x = buffers.work_2.columns(&chunk, units(0));
            let mut b_and_c = buffers.work_3.columns(&chunk, units(spec.channels / UNIT));
            let work = buffers.work.read(self.worker);
            let mine = past.range().start..past.range().end.min(channels);
            let n_x = spec.channels.clamp(mine.start, mine.end) - mine.start;
            let read = |t: usize, input: &mut [f32]| {
                input.copy_from_slice(&work[t * buffers.work.row_len() + first..][mine.clone()]);
            };
            let write = |t: usize, y: &mut [f32]| {
                if !conv_bias.is_empty() {
                    kernels.add(&conv_bias[mine.clone()], y);
                }
                kernels.activate(Activation::Silu, y);
                let (of_x, others) = y.split_at(n_x);
                x.row(t)[..n_x].copy_from_slice(of_x);
                b_and_c.row(t)[..others.len()].copy_from_slice(others);
            };
            conv.run(mine.clone(), &mut past, &mut self.scratch.tile, read, write);
        }
        self.worker.barrier();
    }

    /// `work_2 = (y + D x) silu(z)` from x in it. A head at a time, whose states stay in cache.
    fn scan(&mut self, layer: usize, weights: &StateSpaceWeights) {
        let (n, spec, buffers, kernels) =
            (self.batch.tokens.len(), &weights.spec, self.buffers, self.model.kernels());
        let s = &mut *self.scratch;
        let ready = weights.selection.as_ref().map(|selection| {
            let rows = Rows::Values(Values::of(&buffers.work_3));
            let source = Source { rows, row_len: selection.dt.cols(), tokens: 0..n };
            let dt = [&selection.dt];
            Ready::prepare(self.worker, self.model, buffers, &mut s.inputs, &source, &dt)
        });
        let inputs = ready.as_ref().map(|ready| ready.read(self.worker, buffers, &s.inputs));
        let (head_dim, gate) = (spec.head_dim(), spec.conv_and_gate().1);
        let (heads_a_unit, a_len) = ((UNIT / head_dim).max(1), weights.a.len() / spec.n_head);
        let units = |of_head: usize| Units::all(spec.n_head.div_ceil(heads_a_unit), heads_a_unit * of_head);
        let (total, all_states) = (units(1).total, &self.kv.states(layer)[1]);
        let (state_len, states_len) = (head_dim * spec.d_state, all_states.row_len());
        let of = chunks(self.worker, total);
        while let Some(chunk) = self.worker.claim(of) {
            let mut y = buffers.work_2.columns(&chunk, units(head_dim));
            let states = all_states.rows(&chunk, units(1));
            let (work, work_len) = (buffers.work.read(self.worker), buffers.work.row_len());
            let selected =
                Selected { spec, all: buffers.work_3.read(self.worker), row_len: buffers.work_3.row_len() };
            let (mine, first) = (chunk.range(total), y.range().start);
            let heads = mine.start * heads_a_unit..spec.n_head.min(mine.end * heads_a_unit);
            for heads in tiles(heads, n) {
                time_steps(self.model, weights, heads.clone(), inputs, (work, work_len), n, &mut s.tile);
                for (i, head) in heads.clone().enumerate() {
                    let at = head * head_dim - first;
                    let states = &mut states[(head - mine.start * heads_a_unit) * states_len..][..states_len];
                    let a = &weights.a[head * a_len..][..a_len];
                    for run in self.batch.runs {
                        let state = &mut states[run.seq * state_len..][..state_len];
                        if run.first == 0 {
                            state.fill(0.0);
                        }
                        for t in run.tokens.clone() {
                            let dt = s.tile[t * heads.len() + i];
                            let (b, c) = selected.of(t, head);
                            let x = &mut y.row(t)[at..at + head_dim];
                            kernels.state_space(state, x, dt, a, b, c, weights.d[head]);
                        }
                    }
                }
                let channels = heads.start * head_dim..heads.end * head_dim;
                for t in 0..n {
                    let y = &mut y.row(t)[channels.start - first..channels.end - first];
                    s.tile_2.clear();
                    s.tile_2.extend_from_slice(y);
                    let z = &work[t * work_len + gate..][channels.clone()];
                    kernels.gated(Activation::Silu, z, &s.tile_2, y);
                }
            }
        }
        self.worker.barrier();
    }

    /// Normalizes neighbouring parts of each row, as many as there are `norms`.
    fn normalize_parts(&mut self, buffer: &Shared<f32>, norms: &[NormWeights]) {
        if norms.is_empty() {
            return;
        }
        let (n, kernels) = (self.batch.tokens.len(), self.model.kernels());
        let room = &mut self.scratch.tile;
        let of = chunks(self.worker, n);
        while let Some(chunk) = self.worker.claim(of) {
            for mut row in buffer.rows(&chunk, Units::all(n, 1)).chunks_exact_mut(buffer.row_len()) {
                for norm in norms {
                    let part = row.split_off_mut(..norm.weight.len()).expect("a part of the row");
                    room.clear();
                    room.extend_from_slice(part);
                    normalize(kernels, norm, room, part);
                }
            }
        }
        self.worker.barrier();
    }
}

/// B and C of a batch.
struct Selected<'a> {
    spec: &'a StateSpace,
    /// Rows of tokens.
    all: &'a [f32],
    row_len: usize,
}

impl<'a> Selected<'a> {
    /// Those of a token and a head.
    fn of(&self, t: usize, head: usize) -> (&'a [f32], &'a [f32]) {
        let StateSpace { d_state, n_head, n_group, .. } = *self.spec;
        let group = head / (n_head / n_group);
        let values = self.spec.group_values();
        let first = t * self.row_len + self.spec.selected() - 2 * values + group * d_state;
        (&self.all[first..][..d_state], &self.all[first + values..][..d_state])
    }
}

/// The dt (n, heads) of some heads, from the selection's `inputs` or from the rows of `work`.
fn time_steps(
    model: &Model,
    weights: &StateSpaceWeights,
    heads: Range<usize>,
    inputs: Option<Inputs<'_>>,
    (work, row_len): (&[f32], usize),
    n: usize,
    dt: &mut Vec<f32>,
) {
    match (&weights.selection, inputs) {
        (Some(selection), Some(inputs)) => multiply(model, &selection.dt, heads, inputs, n, dt),
        _ => {
            let first = weights.spec.inputs() - weights.spec.n_head;
            dt.clear();
            for t in 0..n {
                let row = &work[t * row_len + first..][heads.clone()];
                dt.extend(row.iter().zip(&weights.dt_bias[heads.clone()]).map(|(dt, bias)| dt + bias));
            }
        }
    }
    dt.iter_mut().for_each(|dt| *dt = softplus(*dt));
}
