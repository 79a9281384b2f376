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

use braise_kernels::ops::{Attention, SPAN, Scores, Scratch, Total, spans};
use braise_kernels::sync::{Shared, Team, Units, Worker};

use super::cpu::{Batch, PRIVATE_ROWS, chunks};
use crate::block::{self, Spec};
use crate::kv::KvCache;
use crate::model::Model;

/// Query rows that are computed together, when there are many tokens: their keys and values are converted once.
const ROWS: usize = 256;

/// Results of attention between the phases.
#[derive(Debug)]
pub(crate) struct AttentionBuffers {
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
    fn new(a: &block::Attention, n: usize) -> Shape {
        let (n_head_kv, group) = (a.n_head_kv, a.group());
        let tokens = if n <= PRIVATE_ROWS { n } else { ROWS.div_ceil(group).min(n) };
        Shape { n_head_kv, group, head_dim_v: a.head_dim_v, n, tokens }
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

impl AttentionBuffers {
    /// Room for batches of `n_batch` tokens in a context of `n_ctx`. `None` if there is not that much memory.
    pub(crate) fn new(team: &Team, spec: &Spec, n_batch: usize, n_ctx: usize) -> Option<AttentionBuffers> {
        let max = |f: &dyn Fn(&block::Attention) -> Option<usize>| {
            spec.layers.iter().map(|l| f(&l.attention)).try_fold(0, |max, n| Some(max.max(n?)))
        };
        let few = PRIVATE_ROWS.min(n_batch);
        let parts = max(&|a| a.n_head.checked_mul(few * (a.head_dim_v.checked_add(2)?)))?;
        let results = max(&|a| {
            // no batch is rounded up to more than twice its size, or beyond what the largest one is
            let rows = n_batch.checked_add(Shape::new(a, n_batch).tokens)?;
            rows.checked_mul(a.n_head)?.checked_mul(a.head_dim_v)
        })?;
        Some(AttentionBuffers {
            parts: Shared::zeroed(team, parts.checked_mul(n_ctx.div_ceil(SPAN))?, 1)?,
            results: Shared::zeroed(team, results, 1)?,
        })
    }

    /// Bytes of all buffers.
    pub(crate) fn bytes(&self) -> usize {
        self.parts.bytes() + self.results.bytes()
    }

    /// Writes the results of one token, all heads, to `y`, after the phase of [`attend`].
    pub(crate) fn row(
        &self,
        worker: &Worker<'_>,
        model: &Model,
        batch: &Batch<'_>,
        a: &block::Attention,
        token: usize,
        y: &mut [f32],
    ) {
        let shape = Shape::new(a, batch.tokens.len());
        let (row_len, len) = (shape.row_len(), shape.part_len());
        if shape.n > PRIVATE_ROWS {
            let results = self.results.read(worker);
            for (head, y) in y.chunks_exact_mut(row_len).enumerate() {
                y.copy_from_slice(&results[(head * shape.padded() + token) * row_len..][..row_len]);
            }
            return;
        }
        let n_spans = spans(&(0..batch.first + shape.n)).len();
        let parts = self.parts.read(worker);
        for (head, y) in y.chunks_exact_mut(shape.head_dim_v).enumerate() {
            let mut total = Total::default();
            for span in 0..n_spans {
                let unit = head / shape.group * n_spans + span;
                let query = (unit * shape.n + token) * shape.group + head % shape.group;
                model.kernels().attention_merge(&parts[query * len..][..len], &mut total, y);
            }
            total.finish(y);
        }
    }
}

/// The attention phase of a layer: the batch's queries `q` over all tokens up to each.
pub(crate) fn attend(
    worker: &mut Worker<'_>,
    model: &Model,
    batch: &Batch<'_>,
    (layer, a): (usize, &block::Attention),
    (q, kv): (&Shared<f32>, &KvCache),
    buffers: &AttentionBuffers,
    scratch: &mut Scratch,
) {
    let shape = Shape::new(a, batch.tokens.len());
    let Shape { n_head_kv, group, n, tokens, .. } = shape;
    let operands = |worker, head: usize, first: usize, n_tokens: usize| {
        let (k, v) = kv.head(layer, worker, head);
        Attention {
            q: &q.read(worker)[first * q.row_len() + head * group * a.head_dim..],
            q_stride: q.row_len(),
            k,
            v,
            first: batch.first + first,
            n_tokens,
            window: None,
            group,
            scale: a.scale,
            scores: Scores::default(),
        }
    };
    if n <= PRIVATE_ROWS {
        let n_spans = spans(&(0..batch.first + n)).len();
        let unit_len = n * group * shape.part_len();
        let units = Units::all(n_head_kv * n_spans, unit_len);
        let of = chunks(worker, units.total);
        while let Some(chunk) = worker.claim(of) {
            let parts = buffers.parts.rows(&chunk, units);
            for (unit, parts) in chunk.range(units.total).zip(parts.chunks_exact_mut(unit_len)) {
                let operands = operands(worker, unit / n_spans, 0, n);
                model.kernels().attention_span(&operands, unit % n_spans, scratch, parts);
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
