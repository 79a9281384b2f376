//! Latent attention around its cache: see [`crate::block::Latent`].

use braise_kernels::sync::{Shared, Units};

use super::attention::Results;
use super::heads::Rotator;
use super::inputs::{Ready, Rows, Source, Values, multiply, normalize};
use super::{CpuWorker, UNIT, chunks, tiles};
use crate::model::{LatentWeights, NormWeights, Weight};

impl CpuWorker<'_, '_> {
    /// `work = ` the queries, compressed or not, and behind them c and k_rope; `work_2 = ` the queries where they were
    /// compressed.
    pub(super) fn compress(&mut self, weights: &LatentWeights, norm: Option<&NormWeights>) {
        let LatentWeights { q_a, q_b, kv_a, .. } = weights;
        let buffers = self.buffers;
        let x = Rows::Values(Values { norm, ..Values::of(&buffers.x) });
        self.project(x, &[q_a, kv_a], &buffers.work);
        if let Some((norm, q_b)) = q_b {
            let compressed = Rows::Values(Values { norm: Some(norm), ..Values::of(&buffers.work) });
            self.project(compressed, &[q_b], &buffers.work_2);
        }
    }

    /// The products of `rows` with some matrices beside each other in `to`, each from a multiple of [`UNIT`] on.
    pub(super) fn project(&mut self, rows: Rows<'_>, weights: &[&Weight], to: &Shared<f32>) {
        let n = self.batch.tokens.len();
        let source = Source { rows, row_len: weights[0].cols(), tokens: 0..n };
        let s = &mut *self.scratch;
        let ready = Ready::prepare(self.worker, self.model, self.buffers, &mut s.inputs, &source, weights);
        let inputs = ready.read(self.worker, self.buffers, &s.inputs);
        let n_units = |weight: &Weight| weight.rows().div_ceil(UNIT);
        let units = Units::all(weights.iter().map(|weight| n_units(weight)).sum(), UNIT);
        let of = chunks(self.worker, units.total);
        while let Some(chunk) = self.worker.claim(of) {
            let mut y = to.columns(&chunk, units);
            let (first, mine) = (y.range().start, chunk.range(units.total));
            let mut offset = 0;
            for weight in weights {
                let all = offset..offset + n_units(weight);
                let rows = mine.start.clamp(all.start, all.end)..mine.end.clamp(all.start, all.end);
                let rows = (rows.start - offset) * UNIT..((rows.end - offset) * UNIT).min(weight.rows());
                for rows in tiles(rows, n) {
                    multiply(self.model, weight, rows.clone(), inputs, n, &mut s.tile);
                    for (t, values) in s.tile.chunks_exact(rows.len()).enumerate() {
                        y.row(t)[offset * UNIT + rows.start - first..][..rows.len()].copy_from_slice(values);
                    }
                }
                offset = all.end;
            }
        }
        self.worker.barrier();
    }

    /// Queries for the cache from the heads' queries; c and k_rope go into the cache.
    pub(super) fn map_queries(&mut self, layer: usize, weights: &LatentWeights) {
        let (n, spec, buffers) = (self.batch.tokens.len(), &weights.spec, self.buffers);
        let (rank, rope) = (spec.attention.heads.head_dim_v, spec.rope_dim());
        let key_dim = rank + rope;
        let n_head = spec.attention.heads.n_head;
        let (queries, kv_first) = match &weights.q_b {
            None => (&buffers.work, weights.q_a.rows().next_multiple_of(UNIT)),
            Some(_) => (&buffers.work_2, weights.q_a.rows().next_multiple_of(UNIT)),
        };
        let s = &mut *self.scratch;
        let kernels = self.model.kernels();
        let rotator = Rotator::new(self.worker, kernels, buffers, spec.attention.rope);
        // a unit is a head; the last one stands for keys and values
        let units = |offset: usize, unit: usize| Units { total: n_head + 1, offset, unit };
        let of = chunks(self.worker, n_head + 1);
        while let Some(chunk) = self.worker.claim(of) {
            let mut q = buffers.q.columns(&chunk, units(0, key_dim));
            let mut keys = self.kv.keys(layer, &chunk, units(n_head, 1));
            let mut values = self.kv.values(layer, &chunk, units(n_head, 1));
            let first_query = q.range().start;
            for head in chunk.range(n_head + 1) {
                if head == n_head {
                    let work = buffers.work.read(self.worker);
                    s.tile.resize(n * key_dim, 0.0);
                    s.tile_2.clear();
                    for (t, key) in s.tile.chunks_exact_mut(key_dim).enumerate() {
                        let x = &work[t * buffers.work.row_len() + kv_first..][..key_dim];
                        let (c, k_rope) = key.split_at_mut(rank);
                        normalize(kernels, &weights.kv_norm, &x[..rank], c);
                        k_rope.copy_from_slice(&x[rank..]);
                        if let Some(rotator) = &rotator {
                            rotator.rotate(t, k_rope);
                        }
                        s.tile_2.extend_from_slice(c);
                    }
                    keys.store_keys(self.batch.runs, &s.tile);
                    values.store_values(self.batch.runs, &s.tile_2);
                    continue;
                }
                let first = head * spec.query_dim();
                let rows = Rows::Values(Values { first, ..Values::of(queries) });
                let source = Source { rows, row_len: spec.nope_dim, tokens: 0..n };
                let (inputs, k_b) = (&mut s.inputs, &weights.k_b);
                let ready = Ready::prepare_own(self.worker, self.model, inputs, &source, k_b);
                let inputs = ready.read(self.worker, buffers, &s.inputs);
                multiply(self.model, k_b, head * rank..(head + 1) * rank, inputs, n, &mut s.tile);
                let all = queries.read(self.worker);
                for (t, mapped) in s.tile.chunks_exact(rank).enumerate() {
                    let q = &mut q.row(t)[head * key_dim - first_query..][..key_dim];
                    let (to, q_rope) = q.split_at_mut(rank);
                    to.copy_from_slice(mapped);
                    q_rope.copy_from_slice(&all[t * queries.row_len() + first + spec.nope_dim..][..rope]);
                    if let Some(rotator) = &rotator {
                        rotator.rotate(t, q_rope);
                    }
                    if let Some(temperature) = &spec.attention.temperature {
                        let factor = temperature.factor(self.batch.position(t));
                        q.iter_mut().for_each(|x| *x *= factor);
                    }
                }
            }
        }
        self.worker.barrier();
    }

    /// `work = ` the heads' results from those of the cache.
    pub(super) fn map_results(&mut self, weights: &LatentWeights) {
        let (n, spec, buffers) = (self.batch.tokens.len(), &weights.spec, self.buffers);
        let attention = &spec.attention;
        let s = &mut *self.scratch;
        let results = Results {
            buffers: &buffers.attention,
            batch: self.batch,
            cut: &s.cut,
            spec: attention,
            scores: &weights.scores,
            gates: None,
        };
        let (n_head, v_dim) = (attention.heads.n_head, spec.v_dim);
        let units = Units::all(n_head, v_dim);
        let of = chunks(self.worker, n_head);
        while let Some(chunk) = self.worker.claim(of) {
            let mut work = buffers.work.columns(&chunk, units);
            let first = work.range().start;
            for head in chunk.range(n_head) {
                let rows = Rows::Head(&results, head);
                let source = Source { rows, row_len: attention.heads.head_dim_v, tokens: 0..n };
                let (inputs, v_b) = (&mut s.inputs, &weights.v_b);
                let ready = Ready::prepare_own(self.worker, self.model, inputs, &source, v_b);
                let inputs = ready.read(self.worker, buffers, &s.inputs);
                multiply(self.model, v_b, head * v_dim..(head + 1) * v_dim, inputs, n, &mut s.tile);
                for (t, y) in s.tile.chunks_exact(v_dim).enumerate() {
                    work.row(t)[head * v_dim - first..][..v_dim].copy_from_slice(y);
                }
            }
        }
        self.worker.barrier();
    }
}
