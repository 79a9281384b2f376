//! Attention of many tokens in tiles of bf16.
//!
//! Lanes are queries, so that nothing is summed across lanes: 32 queries meet a block of positions.
//!
//! ```text
//! scores     (position, query) = keys (position, dim) x queries (dim, query)
//! weights    2^(score - m), rounded to bf16
//! results    (column, query)  += values (column, position) x weights (position, query)
//! ```
//!
//! Queries are scaled before they are rounded, so that scores are in units of ln 2. m is the largest score so far or up
//! to 8 less: results are scaled down only where a score exceeds m by more (Shah et al. 2024, arXiv 2407.08608, do it with
//! every block). Each query decides for itself, and blocks begin at fixed positions: so its result does not depend on the
//! queries it shares a tile with, to the bit.
//!
//! A value that is not finite makes the sum of weights of those who see it, and so their results, NaN.

use std::ops::Range;

use super::gemm::{Sums, load, multiply};
use super::pack::{TILE, bf16, pack};
use super::*;
use crate::cpu::avx512vnni::attention::exp2;
use crate::cpu::avx512vnni::transpose;
use crate::ops::{Attention, BLOCK, FloatBlock, KEY_BLOCK, LOWEST, Lanes, Lines};

/// Queries that meet a block together, and positions and columns that are multiplied together: two tiles of each.
const PAIR: usize = 2 * TILE;

/// Positions of a block.
const POSITIONS: usize = 4 * BLOCK;

/// Pairs of tiles in a block.
const PIECES: usize = POSITIONS / PAIR;

/// How far a score may exceed m.
const SLACK: f32 = 8.0;

/// What the kernel keeps from call to call.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// (group, half, dim / 32)
    q: Lines<Tile>,
    groups: Vec<Group>,
    /// (group, column / 32): weighted sums of values.
    results: Lines<Sums>,
    /// (piece, half, dim / 32): tiles of (position, pair of dimensions).
    keys: Lines<Tile>,
    /// (column / 32, half, piece): tiles of (column, pair of positions).
    values: Lines<Tile>,
    /// What is added to the weights of a position: NaN if its value is not finite, or 0.
    extra: Vec<f32>,
    scores: Lines<Sums>,
    /// (half, piece): tiles of (pair of positions, query).
    weights: Lines<Tile>,
}

/// State of 32 queries.
#[derive(Debug, Clone)]
#[repr(align(64))]
struct Group {
    /// The first position that each sees, and the one after the last.
    start: [[i32; TILE]; 2],
    end: [[i32; TILE]; 2],
    /// m, and the sum of weights.
    max: [[f32; TILE]; 2],
    sum: [[f32; TILE]; 2],
    /// Positions that any of them sees, and that all of them see.
    any: Range<usize>,
    all: Range<usize>,
}

/// See [`crate::ops::attention`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
pub(crate) fn attention<L: Lanes>(
    a: &Attention<'_>,
    scratch: &mut crate::ops::Scratch,
    out: &mut [f32],
    out_stride: usize,
) {
    a.check();
    let crate::ops::Scratch { block, tiles: s, .. } = scratch;
    // SAFETY: this function is called where the CPU has the level.
    let tiles = unsafe { Tiles::new() };
    let (dims, columns) = (a.k.dim.div_ceil(TILE_VALUES), a.v.dim.div_ceil(PAIR));
    s.begin(a, dims, columns);
    let seen = a.seen();
    for first in (seen.start / POSITIONS * POSITIONS..seen.end).step_by(POSITIONS) {
        let finite = s.read::<L>(a, block, first, dims);
        for i in 0..s.groups.len() {
            let group = &mut s.groups[i];
            let within =
                |positions: &Range<usize>| positions.start.max(first)..positions.end.min(first + POSITIONS);
            let seen = within(&group.any);
            if seen.is_empty() {
                continue;
            }
            let pieces = (seen.start - first) / PAIR..(seen.end - first).div_ceil(PAIR);
            let covered = first + pieces.start * PAIR..first + pieces.end * PAIR;
            let mask = !finite || within(&group.all) != covered;
            let q = &s.q[2 * dims * i..2 * dims * (i + 1)];
            for piece in pieces.clone() {
                let keys = &s.keys[2 * dims * piece..2 * dims * (piece + 1)];
                multiply(&tiles, halves(keys), halves(q), true, &mut s.scores[piece]);
            }
            let results = &mut s.results[columns * i..columns * (i + 1)];
            let scores = &s.scores[pieces.clone()];
            let extra = &s.extra[covered.start - first..covered.end - first];
            for h in 0..2 {
                let weights = &mut s.weights[PIECES * h..][pieces.clone()];
                let smaller = if mask {
                    weigh::<true>(group, h, scores, covered.start as i32, extra, weights)
                } else {
                    weigh::<false>(group, h, scores, covered.start as i32, extra, weights)
                };
                if let Some(smaller) = smaller {
                    scale(results, h, smaller);
                }
            }
            let weights = [0, 1].map(|h| &s.weights[PIECES * h..][pieces.clone()]);
            for (column, results) in results.iter_mut().enumerate() {
                let values = [0, 1].map(|h| &s.values[PIECES * (2 * column + h)..][pieces.clone()]);
                multiply(&tiles, values, weights, false, results);
            }
        }
    }
    for (i, group) in s.groups.iter().enumerate() {
        finish(a, i, group, &s.results[columns * i..columns * (i + 1)], out, out_stride);
    }
}

/// Both halves of a pair of tiles.
fn halves(tiles: &[Tile]) -> [&[Tile]; 2] {
    let (first, second) = tiles.split_at(tiles.len() / 2);
    [first, second]
}

impl Scratch {
    /// Gets the queries ready, and room for all else.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
    fn begin(&mut self, a: &Attention<'_>, dims: usize, columns: usize) {
        let n = a.rows().div_ceil(PAIR);
        self.q.resize(n * 2 * dims);
        self.results.resize(n * columns);
        self.results.fill(Sums::default());
        self.keys.resize(PIECES * 2 * dims);
        self.values.resize(columns * 2 * PIECES);
        self.values.fill(Tile::default());
        self.scores.resize(PIECES);
        self.weights.resize(2 * PIECES);
        self.extra.resize(POSITIONS, 0.0);
        self.groups.clear();
        let mut rows = vec![0.0; TILE * dims * TILE_VALUES];
        for i in 0..n {
            let mut group = Group {
                start: [[0; TILE]; 2],
                end: [[0; TILE]; 2],
                max: [[LOWEST; TILE]; 2],
                sum: [[0.0; TILE]; 2],
                any: a.seen_by(i * PAIR).start..a.seen_by(a.rows().min((i + 1) * PAIR) - 1).end,
                all: a.seen_by(a.rows().min((i + 1) * PAIR) - 1).start..a.seen_by(i * PAIR).end,
            };
            for h in 0..2 {
                for (lane, to) in rows.chunks_exact_mut(dims * TILE_VALUES).enumerate() {
                    // queries that the last group lacks are the last one again: nobody reads their results
                    let row = (i * PAIR + h * TILE + lane).min(a.rows() - 1);
                    for (to, q) in to.iter_mut().zip(a.query(row)) {
                        *to = q * (a.scale * std::f32::consts::LOG2_E);
                    }
                    let seen = a.seen_by(row);
                    (group.start[h][lane], group.end[h][lane]) = (seen.start as i32, seen.end as i32);
                }
                let tiles = &mut self.q[dims * (2 * i + h)..][..dims];
                pack(&rows, dims * TILE_VALUES, tiles.as_flattened_mut().as_flattened_mut());
            }
            self.groups.push(group);
        }
    }

    /// Reads the keys and values of a block of positions; whether all values are finite. What nobody sees is anything,
    /// but finite in the values.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
    fn read<L: Lanes>(
        &mut self,
        a: &Attention<'_>,
        block: &mut FloatBlock,
        first: usize,
        dims: usize,
    ) -> bool {
        let mut finite = true;
        let end = a.seen().end;
        let vectors = a.v.dim.div_ceil(TILE);
        for (i, first) in (first..end.min(first + POSITIONS)).step_by(BLOCK).enumerate() {
            block.read::<L>(a, first, end);
            let sixteens =
                block.keys_of_dim(a.k.dim).zip(self.keys.chunks_exact_mut(dims).skip(i * BLOCK / TILE));
            for (keys, tiles) in sixteens.take((end - first).div_ceil(KEY_BLOCK)) {
                for (keys, tile) in keys.chunks(TILE_VALUES).zip(tiles) {
                    pack_pairs(keys, 1, tile);
                }
            }
            let values = &mut block.values;
            let extra = &mut self.extra[i * BLOCK..(i + 1) * BLOCK];
            for (value, extra) in values.chunks_exact_mut(vectors).zip(extra) {
                *extra = 0.0;
                if !are_finite(value) {
                    value.fill([0.0; TILE]);
                    (*extra, finite) = (f32::NAN, false);
                }
            }
            for column in 0..vectors {
                for (j, values) in values.chunks_exact(PAIR * vectors).enumerate() {
                    let tile = &mut self.values[PIECES * column + i * BLOCK / PAIR + j];
                    pack_pairs(&values[column..], vectors, tile);
                }
            }
        }
        finite
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
#[inline]
fn are_finite(x: &[[f32; TILE]]) -> bool {
    const NAN_OR_INFINITE: i32 = 0x99;
    x.iter().fold(0, |any, x| any | _mm512_fpclass_ps_mask::<NAN_OR_INFINITE>(load_floats(x))) == 0
}

/// Turns up to 32 rows of sixteen numbers, each `stride` after the one before, into sixteen rows of 32; those that are
/// missing become 0.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
#[inline]
fn pack_pairs(rows: &[[f32; TILE]], stride: usize, tile: &mut Tile) {
    let mut pairs = [_mm512_setzero_si512(); TILE];
    for (i, pair) in pairs.iter_mut().enumerate() {
        let row = |at: usize| match rows.get(at * stride) {
            Some(row) => load_floats(row),
            None => _mm512_setzero_ps(),
        };
        *pair = interleaved(row(2 * i), row(2 * i + 1));
    }
    for (to, words) in tile.iter_mut().zip(transpose(pairs)) {
        store_words(words, to);
    }
}

/// Words of two numbers each, the low one of `even`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
#[inline]
fn interleaved(even: __m512, odd: __m512) -> __m512i {
    // the places of two numbers in a word: i of the low half, and i of the high one
    const ORDER: [u32; TILE] = {
        let mut order = [0; TILE];
        let mut i = 0;
        while i < TILE {
            order[i] = (i | (i + TILE) << 16) as u32;
            i += 1;
        }
        order
    };
    _mm512_permutexvar_epi16(load(&ORDER), bf16(even, odd))
}

/// Turns the scores of half of a group into weights, for some pieces from position `first` on. Returns what the results
/// so far are to be multiplied with, if that is not 1 for all.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
#[inline]
fn weigh<const MASK: bool>(
    group: &mut Group,
    h: usize,
    scores: &[Sums],
    first: i32,
    extra: &[f32],
    weights: &mut [Tile],
) -> Option<__m512> {
    let (start, end) = (load(bytemuck::cast_ref(&group.start[h])), load(bytemuck::cast_ref(&group.end[h])));
    let seen = |position: usize| {
        let position = _mm512_set1_epi32(first + position as i32);
        _mm512_mask_cmpgt_epi32_mask(_mm512_cmple_epi32_mask(start, position), end, position)
    };
    let lowest = _mm512_set1_ps(LOWEST);
    let mut highest = [lowest; 2];
    for (i, scores) in scores.iter().enumerate() {
        for (j, half) in scores.iter().enumerate() {
            for (r, scores) in half[h].iter().enumerate() {
                let mut score = _mm512_castsi512_ps(load(scores));
                if MASK {
                    score = _mm512_mask_mov_ps(lowest, seen(i * PAIR + j * TILE + r), score);
                }
                // of a NaN and a number it takes the second, the number
                highest[r % 2] = _mm512_max_ps(score, highest[r % 2]);
            }
        }
    }
    let highest = _mm512_max_ps(highest[0], highest[1]);
    let old_max = load_floats(&group.max[h]);
    let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(highest, _mm512_add_ps(old_max, _mm512_set1_ps(SLACK)));
    let max = _mm512_mask_mov_ps(old_max, above, highest);

    let mut sum = [_mm512_setzero_ps(); 2];
    for (i, (scores, weights)) in scores.iter().zip(weights).enumerate() {
        for (j, half) in scores.iter().enumerate() {
            for (r, scores) in half[h].as_chunks::<2>().0.iter().enumerate() {
                let mut two = [_mm512_setzero_ps(); 2];
                for k in 0..2 {
                    let score = _mm512_castsi512_ps(load(&scores[k]));
                    let position = i * PAIR + j * TILE + 2 * r + k;
                    if MASK {
                        let seen = seen(position);
                        two[k] = _mm512_maskz_mov_ps(seen, exp2(_mm512_sub_ps(score, max), 1.0));
                        let extra = _mm512_set1_ps(extra[position]);
                        sum[k] = _mm512_mask_add_ps(sum[k], seen, sum[k], _mm512_add_ps(two[k], extra));
                    } else {
                        two[k] = exp2(_mm512_sub_ps(score, max), 1.0);
                        sum[k] = _mm512_add_ps(sum[k], two[k]);
                    }
                }
                store_words(interleaved(two[0], two[1]), &mut weights[j * TILE / 2 + r]);
            }
        }
    }
    let smaller = exp2(_mm512_sub_ps(old_max, max), 1.0);
    let sum = _mm512_fmadd_ps(load_floats(&group.sum[h]), smaller, _mm512_add_ps(sum[0], sum[1]));
    store_words(_mm512_castps_si512(max), bytemuck::cast_mut(&mut group.max[h]));
    store_words(_mm512_castps_si512(sum), bytemuck::cast_mut(&mut group.sum[h]));
    (above != 0).then_some(smaller)
}

/// Multiplies the results of half of a group, each query's with its number.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
fn scale(results: &mut [Sums], h: usize, by: __m512) {
    for sums in results.as_flattened_mut() {
        for row in &mut sums[h] {
            store_words(_mm512_castps_si512(_mm512_mul_ps(_mm512_castsi512_ps(load(row)), by)), row);
        }
    }
}

/// Writes the results of group `i`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
fn finish(a: &Attention<'_>, i: usize, group: &Group, results: &[Sums], out: &mut [f32], out_stride: usize) {
    for h in 0..2 {
        let inverse = _mm512_div_ps(_mm512_set1_ps(1.0), load_floats(&group.sum[h]));
        let queries = (i * PAIR + h * TILE..a.rows()).take(TILE);
        for (column, sums) in results.as_flattened().iter().enumerate().take(a.v.dim.div_ceil(TILE)) {
            let mut rows = [_mm512_setzero_si512(); TILE];
            for (to, row) in rows.iter_mut().zip(&sums[h]) {
                *to = _mm512_castps_si512(_mm512_mul_ps(_mm512_castsi512_ps(load(row)), inverse));
            }
            for (result, query) in transpose(rows).into_iter().zip(queries.clone()) {
                let out = &mut out[a.result(query, out_stride)][column * TILE..];
                let n = out.len().min(TILE);
                let mut all = [0; TILE];
                store_words(result, &mut all);
                out[..n].copy_from_slice(&bytemuck::cast_slice(&all)[..n]);
            }
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
#[inline]
fn load_floats(a: &[f32; TILE]) -> __m512 {
    _mm512_castsi512_ps(load(bytemuck::cast_ref(a)))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx2,fma,f16c")]
#[inline]
fn store_words(x: __m512i, to: &mut [u32; TILE]) {
    // SAFETY: writes the sixteen words of `to`; the store needs no alignment.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), x) }
}
