//! Attention on the CPU: how its work is cut, and where its results are until the output matrix takes them.
//!
//! A sequence with few tokens in the batch: a unit is a key/value head and a span of positions, so that a long context
//! keeps all workers busy. Each gives parts, which whoever needs a token's result merges: every worker for itself, as
//! with all inputs of few tokens, so that this takes no barrier. One with many: a unit is a key/value head and some
//! tokens, over all positions. A phase computes the units of all sequences, first those of many tokens.
//!
//! ```text
//! results   (sequence, head, token)    the results of the group
//! parts     (sequence, head, span)     a part for each token and query head of the group
//! ```

use std::ops::Range;

use braise_kernels::ops::{Attention, SPAN, Scores, Scratch, Total, spans};
use braise_kernels::sync::{Shared, Units, Worker};

use super::{Allocator, Batch, PRIVATE_ROWS, Run, chunks};
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

/// Query rows of a unit of `n` tokens, at the most.
pub(super) fn rows(heads: &Heads, n: usize) -> usize {
    let tokens = if is_many(n) { ROWS.div_ceil(heads.group()).min(n) } else { n };
    tokens.saturating_mul(heads.group())
}

impl AttentionBuffers {
    /// Room for batches of `n_batch` tokens of up to `n_seq` sequences of `n_ctx` tokens. `None` if there is not that
    /// much memory.
    pub(super) fn new(
        allocator: &Allocator<'_>,
        spec: &Spec,
        n_batch: usize,
        (n_seq, n_ctx): (usize, usize),
    ) -> Option<AttentionBuffers> {
        let max = |f: &dyn Fn(&Heads) -> Option<usize>| {
            let heads = spec.layers.iter().filter_map(|layer| layer.mixer.attention()).map(|a| &a.heads);
            heads.map(f).try_fold(0, |max, n| Some(max.max(n?)))
        };
        let few = PRIVATE_ROWS.min(n_batch);
        let parts = max(&|a| a.n_head.checked_mul(few * (a.head_dim_v.checked_add(2)?)))?;
        let parts = parts.checked_mul(n_ctx.div_ceil(SPAN))?.checked_mul(n_seq)?;
        let results = max(&|a| {
            // what one sequence is rounded up to; `Cut::plan` leaves it at that for several
            let rows = n_batch.checked_add(ROWS.div_ceil(a.group()).min(n_batch))?;
            rows.checked_mul(a.n_head)?.checked_mul(a.head_dim_v)
        })?;
        Some(AttentionBuffers { parts: allocator.zeroed(parts, 1)?, results: allocator.zeroed(results, 1)? })
    }
}

/// How the attention of a batch is cut in a layer. Every worker finds it out for itself.
#[derive(Debug, Default)]
pub(super) struct Cut {
    /// Of each run, its first unit; those of the runs of few tokens begin at 0 again.
    first_units: Vec<usize>,
    /// Units of runs of many tokens, and of few.
    many: usize,
    few: usize,
    /// Tokens in a unit of either kind, for which there is room in the results.
    many_tokens: usize,
    few_tokens: usize,
}

impl Cut {
    /// Finds out how `runs` are cut where attention is `a`, such that the results fit `buffers`.
    pub(super) fn plan(&mut self, runs: &[Run], a: &block::Attention, buffers: &AttentionBuffers) {
        let of = |many: bool| runs.iter().map(|run| run.tokens.len()).filter(move |n| is_many(*n) == many);
        self.few_tokens = of(false).max().unwrap_or(0);
        self.many_tokens = ROWS.div_ceil(a.heads.group()).min(of(true).max().unwrap_or(1));
        // units are of one size, to which all runs are rounded up
        let of_token = a.heads.n_head * a.heads.head_dim_v * size_of::<f32>();
        let padded = |tokens: usize| of(true).map(|n| n.next_multiple_of(tokens)).sum::<usize>();
        while padded(self.many_tokens) * of_token > buffers.results.bytes() {
            self.many_tokens = self.many_tokens.div_ceil(2);
        }
        (self.many, self.few) = (0, 0);
        self.first_units.clear();
        for run in runs {
            let n_tokens = run.tokens.len();
            let (next, units) = match is_many(n_tokens) {
                true => (&mut self.many, n_tokens.div_ceil(self.many_tokens)),
                false => (&mut self.few, seen_spans(a, run).len()),
            };
            self.first_units.push(*next);
            *next += units * a.heads.n_head_kv;
        }
    }

    /// The run that a unit belongs to, of those with many tokens or of those with few.
    fn run_of(&self, unit: usize, runs: &[Run], many: bool) -> usize {
        let is_in_or_after =
            |i: &usize| is_many(runs[*i].tokens.len()) == many && self.first_units[*i] <= unit;
        (0..runs.len()).rev().find(is_in_or_after).expect("a unit of a run")
    }
}

/// Whether the attention of so many tokens of one sequence is computed by the kernel for many.
fn is_many(n_tokens: usize) -> bool {
    n_tokens > PRIVATE_ROWS
}

/// The results of a layer's attention, after the phase of [`Attend`].
pub(super) struct Results<'a> {
    pub(super) buffers: &'a AttentionBuffers,
    pub(super) batch: Batch<'a>,
    pub(super) cut: &'a Cut,
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
        let (heads, cut) = (&self.spec.heads, self.cut);
        let group = heads.group();
        let (kv_head, of_group) = (head / group, head % group);
        let index = self.batch.run_of(token);
        let run = &self.batch.runs[index];
        let token = token - run.tokens.start;
        if is_many(run.tokens.len()) {
            let units = run.tokens.len().div_ceil(cut.many_tokens);
            let first_token = (cut.first_units[index] + kv_head * units) * cut.many_tokens;
            let at = ((first_token + token) * group + of_group) * heads.head_dim_v;
            return y.copy_from_slice(&self.buffers.results.read(worker)[at..][..y.len()]);
        }
        let n_spans = seen_spans(self.spec, run).len();
        let (parts, len) = (self.buffers.parts.read(worker), heads.head_dim_v + 2);
        let mut total = Total::default();
        for span in 0..n_spans {
            let unit = cut.first_units[index] + kv_head * n_spans + span;
            let query = (unit * cut.few_tokens + token) * group + of_group;
            model.kernels().attention_merge(&parts[query * len..][..len], &mut total, y);
        }
        if let Some(sink) = self.scores.sinks.get(head) {
            total.add_sink(*sink, y);
        }
        total.finish(y);
    }
}

/// The spans of positions that some token of the run sees.
fn seen_spans(a: &block::Attention, run: &Run) -> Range<usize> {
    let start = a.window.map_or(0, |window| match a.causal {
        true => window.start(run.first),
        false => run.first.saturating_sub(window.size() / 2),
    });
    spans(&(start..run.end()))
}

/// The attention phase of a layer: the batch's queries over all tokens that each sees.
pub(super) struct Attend<'a> {
    pub(super) model: &'a Model,
    pub(super) batch: Batch<'a>,
    /// The layer that has the keys and values.
    pub(super) layer: usize,
    pub(super) spec: &'a block::Attention,
    pub(super) scores: &'a HeadScores,
    pub(super) kv: &'a KvCache,
    pub(super) cut: &'a Cut,
}

impl Attend<'_> {
    /// Of the queries `q`; the results go into `buffers`.
    pub(super) fn run(
        &self,
        worker: &mut Worker<'_>,
        q: &Shared<f32>,
        buffers: &AttentionBuffers,
        scratch: &mut Scratch,
    ) {
        let (cut, heads, kernels) = (self.cut, &self.spec.heads, self.model.kernels());
        let row_len = heads.group() * heads.head_dim_v;
        let many_len = cut.many_tokens * row_len;
        let few_len = cut.few_tokens * heads.group() * (heads.head_dim_v + 2);
        let total = cut.many + cut.few;
        let units = |offset: usize, unit: usize| Units { total, offset, unit };
        // units of many tokens are large enough to be claimed one by one
        let of = if cut.many == 0 { chunks(worker, total) } else { total };
        while let Some(chunk) = worker.claim(of) {
            let mut results = buffers.results.rows(&chunk, units(0, many_len));
            let mut parts = buffers.parts.rows(&chunk, units(cut.many, few_len));
            for unit in chunk.range(total) {
                if unit < cut.many {
                    let index = cut.run_of(unit, self.batch.runs, true);
                    let run = &self.batch.runs[index];
                    let (unit, n_tokens) = (unit - cut.first_units[index], run.tokens.len());
                    let of_head = n_tokens.div_ceil(cut.many_tokens);
                    let first = unit % of_head * cut.many_tokens;
                    let tokens = first..n_tokens.min(first + cut.many_tokens);
                    let results = results.split_off_mut(..many_len).expect("the unit's results");
                    let operands = self.operands(worker, q, run, unit / of_head, tokens);
                    kernels.attention(&operands, scratch, results, row_len);
                } else {
                    let index = cut.run_of(unit - cut.many, self.batch.runs, false);
                    let run = &self.batch.runs[index];
                    let unit = unit - cut.many - cut.first_units[index];
                    let (spans, n_tokens) = (seen_spans(self.spec, run), run.tokens.len());
                    let parts = parts.split_off_mut(..few_len).expect("the unit's parts");
                    let parts = &mut parts[..few_len / cut.few_tokens * n_tokens];
                    let operands = self.operands(worker, q, run, unit / spans.len(), 0..n_tokens);
                    kernels.attention_span(&operands, spans.start + unit % spans.len(), scratch, parts);
                }
            }
        }
        worker.barrier();
    }

    /// Some tokens of a run, at a key/value head.
    fn operands<'b>(
        &'b self,
        worker: &'b Worker<'_>,
        q: &'b Shared<f32>,
        run: &Run,
        head: usize,
        tokens: Range<usize>,
    ) -> Attention<'b> {
        let (a, scores, group) = (self.spec, self.scores, self.spec.heads.group());
        let (k, v) = self.kv.head((self.layer, run.seq), worker, head);
        let first_row = (run.tokens.start + tokens.start) * q.row_len();
        Attention {
            q: &q.read(worker)[first_row + head * group * a.heads.head_dim..],
            q_stride: q.row_len(),
            k,
            v,
            first: run.first + tokens.start,
            n_tokens: tokens.len(),
            window: a.window,
            both_ways: (!a.causal).then_some(run.end()),
            group,
            scale: a.scale,
            scores: Scores {
                softcap: a.softcap,
                slopes: of_group(&scores.slopes, head, group),
                sinks: of_group(&scores.sinks, head, group),
                exact: scores.exact,
            },
        }
    }
}

/// The numbers of the query heads that share a key/value head, if there are any.
fn of_group(all: &[f32], head: usize, group: usize) -> &[f32] {
    if all.is_empty() { &[] } else { &all[head * group..][..group] }
}
