//! Attention of many tokens in tiles of bf16: 32 queries meet a block of positions.
//!
//! ```text
//! scores     (query, position) = start (query) + queries (query, dim) x keys (dim, position)
//! weights    2^(score / 256), rounded to bf16
//! results    (query, column)  += weights (query, position) x values (position, column)
//! ```
//!
//! Queries are scaled before they are rounded, so that scores are in 256ths of ln 2, and what a sum of products starts
//! with takes a number off that is the same for all of a query: a score says by itself what its weight is. Rounded to an
//! integer, 16 bits of it are the exponent of the weight and eight bits of the logarithm of its significand, of which a
//! table makes the significand (Schraudolph 1999, "A fast, compact approximation of the exponential function", with a
//! table for what is linear there). The sum of weights adds up what was rounded.
//!
//! What a query takes off gives its largest score of the first block that it sees the weight 2^-60, and changes only where
//! a weight would exceed 2^90: floats have as many digits for any of them (Dao et al. 2022, arXiv 2205.14135, take the
//! largest score so far off, of every block). Each query decides for itself, and blocks begin at fixed positions: so its
//! result does not depend on the queries it shares a tile with, to the bit.
//!
//! A query, key or value that is not finite makes the results of those who see it NaN.

use std::ops::Range;

use super::gemm::load;
use super::multiply::{Columns, Start, multiply};
use super::pack::{TILE, bf16};
use super::*;
use crate::ops::{Attention, BLOCK, FloatBlock, KEY_BLOCK, Lanes, Lines};

/// Queries that meet a block together, and positions and columns that are multiplied together: two tiles of each.
const PAIR: usize = 2 * TILE;

/// Pairs of tiles in a block.
const PIECES: usize = BLOCK / PAIR;

/// Bytes of keys and values that are packed at a time: they stay in the second-level cache for all queries.
const SPAN_BYTES: usize = 256 << 10;

/// Scores in a factor of two.
const UNIT: f32 = 256.0;

/// The score of the weight 1: the exponent's offset in f32 and bf16.
const ONE: f32 = 127.0 * UNIT;

/// The score that a query gives its largest, when it decides what to take off.
const LOW: f32 = ONE - 60.0 * UNIT;

/// The highest score: floats have as many digits for large weights as for small ones, and sums of 2^90 times any values of
/// a cache do not overflow.
const HIGH: f32 = ONE + 90.0 * UNIT;

/// Queries whose sums of weights are in registers at a time.
const ROWS: usize = 8;

/// Scores that are larger might not fit an integer.
const WILD: f32 = 1e9;

/// Scores that are larger are as good as infinite: they have no digits left for the weight.
const LARGEST: f32 = 1e9;

/// What the kernel keeps from call to call.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// (group, half, dim / 32): tiles of (query, pair of dimensions).
    q: Lines<Tile>,
    groups: Vec<Group>,
    blocks: Vec<Block>,
    /// (group, half): what scores start with, the same for all positions.
    start: Lines<[Tile; 2]>,
    /// (group, half): tiles of (query, sixteen parts of its sum of weights).
    sums: Lines<[Tile; 2]>,
    /// (group, half, column / 16): weighted sums of values.
    results: Lines<Tile>,
    /// (block, position / 16, dim / 32): tiles of (pair of dimensions, position).
    keys: Lines<Tile>,
    /// (block, column / 16, piece): tiles of (pair of positions, column), in the [order of positions](ORDER).
    values: Lines<Tile>,
    /// (half, position / 16): tiles of (query, position).
    scores: Lines<Tile>,
    /// (piece): tiles of (query, pair of positions).
    weights: Lines<Tile>,
}

/// What 32 queries see.
#[derive(Debug, Clone)]
struct Group {
    /// The positions that each sees.
    seen: [Range<usize>; PAIR],
    /// Positions that any of them sees, and that all of them see.
    any: Range<usize>,
    all: Range<usize>,
    /// Those that have seen a position already, bit by bit.
    begun: [u16; 2],
    /// The largest number of a query; infinite if one is not finite.
    largest: f32,
    /// Whether a score may have been [too large](WILD).
    wild: bool,
}

/// What there is to know of a block of positions.
#[derive(Debug)]
struct Block {
    first: usize,
    /// The largest number of a key; infinite if one is not finite.
    largest: f32,
    /// Of each piece, the positions whose value is not finite, bit by bit.
    spoiled: [u32; PIECES],
}

/// See [`crate::ops::attention`].
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c"
)]
pub(crate) fn attention<L: Lanes>(
    a: &Attention<'_>,
    scratch: &mut crate::ops::Scratch,
    out: &mut [f32],
    out_stride: usize,
) {
    a.check();
    let crate::ops::Scratch { block: floats, tiles: s, .. } = scratch;
    // SAFETY: this function is called where the CPU has the level.
    let tiles = unsafe { Tiles::new() };
    let (dims, columns) = (a.k.dim.div_ceil(TILE_VALUES), 2 * a.v.dim.div_ceil(PAIR));
    s.begin(a, dims, columns);
    let seen = a.seen();
    let span = (SPAN_BYTES / (size_of::<Tile>() * PIECES * (2 * dims + columns))).max(1) * BLOCK;
    for first in (seen.start / BLOCK * BLOCK..seen.end).step_by(span) {
        s.read::<L>(a, floats, first..seen.end.min(first + span), dims, columns);
        for i in 0..s.groups.len() {
            for b in 0..s.blocks.len() {
                s.attend(&tiles, i, b, dims, columns);
            }
        }
    }
    for i in 0..s.groups.len() {
        finish(a, i, &s.sums[i], &s.results[2 * columns * i..2 * columns * (i + 1)], out, out_stride);
    }
}

impl Scratch {
    /// Gets the queries ready, and room for all else.
    #[target_feature(
        enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c"
    )]
    fn begin(&mut self, a: &Attention<'_>, dims: usize, columns: usize) {
        let n = a.rows().div_ceil(PAIR);
        self.q.resize(n * 2 * dims);
        self.start.resize(n);
        self.start.fill([[[ONE.to_bits(); TILE]; TILE]; 2]);
        self.sums.resize(n);
        self.sums.fill(Default::default());
        self.results.resize(n * 2 * columns);
        self.results.fill(Tile::default());
        self.scores.resize(2 * 2 * PIECES);
        self.weights.resize(PIECES);
        self.groups.clear();
        let mut scaled = vec![0.0; dims * TILE_VALUES];
        for i in 0..n {
            // queries that the last group lacks are the last one again: nobody reads their results
            let rows: [usize; PAIR] = std::array::from_fn(|row| (i * PAIR + row).min(a.rows() - 1));
            let seen = rows.map(|row| a.seen_by(row));
            let mut largest = _mm512_setzero_si512();
            for (r, row) in rows.into_iter().enumerate() {
                for (to, q) in scaled.iter_mut().zip(a.query(row)) {
                    *to = q * (a.scale * std::f32::consts::LOG2_E * UNIT);
                }
                let tiles = &mut self.q[dims * (2 * i + r / TILE)..][..dims];
                for (tile, values) in tiles.iter_mut().zip(scaled.as_chunks::<TILE>().0.as_chunks::<2>().0) {
                    let [low, high] = values;
                    largest = _mm512_max_epu32(largest, magnitudes(low));
                    largest = _mm512_max_epu32(largest, magnitudes(high));
                    store(bf16(load_floats(low), load_floats(high)), &mut tile[r % TILE]);
                }
            }
            self.groups.push(Group {
                any: seen[0].start..seen[PAIR - 1].end,
                all: seen[PAIR - 1].start..seen[0].end,
                seen,
                begun: [0; 2],
                largest: largest_of(largest),
                wild: false,
            });
        }
    }

    /// Reads the keys and values of some positions. Of what nobody sees, values are finite.
    #[target_feature(
        enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c"
    )]
    fn read<L: Lanes>(
        &mut self,
        a: &Attention<'_>,
        floats: &mut FloatBlock,
        span: Range<usize>,
        dims: usize,
        columns: usize,
    ) {
        let vectors = a.v.dim.div_ceil(TILE);
        let n = span.len().div_ceil(BLOCK);
        self.keys.resize(n * PIECES * 2 * dims);
        self.values.resize(n * PIECES * columns);
        // of dimensions and columns that there are not, tiles are 0
        if !a.k.dim.is_multiple_of(TILE_VALUES) {
            self.keys.fill(Tile::default());
        }
        if !a.v.dim.is_multiple_of(PAIR) {
            self.values.fill(Tile::default());
        }
        self.blocks.clear();
        let packed =
            self.keys.chunks_exact_mut(PIECES * 2 * dims).zip(self.values.chunks_exact_mut(PIECES * columns));
        for (first, (keys, values)) in span.clone().step_by(BLOCK).zip(packed) {
            floats.read::<L>(a, first, span.end);
            let sixteens = floats.keys_of_dim(a.k.dim).zip(keys.chunks_exact_mut(dims));
            let mut largest = _mm512_setzero_si512();
            for (keys, tiles) in sixteens.take((span.end - first).div_ceil(KEY_BLOCK)) {
                for (keys, row) in keys.chunks(2).zip(tiles.as_flattened_mut()) {
                    let (even, odd) = (&keys[0], keys.get(1).unwrap_or(&[0.0; TILE]));
                    largest = _mm512_max_epu32(largest, magnitudes(even));
                    largest = _mm512_max_epu32(largest, magnitudes(odd));
                    store(interleaved(even, odd), row);
                }
            }
            let mut spoiled = [0; PIECES];
            for (position, value) in floats.values.chunks_exact_mut(vectors).enumerate() {
                if !are_finite(value) {
                    value.fill([0.0; TILE]);
                    spoiled[position / PAIR] |= 1 << (position % PAIR);
                }
            }
            for (column, tiles) in values.chunks_exact_mut(PIECES).take(vectors).enumerate() {
                for (tile, values) in tiles.iter_mut().zip(floats.values.chunks_exact(PAIR * vectors)) {
                    for (row, position) in tile.iter_mut().zip(ORDER) {
                        let at = position * vectors + column;
                        store(interleaved(&values[at], &values[at + vectors]), row);
                    }
                }
            }
            self.blocks.push(Block { first, largest: largest_of(largest), spoiled });
        }
    }

    /// Adds block `b` to what group `i` has.
    #[target_feature(
        enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c"
    )]
    #[inline]
    fn attend(&mut self, tiles: &Tiles, i: usize, b: usize, dims: usize, columns: usize) {
        let block = &self.blocks[b];
        let first = block.first;
        let group = &mut self.groups[i];
        let within = |positions: &Range<usize>| positions.start.max(first)..positions.end.min(first + BLOCK);
        let seen = within(&group.any);
        if seen.is_empty() {
            return;
        }
        let pieces = (seen.start - first) / PAIR..(seen.end - first).div_ceil(PAIR);
        let covered = first + pieces.start * PAIR..first + pieces.end * PAIR;
        let all_seen = within(&group.all) == covered;
        group.wild |= group.largest * block.largest * (dims * TILE_VALUES) as f32 >= WILD;
        let careful = group.wild || block.spoiled != [0; PIECES];
        let keys = Columns {
            tiles: &self.keys[b * PIECES * 2 * dims..][pieces.start * 2 * dims..pieces.end * 2 * dims],
            stride: dims,
        };
        let values = &self.values[b * PIECES * columns..][..PIECES * columns];
        let values =
            Columns { tiles: &values[pieces.start..(columns - 1) * PIECES + pieces.end], stride: PIECES };
        let (scores, scores_2) = self.scores.split_at_mut(2 * PIECES);
        let mut scores = [scores, scores_2].map(|scores| &mut scores[..2 * pieces.len()]);
        let q = self.q[2 * dims * i..].chunks_exact(dims);
        for ((q, start), scores) in q.zip(&self.start[i]).zip(&mut scores) {
            multiply(tiles, q, &keys, Start::With(start), scores);
        }
        for h in 0..2 {
            let results = &mut self.results[columns * (2 * i + h)..][..columns];
            let half = Half { group: &self.groups[i], h, block, pieces: pieces.clone() };
            let scores = scores[h].as_chunks::<2>().0;
            let weights = &mut self.weights[..pieces.len()];
            let sums = &mut self.sums[i][h];
            let (begun, mut less) = half.begin(scores);
            let done = !careful
                && if all_seen && begun == 0 {
                    half.weigh::<false>(scores, &less, weights, sums)
                } else {
                    half.weigh::<true>(scores, &less, weights, sums)
                };
            if !done {
                half.lower(scores, &mut less, sums, results);
                half.weigh::<true>(scores, &less, weights, sums);
            }
            if begun != 0 || !done {
                for (start, less) in self.start[i][h].iter_mut().zip(less).filter(|(_, less)| *less != 0.0) {
                    *start = [(f32::from_bits(start[0]) - less).to_bits(); TILE];
                }
            }
            self.groups[i].begun[h] |= begun;
            multiply(tiles, weights, &values, Start::Sums, results);
        }
    }
}

#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c"
)]
#[inline]
fn are_finite(x: &[[f32; TILE]]) -> bool {
    const NAN_OR_INFINITE: i32 = 0x99;
    x.iter().fold(0, |any, x| any | _mm512_fpclass_ps_mask::<NAN_OR_INFINITE>(load_floats(x))) == 0
}

/// Without signs, as bits: so a NaN is larger than every number.
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c"
)]
#[inline]
fn magnitudes(x: &[f32; TILE]) -> __m512i {
    _mm512_castps_si512(_mm512_abs_ps(load_floats(x)))
}

/// The largest of magnitudes; infinite if one is not finite.
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c"
)]
fn largest_of(magnitudes: __m512i) -> f32 {
    let largest = f32::from_bits(_mm512_reduce_max_epu32(magnitudes));
    if largest.is_finite() { largest } else { f32::INFINITY }
}

/// Words of two numbers each, rounded to bf16, the low one of `even`.
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c"
)]
#[inline]
fn interleaved(even: &[f32; TILE], odd: &[f32; TILE]) -> __m512i {
    // the places of two numbers in a word: i of the low half, and i of the high one
    const PLACES: [u32; TILE] = {
        let mut places = [0; TILE];
        let mut i = 0;
        while i < TILE {
            places[i] = (i | (i + TILE) << 16) as u32;
            i += 1;
        }
        places
    };
    _mm512_permutexvar_epi16(load(&PLACES), bf16(load_floats(even), load_floats(odd)))
}

/// The first of the two positions of a piece in each word of its weights: four words of each sixteen by turns, as
/// `vpackusdw` leaves them.
const ORDER: [usize; TILE] = {
    let mut order = [0; TILE];
    let mut i = 0;
    while i < TILE {
        order[i] = i / 4 * 4 + i % 2 * 2 + i / 2 % 2 * TILE;
        i += 1;
    }
    order
};

/// What the table takes off eight bits of a logarithm, by the high six of them: the mean of f - 256 (2^(f / 256) - 1).
const BENDS: [u8; 64] = [
    0, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 14, 15, 16, 16, 17, 18, 18, 19, 19, 20, 20, 21, 21, 21,
    21, 22, 22, 22, 22, 22, 22, 22, 22, 22, 22, 21, 21, 21, 20, 20, 20, 19, 18, 18, 17, 16, 16, 15, 14, 13,
    12, 11, 10, 9, 8, 7, 5, 4, 2, 1,
];

/// The weights of 32 scores, in the [order of positions](ORDER); 0 for positions that are not seen.
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c"
)]
#[inline]
fn weights_of(low: __m512, high: __m512, seen: u32, bends: __m512i) -> __m512i {
    let low = _mm512_maskz_cvtps_epi32(seen as u16, low);
    let high = _mm512_maskz_cvtps_epi32((seen >> TILE) as u16, high);
    // scores below 0 become 0, which is a weight of 0
    let score = _mm512_packus_epi32(low, high);
    // the table says what is taken off the low byte of each score, and is never more than that
    let bends = _mm512_permutexvar_epi8(_mm512_srli_epi16::<2>(score), bends);
    _mm512_srli_epi16::<1>(_mm512_mask_sub_epi8(score, 0x5555_5555_5555_5555, score, bends))
}

/// Half of a group and some pieces of a block.
struct Half<'a> {
    group: &'a Group,
    h: usize,
    block: &'a Block,
    pieces: Range<usize>,
}

impl Half<'_> {
    /// The positions of a piece that query `r` sees, bit by bit.
    fn seen(&self, r: usize, piece: usize) -> u32 {
        let seen = &self.group.seen[self.h * TILE + r];
        let first = self.block.first + (self.pieces.start + piece) * PAIR;
        let below = |end: usize| (1_u64 << end.saturating_sub(first).min(PAIR)) - 1;
        (below(seen.end) & !below(seen.start)) as u32
    }

    /// The largest of the scores of query `r`, and whether it sees one.
    #[target_feature(
        enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c"
    )]
    #[inline]
    fn highest(&self, r: usize, scores: &[[Tile; 2]]) -> (f32, bool) {
        let mut highest = _mm512_set1_ps(f32::MIN);
        let mut any = 0;
        for (i, [low, high]) in scores.iter().enumerate() {
            let seen = self.seen(r, i);
            any |= seen;
            highest = _mm512_mask_max_ps(highest, seen as u16, highest, load_sum(&low[r]));
            highest = _mm512_mask_max_ps(highest, (seen >> TILE) as u16, highest, load_sum(&high[r]));
        }
        (_mm512_reduce_max_ps(highest), any != 0)
    }

    /// The queries that see their first position here, bit by bit, and what they take off their scores: what makes the
    /// largest of them [low](LOW).
    #[target_feature(
        enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c"
    )]
    fn begin(&self, scores: &[[Tile; 2]]) -> (u16, [f32; TILE]) {
        let (mut begun, mut less) = (0, [0.0; TILE]);
        if self.group.begun[self.h] != u16::MAX {
            for (r, less) in less.iter_mut().enumerate() {
                let (highest, any) = self.highest(r, scores);
                if any && self.group.begun[self.h] & 1 << r == 0 {
                    *less = highest - LOW;
                    begun |= 1 << r;
                }
            }
        }
        (begun, less)
    }

    /// Turns scores, of which each query takes `less` off, into weights, and adds them to the sums. Gives up, and changes
    /// no sum, if a score is too large.
    #[target_feature(
        enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c"
    )]
    fn weigh<const MASK: bool>(
        &self,
        scores: &[[Tile; 2]],
        less: &[f32; TILE],
        weights: &mut [Tile],
        sums: &mut Tile,
    ) -> bool {
        let bends = load(bytemuck::cast_ref(&BENDS));
        let mut highest = _mm512_setzero_si512();
        let mut new = *sums;
        for (rows, sums) in new.as_chunks_mut::<ROWS>().0.iter_mut().enumerate() {
            let mut totals = sums.map(|sum| load_sum(&sum));
            for (i, (scores, tile)) in scores.iter().zip(&mut *weights).enumerate() {
                for (j, total) in totals.iter_mut().enumerate() {
                    let r = rows * ROWS + j;
                    let (mut low, mut high) = (load_sum(&scores[0][r]), load_sum(&scores[1][r]));
                    let mut seen = u32::MAX;
                    if MASK {
                        let less = _mm512_set1_ps(less[r]);
                        (low, high) = (_mm512_sub_ps(low, less), _mm512_sub_ps(high, less));
                        seen = self.seen(r, i);
                    }
                    let bits = weights_of(low, high, seen, bends);
                    highest = _mm512_max_epu16(highest, bits);
                    *total = add(*total, bits);
                    store(bits, &mut tile[r]);
                }
            }
            for (sum, total) in sums.iter_mut().zip(totals) {
                store(_mm512_castps_si512(total), sum);
            }
        }
        let most = _mm512_set1_epi16((HIGH / 2.0) as i16);
        let fit = _mm512_cmpgt_epu16_mask(highest, most) == 0;
        if fit {
            *sums = new;
        }
        fit
    }

    /// Has the queries whose scores are too large take more off, and makes their results and sums so far less. Those that
    /// meet what is not finite get a sum that is NaN, which what comes later does not change.
    #[target_feature(
        enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c"
    )]
    fn lower(&self, scores: &[[Tile; 2]], less: &mut [f32; TILE], sums: &mut Tile, results: &mut [Tile]) {
        const NAN_OR_INFINITE: i32 = 0x99;
        for (r, less) in less.iter_mut().enumerate() {
            let (highest, any) = self.highest(r, scores);
            let mut not_finite = 0;
            for (i, [low, high]) in scores.iter().enumerate() {
                let seen = self.seen(r, i);
                let [low, high] = [load_sum(&low[r]), load_sum(&high[r])];
                not_finite |= seen & self.block.spoiled[self.pieces.start + i]
                    | u32::from(_mm512_mask_fpclass_ps_mask::<NAN_OR_INFINITE>(seen as u16, low))
                    | u32::from(_mm512_mask_fpclass_ps_mask::<NAN_OR_INFINITE>((seen >> TILE) as u16, high));
            }
            if not_finite != 0 || any && highest.abs() > LARGEST {
                sums[r] = [f32::NAN.to_bits(); TILE];
                *less = 0.0;
            } else if any && (highest - *less).round_ties_even() > HIGH {
                *less = highest - LOW;
                let smaller = _mm512_set1_ps((-*less / UNIT).exp2());
                let rows = results.iter_mut().map(|tile| &mut tile[r]);
                for row in rows.chain([&mut sums[r]]) {
                    store(_mm512_castps_si512(_mm512_mul_ps(load_sum(row), smaller)), row);
                }
            }
        }
    }
}

/// Adds 32 weights to sixteen parts of their sum.
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c"
)]
#[inline]
fn add(sum: __m512, weights: __m512i) -> __m512 {
    const ONES: u32 = 0x3f80_3f80;
    let ones = _mm512_set1_epi32(ONES as i32);
    // SAFETY: vectors of 512 bits may hold anything.
    let (weights, ones) =
        unsafe { std::mem::transmute::<(__m512i, __m512i), (__m512bh, __m512bh)>((weights, ones)) };
    _mm512_dpbf16_ps(sum, weights, ones)
}

/// Writes the results of group `i`.
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c"
)]
fn finish(
    a: &Attention<'_>,
    i: usize,
    sums: &[Tile; 2],
    results: &[Tile],
    out: &mut [f32],
    out_stride: usize,
) {
    for (row, r) in (i * PAIR..a.rows().min((i + 1) * PAIR)).zip(0..) {
        let (h, r) = (r / TILE, r % TILE);
        let inverse = _mm512_set1_ps(1.0 / _mm512_reduce_add_ps(load_sum(&sums[h][r])));
        let out = out[a.result(row, out_stride)].chunks_mut(TILE);
        for (out, tile) in out.zip(&results[h * results.len() / 2..]) {
            let mut all = [0; TILE];
            store(_mm512_castps_si512(_mm512_mul_ps(load_sum(&tile[r]), inverse)), &mut all);
            out.copy_from_slice(&bytemuck::cast_slice(&all)[..out.len()]);
        }
    }
}

#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c"
)]
#[inline]
fn load_floats(a: &[f32; TILE]) -> __m512 {
    _mm512_castsi512_ps(load(bytemuck::cast_ref(a)))
}

/// Floats, as their bits.
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c"
)]
#[inline]
fn load_sum(a: &[u32; TILE]) -> __m512 {
    _mm512_castsi512_ps(load(a))
}

#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c"
)]
#[inline]
fn store(x: __m512i, to: &mut [u32; TILE]) {
    // SAFETY: writes the sixteen words of `to`; the store needs no alignment.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), x) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bends_are_means_and_never_more_than_they_are_taken_off() {
        for (i, bend) in BENDS.into_iter().enumerate() {
            let bent = |f: usize| f as f64 - 256.0 * ((f as f64 / 256.0).exp2() - 1.0);
            let mean = (4 * i..4 * i + 4).map(bent).sum::<f64>() / 4.0;
            assert!(
                (f64::from(bend) - mean).abs() <= 0.5 && usize::from(bend) <= 4 * i,
                "{i}: {bend}, {mean}"
            );
        }
    }

    #[test]
    fn words_hold_neighbouring_positions_and_pieces_all_of_them() {
        let mut positions: Vec<usize> = ORDER.into_iter().flat_map(|first| [first, first + 1]).collect();
        positions.sort_unstable();
        assert!(positions.into_iter().eq(0..PAIR));
    }
}
