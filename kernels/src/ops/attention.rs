//! Attention of some tokens, for the query heads that share one key/value head, block of positions by block
//! (Dao et al. 2022, arXiv 2205.14135):
//!
//! 1. The keys and values of a [`BLOCK`] become floats once, for all queries; of few queries in registers.
//! 2. A tile of queries (of heads, then of tokens) meets the keys, sixteen at a time; what the causal mask or the window
//!    hides gets the weight 0.
//! 3. Each query keeps the largest score so far, the sum of weights relative to it, and the weighted sum of values; a
//!    block with a larger score scales down what there is.
//!
//! A long context is cut into spans, for each of which a query has such a triple; they are [merged](merge) in order.
//! Blocks and spans begin at fixed positions. So a query's result does not depend on which others it shares the work
//! with, nor on who computes which span, to the bit.
//!
//! Few queries read keys and values as fast as they come: their lines of memory are asked for one by one between the
//! multiplications, in the order of memory, because a burst of them would hold up what is needed now.

use std::ops::Range;

use super::kv::{Cached, GROUP, KEY_BLOCK, KvType};
use super::lines::{Aligned, Lines};
use super::{Lanes, exp, tanh};

/// Positions whose keys and values are floats at a time: few enough for the innermost caches.
pub const BLOCK: usize = 64;

/// Positions that are one unit of work for few tokens, a multiple of [`BLOCK`].
pub const SPAN: usize = 512;

/// Dimensions that are multiplied at a time.
const STEP: usize = 8;

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

/// Keys of a block of positions, sixteen side by side: what a tile of queries reads of them.
trait Keys<L: Lanes>: Copy {
    /// Some dimensions of sixteen keys.
    type Step: Copy;
    /// Bytes of a dimension of sixteen keys in the cache, if they are read from there; else 0.
    const BYTES: usize;
    /// Where keys `16 * sixteen` and the next are.
    fn at(&self, sixteen: usize) -> *const u8;
    /// Dimensions `STEP * step` and the next of keys `16 * sixteen` and the next, where keys have `steps` of them.
    fn step(&self, sixteen: usize, step: usize, steps: usize) -> Self::Step;
    /// The d-th of these dimensions.
    fn key(step: Self::Step, d: usize) -> L::Vector;
}

/// Values of a block of positions: what a tile of queries reads of them.
trait Values<L: Lanes>: Copy {
    /// Asks for memory ahead of columns `16 * vector` and the next, `16 * vectors`, of position `j`.
    fn fetch(&self, j: usize, vector: usize, vectors: usize);
    /// Columns `16 * vector` and the next of position `j`.
    fn value(&self, j: usize, vector: usize) -> L::Vector;
}

/// Asks for memory ahead of the `n` bytes at `at`.
#[inline(always)]
fn fetch<L: Lanes>(at: *const u8, n: usize) {
    for line in (0..n).step_by(64) {
        L::prefetch_ahead(at.wrapping_add(line));
    }
}

/// Floats, of some dimensions or columns.
#[derive(Debug, Clone, Copy)]
struct Floats<'a> {
    all: &'a [[f32; 16]],
    /// Vectors of a position's value; keys do without.
    vectors: usize,
}

impl<'a, L: Lanes> Keys<L> for Floats<'a> {
    type Step = &'a [[f32; KEY_BLOCK]; STEP];
    const BYTES: usize = 0;

    #[inline(always)]
    fn at(&self, _: usize) -> *const u8 {
        self.all.as_ptr().cast()
    }

    #[inline(always)]
    fn step(&self, sixteen: usize, step: usize, steps: usize) -> Self::Step {
        &self.all.as_chunks().0[sixteen * steps + step]
    }

    #[inline(always)]
    fn key(step: Self::Step, d: usize) -> L::Vector {
        L::load(&step[d])
    }
}

impl<L: Lanes> Values<L> for Floats<'_> {
    #[inline(always)]
    fn fetch(&self, _: usize, _: usize, _: usize) {}

    #[inline(always)]
    fn value(&self, j: usize, vector: usize) -> L::Vector {
        L::load(&self.all[j * self.vectors + vector])
    }
}

/// Half precision, as it lies in the cache. Converting it in registers pays where few queries meet it.
#[derive(Debug, Clone, Copy)]
struct Halves<'a> {
    all: &'a [[u8; 32]],
    /// Vectors of a position.
    vectors: usize,
}

impl<'a, L: Lanes> Keys<L> for Halves<'a> {
    type Step = &'a [[u8; 32]; STEP];
    const BYTES: usize = 32;

    #[inline(always)]
    fn at(&self, sixteen: usize) -> *const u8 {
        self.all[sixteen * self.all.len() / (BLOCK / KEY_BLOCK)..].as_ptr().cast()
    }

    #[inline(always)]
    fn step(&self, sixteen: usize, step: usize, steps: usize) -> Self::Step {
        &self.all.as_chunks().0[sixteen * steps + step]
    }

    #[inline(always)]
    fn key(step: Self::Step, d: usize) -> L::Vector {
        L::load_halves(&step[d])
    }
}

impl<L: Lanes> Values<L> for Halves<'_> {
    #[inline(always)]
    fn fetch(&self, j: usize, vector: usize, vectors: usize) {
        if vector.is_multiple_of(2) {
            fetch::<L>(self.all[j * self.vectors + vector..].as_ptr().cast(), 32 * vectors);
        }
    }

    #[inline(always)]
    fn value(&self, j: usize, vector: usize) -> L::Vector {
        L::load_halves(&self.all[j * self.vectors + vector])
    }
}

/// Codes of q8_0 with their scales, as they lie in the cache.
#[derive(Debug, Clone, Copy)]
struct Codes<'a> {
    all: &'a [u8],
    dim: usize,
    /// Bytes of a position.
    bytes: usize,
}

impl<'a, L: Lanes> Keys<L> for Codes<'a> {
    type Step = (&'a [[u8; KEY_BLOCK]; STEP], L::Vector);
    const BYTES: usize = 16;

    #[inline(always)]
    fn at(&self, sixteen: usize) -> *const u8 {
        self.all[sixteen * KEY_BLOCK * self.bytes..].as_ptr()
    }

    #[inline(always)]
    fn step(&self, sixteen: usize, step: usize, _: usize) -> Self::Step {
        let bytes = KEY_BLOCK * self.bytes;
        let (codes, scales) = self.all[sixteen * bytes..][..bytes].split_at(KEY_BLOCK * self.dim);
        let scale = &scales.as_chunks().0[step * STEP / GROUP];
        (&codes.as_chunks().0.as_chunks().0[step], L::load_halves(scale))
    }

    #[inline(always)]
    fn key((codes, scales): Self::Step, d: usize) -> L::Vector {
        L::mul_16(L::load_codes(&codes[d]), scales)
    }
}

impl<L: Lanes> Values<L> for Codes<'_> {
    #[inline(always)]
    fn fetch(&self, j: usize, vector: usize, vectors: usize) {
        if vector.is_multiple_of(4) {
            fetch::<L>(self.all[j * self.bytes + 16 * vector..].as_ptr(), 16 * vectors);
        }
    }

    #[inline(always)]
    fn value(&self, j: usize, vector: usize) -> L::Vector {
        let (codes, scales) = self.all[j * self.bytes..][..self.bytes].split_at(self.dim);
        let scale = L::splat_half(scales.as_chunks().0[vector * 16 / GROUP]);
        L::mul_16(L::load_codes(&codes.as_chunks().0[vector]), scale)
    }
}

/// Keys or values of a block of positions.
#[derive(Debug, Clone, Copy)]
enum Rows<'a> {
    Floats(Floats<'a>),
    Halves(Halves<'a>),
    Codes(Codes<'a>),
}

impl<'a> Rows<'a> {
    /// Those of the block that begins at `first`, as they lie in the cache; `None` if they are not whole runs of `unit`.
    #[inline(always)]
    fn cached(of: &Cached<'a>, first: usize, unit: usize) -> Option<Rows<'a>> {
        let bytes = of.ty.row_bytes(of.dim)?;
        let all = &of.data[of.row(first) * bytes..][..BLOCK * bytes];
        let rows = match of.ty {
            KvType::F16 => Rows::Halves(Halves { all: all.as_chunks().0, vectors: of.dim / 16 }),
            KvType::Q8_0 => Rows::Codes(Codes { all, dim: of.dim, bytes }),
        };
        of.dim.is_multiple_of(unit).then_some(rows)
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
    for first in a.blocks(span * SPAN..(span + 1) * SPAN) {
        let cached = (Rows::cached(&a.k, first, STEP), Rows::cached(&a.v, first, 16));
        let block = match cached {
            (Some(keys), Some(values)) if a.rows() <= 8 => (keys, values),
            _ => {
                scratch.block.read::<L>(a, first, a.seen().end);
                let rows = |all, dim: usize| Rows::Floats(Floats { all, vectors: dim.div_ceil(16) });
                (rows(&*scratch.block.keys, 0), rows(&*scratch.block.values, a.v.dim))
            }
        };
        tiles::<L>(a, &scratch.queries, block, first, parts);
    }
}

/// All queries meet the block that begins at `first`.
#[inline(always)]
fn tiles<L: Lanes>(
    a: &Attention<'_>,
    queries: &[[f32; STEP]],
    block: (Rows<'_>, Rows<'_>),
    first: usize,
    parts: &mut [f32],
) {
    let (steps, len) = (a.k.dim.div_ceil(STEP), a.part_len());
    let mut row = 0;
    while row < a.rows() {
        let (q, parts) = (&queries[row * steps..], &mut parts[row * len..]);
        row += if L::MANY_REGISTERS {
            match a.rows() - row {
                8.. => tile::<L, 8, 2, 2>(a, q, block, first, row, parts),
                4.. => tile::<L, 4, 4, 4>(a, q, block, first, row, parts),
                3 => tile::<L, 3, 4, 4>(a, q, block, first, row, parts),
                2 => tile::<L, 2, 4, 4>(a, q, block, first, row, parts),
                _ => tile::<L, 1, 4, 4>(a, q, block, first, row, parts),
            }
        } else {
            match a.rows() - row {
                4.. => tile::<L, 4, 1, 1>(a, q, block, first, row, parts),
                3 => tile::<L, 3, 1, 1>(a, q, block, first, row, parts),
                2 => tile::<L, 2, 2, 2>(a, q, block, first, row, parts),
                _ => tile::<L, 1, 4, 4>(a, q, block, first, row, parts),
            }
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

/// Queries `row..row + N` meet a block; S times sixteen keys and V vectors of columns at a time, as registers allow.
/// Returns N.
#[inline(always)]
fn tile<L: Lanes, const N: usize, const S: usize, const V: usize>(
    a: &Attention<'_>,
    q: &[[f32; STEP]],
    (keys, values): (Rows<'_>, Rows<'_>),
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
    for sixteen in (0..end.div_ceil(KEY_BLOCK)).step_by(S) {
        match keys {
            Rows::Floats(keys) => dots::<L, _, N, S>(q, keys, sixteen, steps, weights),
            Rows::Halves(keys) => dots::<L, _, N, S>(q, keys, sixteen, steps, weights),
            Rows::Codes(keys) => dots::<L, _, N, S>(q, keys, sixteen, steps, weights),
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
    for vector in (0..a.v.dim.div_ceil(16)).step_by(V) {
        match values {
            Rows::Floats(values) => {
                add_values::<L, _, N, V>(weights, values, end, a.v.dim, vector, &mut parts)
            }
            Rows::Halves(values) => {
                add_values::<L, _, N, V>(weights, values, end, a.v.dim, vector, &mut parts)
            }
            Rows::Codes(values) => {
                add_values::<L, _, N, V>(weights, values, end, a.v.dim, vector, &mut parts)
            }
        }
    }
    N
}

/// Writes the products of N queries and S times sixteen keys, from keys `16 * sixteen` of the block on. Each is a sum over
/// the dimensions in order, whatever N and S.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "closures in iterators are not compiled for the level")]
fn dots<L: Lanes, K: Keys<L>, const N: usize, const S: usize>(
    q: &[[f32; STEP]],
    keys: K,
    sixteen: usize,
    steps: usize,
    scores: &mut [[f32; BLOCK]; N],
) {
    let mut sums = [[L::splat(0.0); S]; N];
    let mut at = keys.at(sixteen);
    for step in 0..steps {
        let k: [_; S] = std::array::from_fn(|s| keys.step(sixteen + s, step, steps));
        let q: [_; N] = std::array::from_fn(|r| &q[r * steps + step]);
        for d in 0..STEP {
            // of all keys in the order of memory, which is not that of the products
            if (d * S * K::BYTES).is_multiple_of(64) {
                fetch::<L>(at, S * K::BYTES);
                at = at.wrapping_add(64.max(S * K::BYTES));
            }
            for s in 0..S {
                let k = K::key(k[s], d);
                for r in 0..N {
                    sums[r][s] = L::mul_add_16(L::splat(q[r][d]), k, sums[r][s]);
                }
            }
        }
    }
    for (sums, scores) in sums.into_iter().zip(scores) {
        for (sum, to) in sums.into_iter().zip(&mut scores.as_chunks_mut().0[sixteen..]) {
            L::store(to, sum);
        }
    }
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
    let all = seen == (0..BLOCK);
    if !all {
        scores[..seen.start].fill(LOWEST);
        scores[seen.end..].fill(LOWEST);
    }
    let [sums @ .., old_max, old_sum] = part else { panic!("a part has a largest score and a sum") };
    let mut max = L::splat(LOWEST);
    for scores in scores.as_chunks().0 {
        max = L::max_16(L::load(scores), max);
    }
    let max = old_max.max(L::largest(max));
    for score in scores.iter_mut() {
        *score = weight::<L>(*score - max);
    }
    if !all {
        scores[..seen.start].fill(0.0);
        scores[seen.end..].fill(0.0);
    }
    let mut sum = L::splat(0.0);
    for scores in scores.as_chunks().0 {
        sum = L::add_16(L::load(scores), sum);
    }
    let mut smaller = 1.0;
    if *old_max < max {
        smaller = weight::<L>(*old_max - max);
        *old_max = max;
        for sum in sums {
            *sum *= smaller;
        }
    }
    *old_sum = L::mul_add(*old_sum, smaller, L::sum(sum));
}

/// Adds `sum over j < end of weights[r, j] v[j]` to V vectors of columns of each query's part, from `vector` on.
#[inline(always)]
#[allow(clippy::needless_range_loop, reason = "j counts in the block too")]
fn add_values<L: Lanes, B: Values<L>, const N: usize, const V: usize>(
    weights: &[[f32; BLOCK]; N],
    values: B,
    end: usize,
    v_dim: usize,
    vector: usize,
    parts: &mut [&mut [f32]; N],
) {
    let columns = 16 * vector..v_dim.min(16 * (vector + V));
    let mut sums = [[L::splat(0.0); V]; N];
    for (sums, part) in sums.iter_mut().zip(&*parts) {
        for (sum, part) in sums.iter_mut().zip(part[columns.clone()].chunks(16)) {
            *sum = match part.first_chunk() {
                Some(part) => L::load(part),
                None => {
                    let mut room = [0.0; 16];
                    room[..part.len()].copy_from_slice(part);
                    L::load(&room)
                }
            };
        }
    }
    // where columns fill less vectors, what is behind them is the last again, and not used
    let at: [usize; V] = std::array::from_fn(|h| (vector + h).min(v_dim.div_ceil(16) - 1));
    for j in 0..end {
        values.fetch(j, vector, V);
        let mut v = [L::splat(0.0); V];
        for h in 0..V {
            v[h] = values.value(j, at[h]);
        }
        for r in 0..N {
            let weight = L::splat(weights[r][j]);
            for h in 0..V {
                sums[r][h] = L::mul_add_16(weight, v[h], sums[r][h]);
            }
        }
    }
    for (sums, part) in sums.iter().zip(parts) {
        for (sum, part) in sums.iter().zip(part[columns.clone()].chunks_mut(16)) {
            match part.first_chunk_mut() {
                Some(part) => L::store(part, *sum),
                None => {
                    let mut room = [0.0; 16];
                    L::store(&mut room, *sum);
                    part.copy_from_slice(&room[..part.len()]);
                }
            }
        }
    }
}
