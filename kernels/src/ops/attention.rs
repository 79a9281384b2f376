//! Attention of some tokens, for the query heads that share one key/value head, block of positions by block
//! (Dao et al. 2022, arXiv 2205.14135):
//!
//! 1. The keys and values of a [`BLOCK`] become floats once, for all queries.
//! 2. A tile of queries (of heads, then of tokens) meets the keys, sixteen at a time; what the causal mask or the window
//!    hides gets the weight 0.
//! 3. Each query keeps the largest score so far, the sum of weights relative to it, and the weighted sum of values; a
//!    block with a larger score scales down what there is.
//!
//! A long context is cut into spans, for each of which a query has such a triple; they are [merged](merge) in order.
//! Blocks and spans begin at fixed positions. So a query's result does not depend on which others it shares the work
//! with, nor on who computes which span, to the bit.

use std::ops::Range;

use super::kv::{Cached, KEY_BLOCK, KvType};
use super::lines::{Aligned, Lines};
use super::{Lanes, exp, reduce, tanh};

/// Positions whose keys and values are floats at a time: few enough for the innermost caches.
pub const BLOCK: usize = 64;

/// Positions that are one unit of work for few tokens, a multiple of [`BLOCK`].
pub const SPAN: usize = 512;

/// Dimensions that are multiplied at a time.
const STEP: usize = 8;

/// Columns of values whose sums are kept in registers.
const COLUMNS: usize = 16 * VECTORS;
const VECTORS: usize = 2;

/// In place of a score where nothing was seen yet. The number is finite, so that its distance from itself is 0.
pub(crate) const LOWEST: f32 = f32::MIN;

/// The numbers that attention of many tokens multiplies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Numbers {
    /// f32.
    Floats,
    /// 16 bits.
    Integers,
    /// bf16.
    Tiles,
}

/// Which of the positions up to its own a token sees, where it does not see all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Window {
    /// So many, its own included. Where it sees both ways, half of them are on each side.
    Sliding(usize),
    /// Those of its chunk, which begins at a multiple of so many.
    Chunk(usize),
}

impl Window {
    /// The first position that the token at `position` sees.
    #[inline(always)]
    pub fn start(self, position: usize) -> usize {
        match self {
            Window::Sliding(n) => (position + 1).saturating_sub(n),
            Window::Chunk(n) => position / n * n,
        }
    }

    /// Positions that it holds at most.
    pub fn size(self) -> usize {
        let (Window::Sliding(n) | Window::Chunk(n)) = self;
        n
    }
}

/// The operands of attention.
#[derive(Debug, Clone, Copy)]
pub struct Attention<'a> {
    /// Queries: those of token t are the `group * k.dim` values at `t * q_stride`.
    pub q: &'a [f32],
    /// Distance of the queries of a token from those of the next.
    pub q_stride: usize,
    /// Keys of all positions that some token sees.
    pub k: Cached<'a>,
    /// Values of these positions.
    pub v: Cached<'a>,
    /// Position of the first token; it sees itself and those before it, and others as [`Attention::both_ways`] says.
    pub first: usize,
    /// Tokens, at neighbouring positions.
    pub n_tokens: usize,
    /// What a token sees of the positions up to its own; `None`: all.
    pub window: Option<Window>,
    /// Whether a token sees what comes after it too (encoders), and then the number of all positions.
    pub both_ways: Option<usize>,
    /// Query heads that share the keys and values.
    pub group: usize,
    /// What scores are multiplied with, usually 1 / sqrt(head_dim).
    pub scale: f32,
    /// What else is done to them.
    pub scores: Scores<'a>,
}

/// What some models do to scores besides scaling them; by default nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Scores<'a> {
    /// Scores become `softcap * tanh(score / softcap)`.
    pub softcap: Option<f32>,
    /// Of each query head of the group, what a score gains with each position (ALiBi: Press et al. 2021,
    /// arXiv 2108.12409); or none.
    pub slopes: &'a [f32],
    /// Of each query head of the group, the score of a position without a value; or none. [`attention`] adds it;
    /// whoever merges spans does so himself ([`Total::add_sink`]).
    pub sinks: &'a [f32],
    /// Whether floats are multiplied, as suits weights that are not quantized. Else a level may round queries, keys,
    /// values and probabilities ([`Numbers`]).
    pub exact: bool,
}

impl Scores<'_> {
    /// Whether they are scaled alone.
    pub fn are_plain(&self) -> bool {
        self.softcap.is_none() && self.slopes.is_empty() && self.sinks.is_empty()
    }

    /// Whether kernels that round can compute them.
    pub(crate) fn may_be_rounded(&self) -> bool {
        !self.exact && self.are_plain()
    }

    /// Changes the scores of query head `head` with the block of positions that begins at `first`.
    #[inline(always)]
    fn change<L: Lanes>(&self, head: usize, first: usize, scores: &mut [f32; BLOCK]) {
        if let Some(cap) = self.softcap {
            for score in scores.iter_mut() {
                *score = cap * tanh::<L>(*score / cap);
            }
        }
        if let Some(slope) = self.slopes.get(head) {
            for (i, score) in scores.iter_mut().enumerate() {
                *score = L::mul_add(*slope, (first + i) as f32, *score);
            }
        }
    }
}

impl<'a> Attention<'a> {
    /// Queries, of all tokens.
    pub fn rows(&self) -> usize {
        self.n_tokens * self.group
    }

    /// Values in a query's part of the results (see [`merge`]).
    pub fn part_len(&self) -> usize {
        self.v.dim + 2
    }

    /// Query `row`, counted over heads and then tokens.
    #[inline(always)]
    pub(crate) fn query(&self, row: usize) -> &'a [f32] {
        let at = row / self.group * self.q_stride + row % self.group * self.k.dim;
        &self.q[at..at + self.k.dim]
    }

    /// Where the results of query `row` are, if those of a token are `out_stride` from those of the next.
    #[inline(always)]
    pub(crate) fn result(&self, row: usize, out_stride: usize) -> Range<usize> {
        let at = row / self.group * out_stride + row % self.group * self.v.dim;
        at..at + self.v.dim
    }

    /// The positions that query `row` sees.
    #[inline(always)]
    pub(crate) fn seen_by(&self, row: usize) -> Range<usize> {
        let position = self.first + row / self.group;
        match self.both_ways {
            None => self.window.map_or(0, |window| window.start(position))..position + 1,
            Some(n) => {
                let aside = self.window.map_or(n, |window| window.size() / 2);
                position.saturating_sub(aside)..n.min(position + aside + 1)
            }
        }
    }

    /// The positions that any of the queries sees: of one query to the next, both ends only grow.
    pub fn seen(&self) -> Range<usize> {
        self.seen_by(0).start..self.seen_by(self.rows() - 1).end
    }

    /// First positions of the blocks that some query sees a part of, within `span`.
    pub(crate) fn blocks(&self, span: Range<usize>) -> impl Iterator<Item = usize> {
        let seen = self.seen();
        let first = span.start.max(seen.start) / BLOCK * BLOCK;
        (first..span.end.min(seen.end)).step_by(BLOCK)
    }

    /// Panics if the operands do not fit each other: the kernels rely on it.
    pub(crate) fn check(&self) {
        assert!(
            self.n_tokens > 0 && self.group > 0 && self.k.dim > 0 && self.v.dim > 0,
            "attention of nothing"
        );
        assert!(self.window.is_none_or(|window| window.size() > 0), "a token sees itself");
        assert!(
            self.both_ways.is_none() || !matches!(self.window, Some(Window::Chunk(_))),
            "chunks end with the token"
        );
        let of_heads = |numbers: &[f32]| numbers.is_empty() || numbers.len() == self.group;
        assert!(
            of_heads(self.scores.slopes) && of_heads(self.scores.sinks),
            "attention: a number for each head"
        );
        assert!(self.both_ways.is_none_or(|n| n >= self.first + self.n_tokens), "a token sees itself");
        let seen = self.seen();
        assert!(self.k.holds(&seen) && self.v.holds(&seen), "attention: too few keys or values");
    }
}

/// The spans that hold `seen`, as numbers: span i begins at position `i * SPAN`.
pub fn spans(seen: &Range<usize>) -> Range<usize> {
    seen.start / SPAN..seen.end.div_ceil(SPAN)
}

/// Memory of the attention kernels, kept from call to call.
#[derive(Debug, Default)]
pub struct Scratch {
    /// (rows, head_dim rounded up to whole steps): scaled queries.
    queries: Vec<[f32; STEP]>,
    pub(crate) block: FloatBlock,
    /// Of each query: its part of a span, and what the spans before came to.
    parts: Vec<f32>,
    totals: Vec<Total>,
    /// For kernels that compute in integers, or in tiles.
    #[cfg(target_arch = "x86_64")]
    pub(crate) integers: crate::cpu::avx512vnni::attention::Scratch,
    #[cfg(target_arch = "x86_64")]
    pub(crate) tiles: crate::cpu::amx::attention::Scratch,
}

/// Keys and values of a block of positions, in floats.
#[derive(Debug, Default)]
pub(crate) struct FloatBlock {
    /// (BLOCK / 16, head_dim rounded up to whole steps, 16)
    pub(crate) keys: Lines<[f32; KEY_BLOCK]>,
    /// (BLOCK, head_dim_v rounded up to whole vectors)
    pub(crate) values: Lines<[f32; 16]>,
}

impl FloatBlock {
    /// The keys (dim, 16), sixteen by sixteen.
    pub(crate) fn keys_of_dim(&self, dim: usize) -> impl Iterator<Item = &[[f32; KEY_BLOCK]]> {
        self.keys.chunks_exact(dim.next_multiple_of(STEP)).map(move |keys| &keys[..dim])
    }

    /// Reads the block that begins at `first`, up to the position `end`; beyond, keys are anything and values 0.
    #[inline(always)]
    pub(crate) fn read<L: Lanes>(&mut self, a: &Attention<'_>, first: usize, end: usize) {
        let (k_dim, vectors) = (a.k.dim.next_multiple_of(STEP), a.v.dim.div_ceil(16));
        self.keys.resize(BLOCK / KEY_BLOCK * k_dim);
        self.values.resize(BLOCK * vectors);
        let n = BLOCK.min(end - first);
        let (k_row, v_row) = (a.k.row(first), a.v.row(first));
        for (i, to) in self.keys.chunks_exact_mut(k_dim).take(n.div_ceil(KEY_BLOCK)).enumerate() {
            let (to, rest) = to.split_at_mut(a.k.dim);
            a.k.keys::<L>(k_row + i * KEY_BLOCK, to);
            rest.fill([0.0; KEY_BLOCK]);
        }
        for (i, to) in self.values.chunks_exact_mut(vectors).enumerate() {
            if i < n {
                let (to, rest) = to.as_flattened_mut().split_at_mut(a.v.dim);
                a.v.values::<L>(v_row + i, to);
                rest.fill(0.0);
            } else {
                to.fill([0.0; 16]);
            }
        }
    }
}

/// What a tile of queries reads of a block of positions.
trait Block<L: Lanes> {
    /// Some dimensions of sixteen keys.
    type Keys: Copy;
    /// Those of index `step`, counted over the dimensions and then the keys.
    fn keys(&self, step: usize) -> Self::Keys;
    /// The d-th of these dimensions.
    fn key(keys: Self::Keys, d: usize) -> L::Vector;
    /// Sixteen values, counted over the columns and then the positions.
    fn value(&self, index: usize) -> L::Vector;
}

impl<'a, L: Lanes> Block<L> for &'a FloatBlock {
    type Keys = &'a [[f32; KEY_BLOCK]; STEP];

    #[inline(always)]
    fn keys(&self, step: usize) -> Self::Keys {
        &self.keys.as_chunks().0[step]
    }

    #[inline(always)]
    fn key(keys: Self::Keys, d: usize) -> L::Vector {
        L::load(&keys[d])
    }

    #[inline(always)]
    fn value(&self, index: usize) -> L::Vector {
        L::load(&self.values[index])
    }
}

/// A block in half precision, as it lies in the cache. Converting it in registers pays where each number is used once,
/// by a single tile of queries.
#[derive(Debug, Clone, Copy)]
struct Halves<'a> {
    keys: &'a [[[u8; 2 * KEY_BLOCK]; STEP]],
    values: &'a [[u8; 32]],
}

impl<'a> Halves<'a> {
    /// Whether the keys are whole steps and the values whole vectors.
    fn can_read(a: &Attention<'_>) -> bool {
        a.k.ty == KvType::F16
            && a.v.ty == KvType::F16
            && a.k.dim.is_multiple_of(STEP)
            && a.v.dim.is_multiple_of(16)
    }

    /// The block that begins at `first`.
    #[inline(always)]
    fn new<L: Lanes>(a: &Attention<'a>, first: usize) -> Halves<'a> {
        let part = |of: &Cached<'a>| {
            let bytes = 2 * of.dim;
            &of.data[of.row(first) * bytes..][..BLOCK * bytes]
        };
        let (keys, values) = (part(&a.k), part(&a.v));
        L::prefetch_after(keys);
        L::prefetch_after(values);
        Halves { keys: keys.as_chunks().0.as_chunks().0, values: values.as_chunks().0 }
    }
}

impl<'a, L: Lanes> Block<L> for Halves<'a> {
    type Keys = &'a [[u8; 2 * KEY_BLOCK]; STEP];

    #[inline(always)]
    fn keys(&self, step: usize) -> Self::Keys {
        &self.keys[step]
    }

    #[inline(always)]
    fn key(keys: Self::Keys, d: usize) -> L::Vector {
        L::load_halves(&keys[d])
    }

    #[inline(always)]
    fn value(&self, index: usize) -> L::Vector {
        L::load_halves(&self.values[index])
    }
}

/// `out = softmax(scale * q k^T + mask) v` (Vaswani et al. 2017, arXiv 1706.03762) of many tokens. The results of token
/// t are the `group * v.dim` values at `t * out_stride`.
#[inline(always)]
pub fn attention<L: Lanes>(a: &Attention<'_>, scratch: &mut Scratch, out: &mut [f32], out_stride: usize) {
    a.check();
    let len = a.part_len();
    let mut parts = std::mem::take(&mut scratch.parts);
    let mut totals = std::mem::take(&mut scratch.totals);
    parts.resize(a.rows() * len, 0.0);
    totals.clear();
    totals.resize(a.rows(), Total::default());
    for span in spans(&a.seen()) {
        attention_span::<L>(a, span, scratch, &mut parts);
        for (row, (part, total)) in parts.chunks_exact(len).zip(&mut totals).enumerate() {
            merge::<L>(part, total, &mut out[a.result(row, out_stride)]);
        }
    }
    for (row, total) in totals.iter_mut().enumerate() {
        let out = &mut out[a.result(row, out_stride)];
        if let Some(sink) = a.scores.sinks.get(row % a.group) {
            total.add_sink(*sink, out);
        }
        total.finish(out);
    }
    (scratch.parts, scratch.totals) = (parts, totals);
}

/// Attention over span number `span` alone: a part (see [`merge`]) for each query, counted over heads and then tokens.
#[inline(always)]
pub fn attention_span<L: Lanes>(a: &Attention<'_>, span: usize, scratch: &mut Scratch, parts: &mut [f32]) {
    a.check();
    let len = a.part_len();
    assert!(parts.len() == a.rows() * len, "attention: a part for each query");
    for part in parts.chunks_exact_mut(len) {
        part.fill(0.0);
        part[len - 2] = LOWEST;
    }
    let steps = a.k.dim.div_ceil(STEP);
    scratch.queries.clear();
    scratch.queries.resize(a.rows() * steps, [0.0; STEP]);
    for (row, to) in scratch.queries.chunks_exact_mut(steps).enumerate() {
        for (to, q) in to.as_flattened_mut().iter_mut().zip(a.query(row)) {
            *to = q * a.scale;
        }
    }
    let in_registers = a.rows() <= 8 && Halves::can_read(a);
    for first in a.blocks(span * SPAN..(span + 1) * SPAN) {
        let queries = &scratch.queries;
        if in_registers {
            tiles::<L, _>(a, queries, &Halves::new::<L>(a, first), first, parts);
        } else {
            scratch.block.read::<L>(a, first, a.seen().end);
            tiles::<L, _>(a, queries, &&scratch.block, first, parts);
        }
    }
}

/// All queries meet the block that begins at `first`.
#[inline(always)]
fn tiles<L: Lanes, B: Block<L>>(
    a: &Attention<'_>,
    queries: &[[f32; STEP]],
    block: &B,
    first: usize,
    parts: &mut [f32],
) {
    let (steps, len) = (a.k.dim.div_ceil(STEP), a.part_len());
    let mut row = 0;
    while row < a.rows() {
        let (q, parts) = (&queries[row * steps..], &mut parts[row * len..]);
        row += match a.rows() - row {
            8.. if L::MANY_REGISTERS => tile::<L, B, 8, 1>(a, q, block, first, row, parts),
            4.. if L::MANY_REGISTERS => tile::<L, B, 4, 2>(a, q, block, first, row, parts),
            4.. => tile::<L, B, 4, 1>(a, q, block, first, row, parts),
            3 => tile::<L, B, 3, 1>(a, q, block, first, row, parts),
            2 => tile::<L, B, 2, 2>(a, q, block, first, row, parts),
            _ => tile::<L, B, 1, 4>(a, q, block, first, row, parts),
        };
    }
}

/// What the spans so far came to for one query, beside the weighted sum of values.
#[derive(Debug, Clone, Copy)]
pub struct Total {
    max: f32,
    sum: f32,
}

impl Default for Total {
    /// No span yet.
    fn default() -> Self {
        Total { max: LOWEST, sum: 0.0 }
    }
}

impl Total {
    /// Adds a position with this score and without a value, after the last span.
    pub fn add_sink(&mut self, score: f32, values: &mut [f32]) {
        let max = self.max.max(score);
        let old = (self.max - max).exp();
        values.iter_mut().for_each(|value| *value *= old);
        *self = Total { max, sum: self.sum * old + (score - max).exp() };
    }

    /// Turns the weighted sum of values into the result.
    #[inline(always)]
    pub fn finish(&self, values: &mut [f32]) {
        let inverse = 1.0 / self.sum;
        for value in values {
            *value *= inverse;
        }
    }
}

/// Adds a query's part of the next span to `total` and to `values`, the weighted sum of values; what `values` held before
/// the first span does not matter. A part is: a weighted sum of values (v.dim numbers), the largest score, and the sum of
/// the weights e^(score - largest score).
#[inline(always)]
pub fn merge<L: Lanes>(part: &[f32], total: &mut Total, values: &mut [f32]) {
    let [part @ .., part_max, part_sum] = part else { panic!("a part has a largest score and a sum") };
    if total.max == LOWEST {
        values.fill(0.0);
    }
    let max = total.max.max(*part_max);
    let (old, new) = (weight::<L>(total.max - max), weight::<L>(*part_max - max));
    for (value, part) in values.iter_mut().zip(part) {
        *value = L::mul_add(*part, new, *value * old);
    }
    *total = Total { max, sum: L::mul_add(*part_sum, new, total.sum * old) };
}

/// Queries `row..row + N` meet a block; S times sixteen keys at a time, as registers allow. Returns N.
#[inline(always)]
fn tile<L: Lanes, B: Block<L>, const N: usize, const S: usize>(
    a: &Attention<'_>,
    q: &[[f32; STEP]],
    block: &B,
    first: usize,
    row: usize,
    parts: &mut [f32],
) -> usize {
    let seen: [Range<usize>; N] = std::array::from_fn(|r| {
        let seen = a.seen_by(row + r);
        let within = |position: usize| position.clamp(first, first + BLOCK) - first;
        within(seen.start)..within(seen.end)
    });
    // the last query sees farthest
    let end = seen[N - 1].end;
    if end == 0 || seen[0].start == BLOCK {
        return N;
    }
    let steps = a.k.dim.div_ceil(STEP);
    let q = &q[..N * steps];
    let mut weights = Aligned([[0.0; BLOCK]; N]);
    let weights = &mut weights.0;
    for i in 0..BLOCK / KEY_BLOCK / S {
        if i * S * KEY_BLOCK < end {
            let dots = dots::<L, B, N, S>(q, block, i * S, steps);
            for (dots, weights) in dots.into_iter().zip(weights.iter_mut()) {
                for (dots, to) in dots.into_iter().zip(&mut weights.as_chunks_mut().0[i * S..]) {
                    L::store(to, dots);
                }
            }
        }
    }
    let mut parts: [&mut [f32]; N] = {
        let mut parts = parts.chunks_exact_mut(a.part_len());
        std::array::from_fn(|_| parts.next().expect("a part for each query"))
    };
    if !a.scores.are_plain() {
        for (r, scores) in weights.iter_mut().enumerate() {
            a.scores.change::<L>((row + r) % a.group, first, scores);
        }
    }
    for ((weights, seen), part) in weights.iter_mut().zip(seen).zip(&mut parts) {
        weigh::<L>(weights, seen, part);
    }
    for column in (0..a.v.dim).step_by(COLUMNS) {
        add_values::<L, B, N>(weights, block, end, a.v.dim, column, &mut parts);
    }
    N
}

/// Dot products of N queries (query, step) with S times sixteen keys, from the sixteen of index `first` on.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "d counts in the keys too")]
fn dots<L: Lanes, B: Block<L>, const N: usize, const S: usize>(
    q: &[[f32; STEP]],
    block: &B,
    first: usize,
    steps: usize,
) -> [[L::Vector; S]; N] {
    let mut sums = [[L::splat(0.0); S]; N];
    for step in 0..steps {
        let k: [_; S] = std::array::from_fn(|s| block.keys((first + s) * steps + step));
        let q: [_; N] = std::array::from_fn(|r| &q[r * steps + step]);
        for d in 0..STEP {
            for s in 0..S {
                let k = B::key(k[s], d);
                for r in 0..N {
                    sums[r][s] = L::mul_add_16(L::splat(q[r][d]), k, sums[r][s]);
                }
            }
        }
    }
    sums
}

/// e^x; 0 below x = -70, where a weight adds nothing to the largest, which is 1. Smaller ones times the smallest values in
/// half precision would be subnormal, and each operation on such sums takes a hundred times as long.
#[inline(always)]
fn weight<L: Lanes>(x: f32) -> f32 {
    let e = exp::<L>(x);
    if x < -70.0 { 0.0 } else { e }
}

/// Turns a query's scores into weights relative to its largest score so far, and scales its part down to that. A NaN
/// among the scores that it sees makes the sum of weights NaN.
#[inline(always)]
fn weigh<L: Lanes>(scores: &mut [f32; BLOCK], seen: Range<usize>, part: &mut [f32]) {
    scores[..seen.start].fill(LOWEST);
    scores[seen.end..].fill(LOWEST);
    let mut max = [LOWEST; 16];
    for chunk in scores.as_chunks::<16>().0 {
        for i in 0..16 {
            max[i] = if chunk[i] > max[i] { chunk[i] } else { max[i] };
        }
    }
    let [sums @ .., old_max, old_sum] = part else { panic!("a part has a largest score and a sum") };
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            max[i] = if max[i + half] > max[i] { max[i + half] } else { max[i] };
        }
    }
    let max = old_max.max(max[0]);
    for score in scores.iter_mut() {
        *score = weight::<L>(*score - max);
    }
    scores[..seen.start].fill(0.0);
    scores[seen.end..].fill(0.0);
    let mut sum = [0.0; 16];
    for chunk in scores.as_chunks::<16>().0 {
        for i in 0..16 {
            sum[i] += chunk[i];
        }
    }
    let smaller = weight::<L>(*old_max - max);
    *old_sum = L::mul_add(*old_sum, smaller, reduce(sum));
    *old_max = max;
    for sum in sums {
        *sum *= smaller;
    }
}

/// Adds `sum over j < end of weights[r, j] v[j]` to columns `column..column + 32` of each query's part.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "j counts in the block too")]
fn add_values<L: Lanes, B: Block<L>, const N: usize>(
    weights: &[[f32; BLOCK]; N],
    block: &B,
    end: usize,
    v_dim: usize,
    column: usize,
    parts: &mut [&mut [f32]; N],
) {
    let width = COLUMNS.min(v_dim - column);
    let stride = v_dim.div_ceil(16);
    let mut sums = [[L::splat(0.0); VECTORS]; N];
    for (sums, part) in sums.iter_mut().zip(&*parts) {
        let mut room = [0.0; COLUMNS];
        let columns = part[column..v_dim].first_chunk().unwrap_or_else(|| {
            room[..width].copy_from_slice(&part[column..v_dim]);
            &room
        });
        for (sum, columns) in sums.iter_mut().zip(columns.as_chunks().0) {
            *sum = L::load(columns);
        }
    }
    // where the last columns fill but one vector, the second is the first again, and not used
    let at: [usize; VECTORS] = std::array::from_fn(|h| (column / 16 + h).min(stride - 1));
    for j in 0..end.min(BLOCK) {
        let mut v = [L::splat(0.0); VECTORS];
        for h in 0..VECTORS {
            v[h] = block.value(j * stride + at[h]);
        }
        for r in 0..N {
            let weight = L::splat(weights[r][j]);
            for h in 0..VECTORS {
                sums[r][h] = L::mul_add_16(weight, v[h], sums[r][h]);
            }
        }
    }
    for (sums, part) in sums.iter().zip(parts) {
        let mut room = [0.0; COLUMNS];
        for (sum, columns) in sums.iter().zip(room.as_chunks_mut().0) {
            L::store(columns, *sum);
        }
        match part[column..v_dim].first_chunk_mut() {
            Some(columns) => *columns = room,
            None => part[column..v_dim].copy_from_slice(&room[..width]),
        }
    }
}
