//! Attention on the CPU: how its work is cut, and where its results are until the output matrix takes them.
//!
//! Few tokens: a unit is a key/value head and a span of positions, so that a long context keeps all workers busy. Each
//! gives parts, which whoever needs a token's result merges: every worker for itself, as with all inputs of few tokens,
//! so that this takes no barrier. Many tokens: a unit is a key/value head and some tokens, over all positions.
//!
//! ```text
//! parts     (head, span)     a part for each token and query head of the group
//! results   (head, token)    the results of the group
//! ```

use std::ops::Range;

use braise_kernels::ops::{Attention, SPAN, Scores, Scratch, Total, spans};
use braise_kernels::sync::{Shared, Units, Worker};

use super::{Batch, PRIVATE_ROWS, Room, chunks};
use crate::block::{self, Heads, Spec};
use crate::kv::KvCache;
use crate::model::{HeadScores, Model};

/// Query rows that are computed together, when there are many tokens: their keys and values are converted once.
const ROWS: usize = 512;

/// Results of attention between the phases.
#[derive(Debug)]
pub(super) struct AttentionBuffers {
    parts: Shared<f32>,
    results: Shared<f32>,
}

/// Sizes of a layer's attention that decide how it is cut.
#[derive(Debug, Clone, Copy)]
struct Shape {
    n_head_kv: usize,
    group: usize,
    head_dim_v: usize,
    /// Tokens of the batch, and of a unit.
    n: usize,
    tokens: usize,
}

impl Shape {
    fn new(heads: &Heads, n: usize) -> Shape {
        let (n_head_kv, group) = (heads.n_head_kv, heads.group());
        let tokens = if n <= PRIVATE_ROWS { n } else { ROWS.div_ceil(group).min(n) };
        Shape { n_head_kv, group, head_dim_v: heads.head_dim_v, n, tokens }
    }

    /// Tokens of the batch, rounded up to whole units.
    fn padded(&self) -> usize {
        self.n.next_multiple_of(self.tokens)
    }

    /// Values in a token's results of one key/value head.
    fn row_len(&self) -> usize {
        self.group * self.head_dim_v
    }

    /// Values in a query's part.
    fn part_len(&self) -> usize {
        self.head_dim_v + 2
    }
}

/// Query rows of a unit of `n` tokens.
pub(super) fn rows(heads: &Heads, n: usize) -> usize {
    let Shape { tokens, group, .. } = Shape::new(heads, n);
    tokens.saturating_mul(group)
}

impl AttentionBuffers {
    /// Room for batches of `n_batch` tokens in a context of `n_ctx`. `None` if there is not that much memory.
    pub(super) fn new(
        room: &Room<'_>,
        spec: &Spec,
        n_batch: usize,
        n_ctx: usize,
    ) -> Option<AttentionBuffers> {
        let max = |f: &dyn Fn(&Heads) -> Option<usize>| {
            let heads = spec.layers.iter().filter_map(|layer| layer.mixer.attention()).map(|a| &a.heads);
            heads.map(f).try_fold(0, |max, n| Some(max.max(n?)))
        };
        let few = PRIVATE_ROWS.min(n_batch);
        let parts = max(&|a| a.n_head.checked_mul(few * (a.head_dim_v.checked_add(2)?)))?;
        let results = max(&|a| {
            // no batch is rounded up to more than twice its size, or beyond what the largest one is
            let rows = n_batch.checked_add(Shape::new(a, n_batch).tokens)?;
            rows.checked_mul(a.n_head)?.checked_mul(a.head_dim_v)
        })?;
        Some(AttentionBuffers {
            parts: room.zeroed(parts.checked_mul(n_ctx.div_ceil(SPAN))?, 1)?,
            results: room.zeroed(results, 1)?,
        })
    }
}

/// The results of a layer's attention, after the phase of [`attend`].
pub(super) struct Results<'a> {
    pub(super) buffers: &'a AttentionBuffers,
    pub(super) batch: &'a Batch<'a>,
    pub(super) spec: &'a block::Attention,
    pub(super) scores: &'a HeadScores,
    /// What results are multiplied with the sigmoid of, (n_batch, n_head * head_dim_v).
    pub(super) gates: Option<&'a Shared<f32>>,
}

impl Results<'_> {
    /// Writes those of one token, all heads, to `y`.
    pub(super) fn row(&self, worker: &Worker<'_>, model: &Model, token: usize, y: &mut [f32]) {
        for (head, y) in y.chunks_exact_mut(self.spec.heads.head_dim_v).enumerate() {
            self.head(worker, model, token, head, y);
        }
        if let Some(gates) = self.gates {
            let gates = &gates.read(worker)[token * gates.row_len()..][..y.len()];
            for (y, gate) in y.iter_mut().zip(gates) {
                *y /= 1.0 + (-gate).exp();
            }
        }
    }

    /// Writes those of one token and head to `y`.
    pub(super) fn head(&self, worker: &Worker<'_>, model: &Model, token: usize, head: usize, y: &mut [f32]) {
        let shape = Shape::new(&self.spec.heads, self.batch.tokens.len());
        let (kv_head, of_group) = (head / shape.group, head % shape.group);
        if shape.n > PRIVATE_ROWS {
            let results = self.buffers.results.read(worker);
            let at = (kv_head * shape.padded() + token) * shape.row_len() + of_group * shape.head_dim_v;
            return y.copy_from_slice(&results[at..][..y.len()]);
        }
        let spans = seen_spans(self.spec, self.batch);
        let (parts, len) = (self.buffers.parts.read(worker), shape.part_len());
        let mut total = Total::default();
        for span in 0..spans.len() {
            let unit = kv_head * spans.len() + span;
            let query = (unit * shape.n + token) * shape.group + of_group;
            model.kernels().attention_merge(&parts[query * len..][..len], &mut total, y);
        }
        if let Some(sink) = self.scores.sinks.get(head) {
            total.add_sink(*sink, y);
        }
        total.finish(y);
    }
}

/// The spans of positions that some token of the batch sees.
fn seen_spans(a: &block::Attention, batch: &Batch<'_>) -> Range<usize> {
    let start = a.window.map_or(0, |window| match a.causal {
        true => window.start(batch.first),
        false => batch.first.saturating_sub(window.size() / 2),
    });
    spans(&(start..batch.first + batch.tokens.len()))
}

/// The attention phase of a layer: the batch's queries `q` over all tokens that each sees.
pub(super) fn attend(
    worker: &mut Worker<'_>,
    model: &Model,
    batch: &Batch<'_>,
    (layer, a, scores): (usize, &block::Attention, &HeadScores),
    (q, kv): (&Shared<f32>, &KvCache),
    buffers: &AttentionBuffers,
    scratch: &mut Scratch,
) {
    let shape = Shape::new(&a.heads, batch.tokens.len());
    let Shape { n_head_kv, group, n, tokens, .. } = shape;
    // kernels count positions from the first that the cache holds
    let start = kv.first(layer);
    let operands = |worker, head: usize, first: usize, n_tokens: usize| {
        let (k, v) = kv.head(layer, worker, head);
        Attention {
            q: &q.read(worker)[first * q.row_len() + head * group * a.heads.head_dim..],
            q_stride: q.row_len(),
            k,
            v,
            first: batch.first - start + first,
            n_tokens,
            window: a.window,
            both_ways: (!a.causal).then_some(batch.first + batch.tokens.len()),
            group,
            scale: a.scale,
            scores: Scores {
                softcap: a.softcap,
                slopes: of_group(&scores.slopes, head, group),
                sinks: of_group(&scores.sinks, head, group),
                exact: scores.exact,
            },
        }
    };
    if n <= PRIVATE_ROWS {
        let (first_span, n_spans) = (seen_spans(a, batch).start - start / SPAN, seen_spans(a, batch).len());
        let unit_len = n * group * shape.part_len();
        let units = Units::all(n_head_kv * n_spans, unit_len);
        let of = chunks(worker, units.total);
        while let Some(chunk) = worker.claim(of) {
            let parts = buffers.parts.rows(&chunk, units);
            for (unit, parts) in chunk.range(units.total).zip(parts.chunks_exact_mut(unit_len)) {
                let operands = operands(worker, unit / n_spans, 0, n);
                model.kernels().attention_span(&operands, first_span + unit % n_spans, scratch, parts);
            }
        }
    } else {
        let row_len = shape.row_len();
        let per_head = shape.padded() / tokens;
        let units = Units::all(n_head_kv * per_head, tokens * row_len);
        while let Some(chunk) = worker.claim(units.total) {
            let results = buffers.results.rows(&chunk, units);
            for (unit, results) in chunk.range(units.total).zip(results.chunks_exact_mut(tokens * row_len)) {
                let first = unit % per_head * tokens;
                let operands = operands(worker, unit / per_head, first, tokens.min(n - first));
                model.kernels().attention(&operands, scratch, results, row_len);
            }
        }
    }
    worker.barrier();
}

/// The numbers of the query heads that share a key/value head, if there are any.
fn of_group(all: &[f32], head: usize, group: usize) -> &[f32] {
    if all.is_empty() { &[] } else { &all[head * group..][..group] }
}
