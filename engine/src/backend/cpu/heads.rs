//! Queries, keys and values of attention, and its output matrix.

use std::ops::Range;

use braise_kernels::sync::Units;
use braise_kernels::table::Kernels;

use super::attention::{Attend, Results};
use super::buffers::Buffers;
use super::dense::Sum;
use super::inputs::{Inputs, Ready, Rows, Source, Values, multiply, normalize};
use super::{Batch, CpuWorker, Scratch, TILE_RESULTS, chunks};
use crate::backend::Residual;
use crate::block::{self, Attention, NormKind, NormPlace, QkNorm};
use crate::model::{AttentionWeights, HeadScores, Model, NormWeights, Weight};

/// Rotates heads by their positions.
pub(super) struct Rotator<'a> {
    kernels: Kernels,
    cos: &'a [f32],
    sin: &'a [f32],
    /// Cosines of a token, and which of them are this rope's.
    row_len: usize,
    first: usize,
    n: usize,
    halves: bool,
}

impl<'a> Rotator<'a> {
    /// For the model's rope number `rope`, in a phase that writes no cosines.
    pub(super) fn new(
        worker: &'a braise_kernels::sync::Worker<'_>,
        kernels: Kernels,
        buffers: &'a Buffers,
        rope: Option<usize>,
    ) -> Option<Rotator<'a>> {
        let rotation = &buffers.rotations[rope?];
        Some(Rotator {
            kernels,
            cos: buffers.cos.read(worker),
            sin: buffers.sin.read(worker),
            row_len: buffers.cos.row_len(),
            first: rotation.first,
            n: rotation.frequencies.len(),
            halves: rotation.halves,
        })
    }

    /// Rotates the first values of token t's `head`.
    pub(super) fn rotate(&self, t: usize, head: &mut [f32]) {
        let at = t * self.row_len + self.first..t * self.row_len + self.first + self.n;
        self.kernels.rope(head, &self.cos[at.clone()], &self.sin[at], self.halves);
    }
}

/// What is done to a query or key between its matrix and attention.
struct Steps<'a> {
    kernels: Kernels,
    spec: &'a Attention,
    rotator: Option<Rotator<'a>>,
    batch: Batch<'a>,
}

impl Steps<'_> {
    /// Finishes the query or key `head` of token t; `norm` are the weights of its normalization.
    fn apply(&self, t: usize, head: &mut [f32], norm: &[f32], is_query: bool, room: &mut Vec<f32>) {
        let place = self.spec.qk_norm.map(|norm| norm.place);
        let mut normalize = |head: &mut [f32]| {
            room.clear();
            room.extend_from_slice(head);
            normalize_head(self.kernels, self.spec.qk_norm, room, norm, head);
        };
        if place == Some(NormPlace::Head) {
            normalize(head);
        }
        if let Some(rotator) = &self.rotator {
            rotator.rotate(t, head);
        }
        if place == Some(NormPlace::RotatedHead) {
            normalize(head);
        }
        if let Some(temperature) = self.spec.temperature.filter(|_| is_query) {
            let factor = temperature.factor(self.batch.position(t));
            head.iter_mut().for_each(|x| *x *= factor);
        }
    }
}

fn normalize_head(kernels: Kernels, norm: Option<QkNorm>, x: &[f32], weight: &[f32], y: &mut [f32]) {
    match norm {
        Some(QkNorm { kind: NormKind::Rms, eps, .. }) => kernels.rms_norm(x, weight, eps, y),
        Some(QkNorm { kind: NormKind::Layer, eps, .. }) => kernels.layer_norm(x, weight, &[], eps, y),
        None => y.copy_from_slice(x),
    }
}

impl CpuWorker<'_, '_> {
    pub(super) fn queries_keys_values(
        &mut self,
        layer: usize,
        weights: &AttentionWeights,
        norm: Option<&NormWeights>,
    ) {
        let n = self.batch.tokens.len();
        let AttentionWeights { spec, q, kv, .. } = weights;
        let rows = Rows::Values(Values { norm, ..Values::of(&self.buffers.x) });
        let source = Source { rows, row_len: q.cols(), tokens: 0..n };
        let s = &mut *self.scratch;
        let [k, v] = kv.as_ref().map_or([q, q], |kv| kv.each_ref());
        let ready = Ready::prepare(self.worker, self.model, self.buffers, &mut s.inputs, &source, &[q, k, v]);
        let inputs = ready.read(self.worker, self.buffers, &s.inputs);

        let kernels = self.model.kernels();
        let rotator = Rotator::new(self.worker, kernels, self.buffers, spec.rope);
        let steps = Steps { kernels, spec, rotator, batch: self.batch };
        let heads = spec.heads;
        let (d_k, d_v) = (heads.head_dim, heads.head_dim_v);
        let q_rows = if spec.gated { 2 * d_k } else { d_k };
        // where a token's heads are normalized together, they wait for each other
        let wait = spec.qk_norm.is_some_and(|norm| norm.place == NormPlace::Token);
        // a unit is a head: first those of the queries, then of the keys, then of the values, if they are not cached yet
        let n_head_kv = if kv.is_some() { heads.n_head_kv } else { 0 };
        let total = heads.n_head + 2 * n_head_kv;
        let units = |offset: usize, unit: usize| Units { total, offset, unit };
        let of = chunks(self.worker, total);
        while let Some(chunk) = self.worker.claim(of) {
            let queries = if wait { &self.buffers.work } else { &self.buffers.q };
            let mut queries = queries.columns(&chunk, units(0, d_k));
            let mut gates = spec.gated.then(|| self.buffers.gates.columns(&chunk, units(0, d_k)));
            let store_keys = kv.is_some() && !wait;
            let mut keys = store_keys.then(|| self.kv.keys(layer, &chunk, units(heads.n_head, 1)));
            let mut values =
                kv.as_ref().map(|_| self.kv.values(layer, &chunk, units(heads.n_head + n_head_kv, 1)));
            let first = queries.range().start;
            let range = chunk.range(total);
            let mut products = Products { model: self.model, inputs, n, heads: 0..0, all: &mut s.heads };
            for head in range.clone() {
                let at = head * d_k - first.min(head * d_k);
                if head < heads.n_head {
                    products.of_head((q, q_rows), 0..range.end.min(heads.n_head), head, &mut s.tile);
                    clamp(spec, &mut s.tile);
                    let norm = part(&weights.q_norm, head, d_k);
                    for (t, y) in s.tile.chunks_exact_mut(q_rows).enumerate() {
                        let (y, gate) = y.split_at_mut(d_k);
                        if !wait {
                            steps.apply(t, y, norm, true, &mut s.tile_2);
                        }
                        queries.row(t)[at..at + d_k].copy_from_slice(y);
                        if let Some(gates) = &mut gates {
                            gates.row(t)[at..at + d_k].copy_from_slice(gate);
                        }
                    }
                } else if head < heads.n_head + n_head_kv {
                    let (of_keys, end) = (head - heads.n_head, heads.n_head + n_head_kv);
                    products.of_head((k, d_k), heads.n_head..range.end.min(end), head, &mut s.tile);
                    clamp(spec, &mut s.tile);
                    let norm = part(&weights.k_norm, of_keys, d_k);
                    for (t, y) in s.tile.chunks_exact_mut(d_k).enumerate() {
                        if wait {
                            queries.row(t)[at..at + d_k].copy_from_slice(y);
                        } else {
                            steps.apply(t, y, norm, false, &mut s.tile_2);
                        }
                    }
                    if let Some(keys) = &mut keys {
                        keys.store_keys(self.batch.runs, &s.tile);
                    }
                } else if let Some(values) = &mut values {
                    let first = heads.n_head + n_head_kv;
                    products.of_head((v, d_v), first..range.end, head, &mut s.tile);
                    clamp(spec, &mut s.tile);
                    if let Some(norm) = &weights.v_norm {
                        for y in s.tile.chunks_exact_mut(d_v) {
                            s.tile_2.clear();
                            s.tile_2.extend_from_slice(y);
                            normalize(kernels, norm, &s.tile_2, y);
                        }
                    }
                    values.store_values(self.batch.runs, &s.tile);
                }
            }
        }
        self.worker.barrier();
        if wait {
            self.normalize_tokens(layer, weights);
        }
    }

    /// Normalizes all queries of a token together, and all keys; then they are finished as others.
    fn normalize_tokens(&mut self, layer: usize, weights: &AttentionWeights) {
        let (n, spec, s) = (self.batch.tokens.len(), &weights.spec, &mut *self.scratch);
        let kernels = self.model.kernels();
        let rotator = Rotator::new(self.worker, kernels, self.buffers, spec.rope);
        let steps = Steps { kernels, spec, rotator, batch: self.batch };
        let (heads, d) = (spec.heads, spec.heads.head_dim);
        let (work, row_len) = (self.buffers.work.read(self.worker), self.buffers.work.row_len());
        let total = heads.n_head + heads.n_head_kv;
        let units = |offset: usize, unit: usize| Units { total, offset, unit };
        let of = chunks(self.worker, total);
        while let Some(chunk) = self.worker.claim(of) {
            let mut queries = self.buffers.q.columns(&chunk, units(0, d));
            let mut keys = self.kv.keys(layer, &chunk, units(heads.n_head, 1));
            let (first, range) = (queries.range().start, chunk.range(total));
            let sides =
                [(0..heads.n_head, &weights.q_norm, true), (heads.n_head..total, &weights.k_norm, false)];
            for (side, norm, is_query) in sides {
                let mine = range.start.max(side.start)..range.end.min(side.end);
                if mine.is_empty() {
                    continue;
                }
                let len = side.len() * d;
                s.tile_2.resize(n * len, 0.0);
                for (t, y) in s.tile_2.chunks_exact_mut(len).enumerate() {
                    let x = &work[t * row_len + side.start * d..][..len];
                    normalize_head(kernels, spec.qk_norm, x, norm, y);
                }
                for head in mine {
                    s.tile.clear();
                    for t in 0..n {
                        s.tile.extend_from_slice(&s.tile_2[t * len + (head - side.start) * d..][..d]);
                    }
                    for (t, y) in s.tile.chunks_exact_mut(d).enumerate() {
                        steps.apply(t, y, &[], is_query, &mut Vec::new());
                        if is_query {
                            queries.row(t)[head * d - first..][..d].copy_from_slice(y);
                        }
                    }
                    if !is_query {
                        keys.store_keys(self.batch.runs, &s.tile);
                    }
                }
            }
        }
        self.worker.barrier();
    }

    pub(super) fn attention(&mut self, layer: usize, spec: &Attention, scores: &HeadScores) {
        let layer = match spec.source {
            block::Source::Layer(of) => of,
            block::Source::Own | block::Source::Keys => layer,
        };
        let Scratch { attention: scratch, cut, .. } = &mut *self.scratch;
        cut.plan(self.batch.runs, spec, &self.buffers.attention);
        let attend = Attend { model: self.model, batch: self.batch, layer, spec, scores, kv: self.kv, cut };
        attend.run(self.worker, &self.buffers.q, &self.buffers.attention, scratch);
    }

    pub(super) fn add_attention(&mut self, weights: &AttentionWeights, residual: Residual<'_>) {
        let buffers = self.buffers;
        let cut = std::mem::take(&mut self.scratch.cut);
        let results = Results {
            buffers: &buffers.attention,
            batch: self.batch,
            cut: &cut,
            spec: &weights.spec,
            scores: &weights.scores,
            gates: weights.spec.gated.then_some(&buffers.gates),
        };
        self.add_product(&weights.output, Rows::Attention(&results), Sum::ALONE, residual);
        self.scratch.cut = cut;
        self.finish(residual);
    }
}

/// Products of a matrix for several heads at a time, so that the tokens are read once for all of them.
struct Products<'a> {
    model: &'a Model,
    inputs: Inputs<'a>,
    n: usize,
    /// The heads that there are products of.
    heads: Range<usize>,
    /// (n, heads, rows of a head)
    all: &'a mut Vec<f32>,
}

impl Products<'_> {
    /// The products (n, dim) of head `head`, one of `of`, the heads of this matrix that will be asked for in order.
    fn of_head(&mut self, (weight, dim): (&Weight, usize), of: Range<usize>, head: usize, to: &mut Vec<f32>) {
        if !self.heads.contains(&head) {
            let at_a_time = (TILE_RESULTS / (self.n * dim).max(1)).max(1);
            self.heads = head..of.end.min(head + at_a_time);
            let rows = (self.heads.start - of.start) * dim..(self.heads.end - of.start) * dim;
            multiply(self.model, weight, rows, self.inputs, self.n, self.all);
        }
        let at = (head - self.heads.start) * dim;
        to.clear();
        for row in self.all.chunks_exact(self.heads.len() * dim) {
            to.extend_from_slice(&row[at..at + dim]);
        }
    }
}

/// The weights of one head, if there are any.
fn part(all: &[f32], head: usize, dim: usize) -> &[f32] {
    if all.is_empty() { &[] } else { &all[head * dim..(head + 1) * dim] }
}

fn clamp(spec: &Attention, values: &mut [f32]) {
    if let Some(limit) = spec.clamp {
        values.iter_mut().for_each(|x| *x = x.clamp(-limit, limit));
    }
}
