//! Mixtures of experts. Only the chosen ones are read; of many tokens, those of an expert are multiplied together.
//!
//! A position is a token at one of its experts. Few tokens: positions are in the order of tokens, and each is computed
//! by itself. Many tokens: positions are in the order of experts, those of an expert whole tiles of inputs. Every worker
//! computes for itself which token goes where: that takes less than to wait for others.

use std::ops::Range;

use braise_kernels::sync::Units;

use super::inputs::{Inputs, NOBODY, Ready, Rows, Source, Values, multiply};
use super::{CpuWorker, PRIVATE_ROWS, UNIT, chunks, input_tokens, tiles};
use crate::backend::Residual;
use crate::model::{ExpertMatrix, ExpertsWeights, Model, NormWeights, Weight};

/// Which experts the tokens of a batch take.
#[derive(Debug, Default)]
pub(super) struct Routed {
    /// Token of each position; [`NOBODY`] where a tile is filled up.
    tokens: Vec<u32>,
    /// Weight of each position.
    weights: Vec<f32>,
    /// Neighbouring positions with one expert.
    runs: Vec<Run>,
    /// Of each token and choice: expert and weight.
    chosen: Vec<(u32, f32)>,
    /// Room for one token's weights.
    room: Vec<f32>,
}

/// Positions with one expert.
#[derive(Debug, Clone)]
struct Run {
    expert: usize,
    positions: Range<usize>,
}

impl Routed {
    /// Brings positions in the order of tokens.
    fn by_token(&mut self, n_used: usize) {
        self.clear();
        for (i, (expert, weight)) in self.chosen.iter().enumerate() {
            self.tokens.push((i / n_used) as u32);
            self.weights.push(*weight);
            self.runs.push(Run { expert: *expert as usize, positions: i..i + 1 });
        }
    }

    /// Brings positions in the order of experts, in whole tiles of `tile`.
    fn by_expert(&mut self, n_used: usize, n_expert: usize, tile: usize) {
        self.clear();
        let mut counts = vec![0; n_expert];
        self.chosen.iter().for_each(|(expert, _)| counts[*expert as usize] += 1);
        let mut next = vec![0; n_expert];
        let mut end = 0;
        for (expert, n) in counts.into_iter().enumerate().filter(|(_, n)| *n > 0) {
            self.runs.push(Run { expert, positions: end..end + n });
            next[expert] = end;
            end = (end + n).next_multiple_of(tile);
        }
        self.tokens.resize(end, NOBODY);
        self.weights.resize(end, 0.0);
        for (i, (expert, weight)) in self.chosen.iter().enumerate() {
            let position = &mut next[*expert as usize];
            self.tokens[*position] = (i / n_used) as u32;
            self.weights[*position] = *weight;
            *position += 1;
        }
    }

    fn clear(&mut self) {
        self.tokens.clear();
        self.weights.clear();
        self.runs.clear();
    }
}

impl CpuWorker<'_, '_> {
    /// Scores of all experts, and which ones each token takes.
    pub(super) fn choose_experts(&mut self, weights: &ExpertsWeights, norm: Option<&NormWeights>) {
        let (n, spec) = (self.batch.tokens.len(), &weights.spec);
        let shared = weights.shared.as_ref().and_then(|(_, gate)| gate.as_ref());
        let both = [&weights.router, shared.unwrap_or(&weights.router)];
        let norm = weights.router_norm.as_ref().or(norm);
        let rows = Rows::Values(Values { norm, ..Values::of(&self.buffers.x) });
        let source = Source { rows, row_len: weights.router.cols(), tokens: 0..n };
        let s = &mut *self.scratch;
        let ready = Ready::prepare(self.worker, self.model, self.buffers, &mut s.inputs, &source, &both);
        let inputs = ready.read(self.worker, self.buffers, &s.inputs);
        // the score of the shared expert lies behind the others
        let units = Units::all(spec.n_expert + usize::from(shared.is_some()), 1);
        let of = chunks(self.worker, units.total);
        while let Some(chunk) = self.worker.claim(of) {
            let mut scores = self.buffers.router.columns(&chunk, units);
            let (first, mine) = (scores.range().start, chunk.range(units.total));
            let mut score = |weight: &Weight, rows: Range<usize>, at: usize| {
                multiply(self.model, weight, rows.clone(), inputs, n, &mut s.tile);
                for (t, y) in s.tile.chunks_exact(rows.len()).enumerate() {
                    scores.row(t)[at - first..][..rows.len()].copy_from_slice(y);
                }
            };
            let of_experts = mine.start..mine.end.min(spec.n_expert);
            if !of_experts.is_empty() {
                score(&weights.router, of_experts.clone(), of_experts.start);
            }
            if let Some(shared) = shared.filter(|_| mine.end > spec.n_expert) {
                score(shared, 0..1, spec.n_expert);
            }
        }
        self.worker.barrier();

        let scores = self.buffers.router.read(self.worker);
        let routed = &mut s.routed;
        routed.chosen.clear();
        for scores in scores.chunks_exact(self.buffers.router.row_len()).take(n) {
            let scores = &scores[..spec.n_expert];
            spec.choose(scores, &weights.bias, &mut routed.room, &mut routed.chosen);
        }
        if n <= PRIVATE_ROWS {
            routed.by_token(spec.n_used);
        } else {
            let tile = input_tokens(self.model.kernels().packing());
            routed.by_expert(spec.n_used, spec.n_expert, tile);
        }
    }

    /// The values between the matrices of the chosen experts.
    pub(super) fn up_of_experts(&mut self, weights: &ExpertsWeights, norm: Option<&NormWeights>) {
        let (n, spec) = (self.batch.tokens.len(), &weights.spec);
        let (s, few) = (&mut *self.scratch, self.batch.tokens.len() <= PRIVATE_ROWS);
        let up = &weights.up.weight;
        let gate = weights.gate.as_ref();
        let both = [up, gate.map_or(up, |gate| &gate.weight)];
        // few tokens are prepared once for all their experts
        let order = (!few).then_some(&s.routed.tokens[..]);
        let tokens = order.map_or(0..n, |order| 0..order.len());
        let (buffer, norm) = match weights.latent {
            Some(_) => (&self.buffers.work, None),
            None => (&self.buffers.x, norm),
        };
        let rows = Rows::Values(Values { norm, order, ..Values::of(buffer) });
        let source = Source { rows, row_len: up.cols(), tokens };
        let ready = Ready::prepare(self.worker, self.model, self.buffers, &mut s.inputs, &source, &both);
        let inputs = ready.read(self.worker, self.buffers, &s.inputs);
        let kernels = self.model.kernels();
        let n_ff = spec.expert.n_ff;
        let units = Units::all(n_ff.div_ceil(UNIT), UNIT);
        let of = chunks(self.worker, units.total);
        while let Some(chunk) = self.worker.claim(of) {
            let mut h = self.buffers.h_experts.columns(&chunk, units);
            let all = h.range().start..h.range().end.min(n_ff);
            for Run { expert, positions } in &s.routed.runs {
                let inputs = match few {
                    true => {
                        let token = s.routed.tokens[positions.start] as usize;
                        inputs.part(token..token + 1)
                    }
                    false => inputs.part(positions.clone()),
                };
                for rows in tiles(all.clone(), positions.len()) {
                    of_expert(self.model, &weights.up, *expert, &rows, inputs, positions.len(), &mut s.tile);
                    if let Some(gate) = gate {
                        of_expert(self.model, gate, *expert, &rows, inputs, positions.len(), &mut s.tile_2);
                    }
                    if spec.weigh_inputs {
                        // what is weighed before a matrix may as well be weighed behind it
                        for tile in [&mut s.tile, &mut s.tile_2] {
                            let weights = &s.routed.weights[positions.clone()];
                            for (y, weight) in tile.chunks_exact_mut(rows.len()).zip(weights) {
                                y.iter_mut().for_each(|y| *y *= weight);
                            }
                        }
                    }
                    for (i, up) in s.tile.chunks_exact(rows.len()).enumerate() {
                        let h = &mut h.row(positions.start + i)[rows.start - all.start..][..rows.len()];
                        if gate.is_some() {
                            let gate = &s.tile_2[i * rows.len()..][..rows.len()];
                            kernels.gated(spec.expert.activation, gate, up, h);
                        } else {
                            h.copy_from_slice(up);
                            kernels.activate(spec.expert.activation, h);
                        }
                    }
                }
            }
        }
        self.worker.barrier();
    }

    /// Adds the weighted sums of the chosen experts' results: `x += scale * sum`; where results are normalized, `y = sum`,
    /// and where they are of a size of their own, `work_2 = sum`.
    pub(super) fn down_of_experts(&mut self, weights: &ExpertsWeights, residual: Residual<'_>) {
        let few = self.batch.tokens.len() <= PRIVATE_ROWS;
        let s = &mut *self.scratch;
        let (matrix, down) = (&weights.down, &weights.down.weight);
        let n_positions = s.routed.tokens.len();
        let rows = Rows::Values(Values::of(&self.buffers.h_experts));
        let source = Source { rows, row_len: down.cols(), tokens: 0..n_positions };
        let inputs = &mut s.inputs;
        let ready = match few {
            true => Ready::prepare_alone(self.worker, self.model, inputs, &source, &[down]),
            false => Ready::prepare(self.worker, self.model, self.buffers, inputs, &source, &[down]),
        };
        let inputs = ready.read(self.worker, self.buffers, &s.inputs);
        let (into, scale) = match weights.latent {
            Some(_) => (&self.buffers.work_2, 1.0),
            None => self.buffers.target(residual),
        };
        let width = weights.spec.latent.unwrap_or(self.buffers.x.row_len());
        let units = Units::all(width.div_ceil(UNIT), UNIT);
        let of = chunks(self.worker, units.total);
        while let Some(chunk) = self.worker.claim(of) {
            let mut x = into.columns(&chunk, units);
            let all = x.range().start..x.range().end.min(width);
            if residual.norm.is_some() || weights.latent.is_some() {
                (0..self.batch.tokens.len()).for_each(|t| x.row(t).fill(0.0));
            }
            for Run { expert, positions } in &s.routed.runs {
                let inputs = inputs.part(positions.clone());
                for rows in tiles(all.clone(), positions.len()) {
                    of_expert(self.model, matrix, *expert, &rows, inputs, positions.len(), &mut s.tile);
                    for (position, y) in positions.clone().zip(s.tile.chunks_exact_mut(rows.len())) {
                        let weight = if weights.spec.weigh_inputs { 1.0 } else { s.routed.weights[position] };
                        let factor = weight * scale;
                        y.iter_mut().for_each(|y| *y *= factor);
                        let x = x.row(s.routed.tokens[position] as usize);
                        self.model.kernels().add(y, &mut x[rows.start - all.start..rows.end - all.start]);
                    }
                }
            }
        }
        self.worker.barrier();
    }
}

/// Some rows of an expert's matrix times its tokens.
fn of_expert(
    model: &Model,
    matrix: &ExpertMatrix,
    expert: usize,
    rows: &Range<usize>,
    inputs: Inputs<'_>,
    n: usize,
    tile: &mut Vec<f32>,
) {
    let first = expert * matrix.stride + matrix.first;
    multiply(model, &matrix.weight, first + rows.start..first + rows.end, inputs, n, tile);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_of_an_expert_are_whole_tiles() {
        let chosen = vec![(0, 0.5), (2, 0.25), (0, 1.0), (1, 2.0), (0, 3.0), (2, 4.0)];
        let mut routed = Routed { chosen, ..Routed::default() };
        routed.by_expert(2, 4, 2);
        assert_eq!(routed.tokens, [0, 1, 2, NOBODY, 1, NOBODY, 0, 2]);
        assert_eq!(routed.weights, [0.5, 1.0, 3.0, 0.0, 2.0, 0.0, 0.25, 4.0]);
        let runs: Vec<_> = routed.runs.iter().map(|run| (run.expert, run.positions.clone())).collect();
        assert_eq!(runs, [(0, 0..3), (1, 4..5), (2, 6..8)]);
        routed.by_token(2);
        assert_eq!(routed.tokens, [0, 0, 1, 1, 2, 2]);
        assert_eq!(routed.runs.iter().map(|run| run.expert).collect::<Vec<_>>(), [0, 2, 0, 1, 0, 2]);
    }
}
