//! Attention of many tokens in integers: `vpdpwssd` multiplies pairs of 16-bit numbers at twice the rate of floats, and
//! 12 bits relative to the largest of each query, key and value are as exact as the half precision that they come from.
//!
//! Lanes are queries, so that nothing is summed across lanes; numbers of keys and values are broadcast to them. Of each
//! block of positions, for a tile of 32 queries:
//!
//! ```text
//! scores    x = dot(q, k) * scale_q * scale_k + e       in units of ln 2; e: the value's exponent, see below
//! weights   p = 4095 * 2^(x - largest x of the block)   rounded to an integer
//! results   sum of p v                                  v: an integer times 2^e
//! ```
//!
//! Each value has a power of two 2^e of its own, which its weight takes over. So what is rounded depends on one position
//! alone, and a query's result not on the positions that happen to be there after it. Weights are relative to the largest
//! of their block of 64 positions, so that many small ones count beside a large one elsewhere. The sum of weights, which
//! the results are divided by, is one of floats. A number that is not finite makes that sum, and so the result, NaN.
//!
//! Sums cannot overflow: `dim * limit^2 < 2^31` for queries and keys, `64 * 4095 * 8192 < 2^31` for values.

use std::arch::x86_64::*;

use crate::ops::{Attention, BLOCK, KEY_BLOCK, LOWEST, Lanes, Lines};
use crate::quant::float::MAGIC;

/// Queries of a tile, in vectors of sixteen.
const VECTORS: usize = 2;
const TILE: usize = 16 * VECTORS;

/// Keys, or columns of values, whose sums are in registers at a time, for all queries of a tile.
const SUMS: usize = 8;

/// Largest weight.
const MAX_WEIGHT: f32 = 4095.0;

/// Exponent of the largest integer that a value becomes.
const VALUE_BITS: i32 = 13;

/// One number for each query of a tile.
type Row<T> = [T; TILE];

/// What the kernel keeps from call to call.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// (tile, pair of dimensions): two 16-bit numbers of each query.
    q: Lines<Row<u32>>,
    tiles: Vec<Tile>,
    /// (tile, column of values): sums of weighted values.
    sums: Lines<Row<f32>>,
    /// (BLOCK / 8, pair of dimensions, 8): two 16-bit numbers of each key.
    keys: Lines<[u32; SUMS]>,
    /// (columns / 8, BLOCK / 2, 8): 16-bit numbers of two positions, for each column.
    values: Lines<[u32; SUMS]>,
    positions: Vec<Position>,
    scores: Lines<Row<f32>>,
    weights: Lines<Row<u32>>,
}

/// State of a tile's queries.
#[derive(Debug, Clone)]
#[repr(align(64))]
struct Tile {
    /// Factor of the scores.
    scale: Row<f32>,
    /// First position that each query sees, and the one after the last.
    start: Row<i32>,
    end: Row<i32>,
    /// Largest x of all blocks so far, and the sum of weights relative to it.
    max: Row<f32>,
    sum: Row<f32>,
}

/// Factors of a position's key and value.
#[derive(Debug, Clone, Copy, Default)]
struct Position {
    /// Scale of the key.
    scale: f32,
    /// The value's exponent e, and 2^-e; NaN if a number of it is not finite.
    exponent: f32,
    inverse: f32,
}

/// See [`crate::ops::attention`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(crate) fn attention<L: Lanes>(
    a: &Attention<'_>,
    scratch: &mut crate::ops::Scratch,
    out: &mut [f32],
    out_stride: usize,
) {
    a.check();
    let crate::ops::Scratch { block, integers: s, .. } = scratch;
    s.begin(a);
    let (pairs, columns) = (a.k.dim.div_ceil(2), a.v.dim.next_multiple_of(SUMS));
    let seen = a.seen();
    for first in a.blocks(seen.clone()) {
        block.read::<L>(a, first, seen.end);
        let sixteens = s.keys.chunks_exact_mut(2 * pairs).zip(s.positions.chunks_exact_mut(KEY_BLOCK));
        for (keys, (to, positions)) in block.keys_of_dim(a.k.dim).zip(sixteens) {
            pack_keys(keys, limit(a.k.dim), to, positions);
        }
        pack_values(&block.values, a.v.dim, &mut s.values, &mut s.positions);
        let (first, end) = (first as i32, (first + BLOCK) as i32);
        let tiles = s.tiles.iter_mut().zip(s.q.chunks_exact(pairs)).zip(s.sums.chunks_exact_mut(columns));
        for ((tile, q), sums) in tiles {
            let all = |f: fn(i32, i32) -> i32, of: &Row<i32>| of.iter().copied().reduce(f).unwrap_or(0);
            if all(i32::max, &tile.end) <= first || all(i32::min, &tile.start) >= end {
                continue;
            }
            let block = Block { first, keys: &s.keys, values: &s.values, positions: &s.positions };
            if all(i32::max, &tile.start) <= first && all(i32::min, &tile.end) >= end {
                add_block::<false>(tile, q, &block, &mut s.scores, &mut s.weights, sums);
            } else {
                add_block::<true>(tile, q, &block, &mut s.scores, &mut s.weights, sums);
            }
        }
    }
    for (i, (tile, sums)) in s.tiles.iter().zip(s.sums.chunks_exact(columns)).enumerate() {
        for (lane, row) in (i * TILE..a.rows().min((i + 1) * TILE)).enumerate() {
            let inverse = 1.0 / tile.sum[lane];
            for (out, sums) in out[a.result(row, out_stride)].iter_mut().zip(sums) {
                *out = sums[lane] * inverse;
            }
        }
    }
}

/// Largest 16-bit number of a query or key of `dim` values such that their product cannot overflow.
fn limit(dim: usize) -> f32 {
    (f64::from(i32::MAX) / dim as f64).sqrt().floor().min(f64::from(i16::MAX)) as f32
}

impl Scratch {
    /// Gets the queries ready, and room for all else.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    fn begin(&mut self, a: &Attention<'_>) {
        let (pairs, columns) = (a.k.dim.div_ceil(2), a.v.dim.next_multiple_of(SUMS));
        let tiles = a.rows().div_ceil(TILE);
        self.q.resize(tiles * pairs);
        self.sums.resize(tiles * columns);
        self.sums.fill([0.0; TILE]);
        self.keys.resize(BLOCK / SUMS * pairs);
        self.values.resize(BLOCK / 2 * columns / SUMS);
        self.positions.resize(BLOCK, Position::default());
        self.scores.resize(BLOCK);
        self.weights.resize(BLOCK / 2);
        let empty = Tile {
            scale: [0.0; TILE],
            start: [0; TILE],
            end: [0; TILE],
            max: [LOWEST; TILE],
            sum: [0.0; TILE],
        };
        self.tiles.clear();
        self.tiles.resize(tiles, empty);
        let limit = limit(a.k.dim);
        for (i, (tile, to)) in self.tiles.iter_mut().zip(self.q.chunks_exact_mut(pairs)).enumerate() {
            for lane in 0..TILE {
                // the queries that the last tile lacks are the last one again: nobody reads their results
                let row = (i * TILE + lane).min(a.rows() - 1);
                let q = a.query(row);
                let (scale, inverse) = scale_and_inverse(largest(q), limit);
                let word = |x: f32| (x * inverse).round_ties_even() as i16 as u16;
                for (to, pair) in to.iter_mut().zip(q.chunks(2)) {
                    let high = pair.get(1).map_or(0, |x| word(*x));
                    to[lane] = u32::from(word(pair[0])) | u32::from(high) << 16;
                }
                tile.scale[lane] = scale * a.scale * std::f32::consts::LOG2_E;
                let seen = a.seen_by(row);
                (tile.start[lane], tile.end[lane]) = (seen.start as i32, seen.end as i32);
            }
        }
    }
}

/// The largest magnitude; NaN or infinity if a number is not finite.
fn largest(x: &[f32]) -> f32 {
    // as bits, a NaN is larger than every number
    f32::from_bits(x.iter().map(|x| x.abs().to_bits()).max().unwrap_or(0))
}

/// The scale of integers up to `limit` that stand for numbers up to `largest`, and its inverse, 0 where there is none.
/// The scale is NaN if a number is not finite.
fn scale_and_inverse(largest: f32, limit: f32) -> (f32, f32) {
    let inverse = if largest > 1e-30 { limit / largest } else { 0.0 };
    (largest / limit + 0.0 * largest, inverse)
}

/// Sixteen keys (dimension, key) become integers: `to` holds (2, pair of dimensions, 8).
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn pack_keys(keys: &[[f32; KEY_BLOCK]], limit: f32, to: &mut [[u32; SUMS]], positions: &mut [Position]) {
    let mut bits = _mm512_setzero_si512();
    for k in keys {
        bits = _mm512_max_epu32(bits, _mm512_castps_si512(_mm512_abs_ps(load(k))));
    }
    let mut inverse = [0.0; KEY_BLOCK];
    let largest: [f32; KEY_BLOCK] = bytemuck::cast(to_array(bits));
    for ((position, inverse), largest) in positions.iter_mut().zip(&mut inverse).zip(largest) {
        (position.scale, *inverse) = scale_and_inverse(largest, limit);
    }
    let inverse = load(&inverse);
    let integers = |k: &[f32; KEY_BLOCK]| _mm512_cvtps_epi32(_mm512_mul_ps(load(k), inverse));
    let (low, high) = to.split_at_mut(to.len() / 2);
    for ((k, low), high) in keys.chunks(2).zip(low).zip(high) {
        let odd = k.get(1).map_or(_mm512_setzero_si512(), &integers);
        store_halves(pairs(integers(&k[0]), odd), low, high);
    }
}

/// The values of a block (position, vector of columns) become integers, each position with its own exponent: `to` holds
/// (columns / 8, pair of positions, 8).
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn pack_values(values: &[[f32; 16]], dim: usize, to: &mut [[u32; SUMS]], positions: &mut [Position]) {
    let vectors = dim.div_ceil(16);
    let mut inverses = [0.0; BLOCK];
    for ((v, position), inverse) in values.chunks_exact(vectors).zip(positions).zip(&mut inverses) {
        let mut bits = _mm512_setzero_si512();
        for v in v {
            bits = _mm512_max_epu32(bits, _mm512_castps_si512(_mm512_abs_ps(load(v))));
        }
        let largest = f32::from_bits(_mm512_reduce_max_epu32(bits));
        // 2^exponent is the power of two above the largest; caches hold no numbers below 2^-24
        let exponent = ((largest.to_bits() >> 23) as i32 - 126).clamp(-40, 128) - VALUE_BITS;
        *inverse = f32::from_bits(((127 - exponent) << 23) as u32);
        position.exponent = exponent as f32;
        position.inverse = *inverse + 0.0 * largest; // NaN if that is not finite
    }
    let integers =
        |v: &[f32; 16], inverse: f32| _mm512_cvtps_epi32(_mm512_mul_ps(load(v), _mm512_set1_ps(inverse)));
    let mut spare = [0; SUMS];
    for (p, v) in values.chunks_exact(2 * vectors).enumerate() {
        for (i, (even, odd)) in v[..vectors].iter().zip(&v[vectors..]).enumerate() {
            let both = pairs(integers(even, inverses[2 * p]), integers(odd, inverses[2 * p + 1]));
            let (low, high) = to[2 * i * BLOCK / 2..].split_at_mut(BLOCK / 2);
            store_halves(both, &mut low[p], high.get_mut(p).unwrap_or(&mut spare));
        }
    }
}

/// A block of positions, as integers.
struct Block<'a> {
    first: i32,
    keys: &'a [[u32; SUMS]],
    values: &'a [[u32; SUMS]],
    positions: &'a [Position],
}

/// A tile meets a block. `MASK`: some query does not see all of it.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn add_block<const MASK: bool>(
    tile: &mut Tile,
    q: &[Row<u32>],
    block: &Block<'_>,
    scores: &mut [Row<f32>],
    weights: &mut [Row<u32>],
    sums: &mut [Row<f32>],
) {
    let max = scores_of_block::<MASK>(tile, q, block, scores);
    let sum = weights_of_block::<MASK>(tile, block, scores, max, weights);
    let mut old = [_mm512_setzero_ps(); VECTORS];
    let mut new = old;
    for h in 0..VECTORS {
        let old_max = load(half(&tile.max, h));
        let both = _mm512_max_ps(old_max, max[h]);
        old[h] = exp2(_mm512_sub_ps(old_max, both), 1.0);
        new[h] = exp2(_mm512_sub_ps(max[h], both), 1.0);
        let old_sum = _mm512_mul_ps(load(half(&tile.sum, h)), old[h]);
        store(half_mut(&mut tile.sum, h), _mm512_fmadd_ps(sum[h], new[h], old_sum));
        store(half_mut(&mut tile.max, h), both);
    }
    for (values, sums) in block.values.chunks_exact(BLOCK / 2).zip(sums.chunks_exact_mut(SUMS)) {
        let products = products(weights, values);
        for (product, sums) in products.into_iter().zip(sums) {
            for h in 0..VECTORS {
                let scaled = _mm512_mul_ps(load(half(sums, h)), old[h]);
                let sum = _mm512_fmadd_ps(_mm512_cvtepi32_ps(product[h]), new[h], scaled);
                store(half_mut(sums, h), sum);
            }
        }
    }
}

/// Writes x of all positions of the block; the largest.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn scores_of_block<const MASK: bool>(
    tile: &Tile,
    q: &[Row<u32>],
    block: &Block<'_>,
    scores: &mut [Row<f32>],
) -> [__m512; VECTORS] {
    let mut max = [_mm512_set1_ps(LOWEST); VECTORS];
    let keys = block.keys.chunks_exact(q.len()).zip(block.positions.chunks_exact(SUMS));
    for (i, ((keys, positions), scores)) in keys.zip(scores.chunks_exact_mut(SUMS)).enumerate() {
        let dots = products(q, keys);
        for (j, ((dot, position), scores)) in dots.into_iter().zip(positions).zip(scores).enumerate() {
            for h in 0..VECTORS {
                let scale = _mm512_mul_ps(load(half(&tile.scale, h)), _mm512_set1_ps(position.scale));
                let x = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dot[h]), scale, _mm512_set1_ps(position.exponent));
                let x = if MASK {
                    let seen = seen(tile, h, block.first + (i * SUMS + j) as i32);
                    _mm512_mask_mov_ps(_mm512_set1_ps(LOWEST), seen, x)
                } else {
                    x
                };
                max[h] = _mm512_max_ps(x, max[h]);
                store(half_mut(scores, h), x);
            }
        }
    }
    max
}

/// Writes the weights of all positions of the block, relative to those of x = `max`; their sums.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn weights_of_block<const MASK: bool>(
    tile: &Tile,
    block: &Block<'_>,
    scores: &[Row<f32>],
    max: [__m512; VECTORS],
    weights: &mut [Row<u32>],
) -> [__m512; VECTORS] {
    let mut sum = [_mm512_setzero_ps(); VECTORS];
    let two = scores.as_chunks::<2>().0.iter().zip(block.positions.as_chunks::<2>().0);
    for (i, ((scores, positions), weights)) in two.zip(weights).enumerate() {
        for h in 0..VECTORS {
            let mut integers = [_mm512_setzero_si512(); 2];
            for j in 0..2 {
                let weight = exp2(_mm512_sub_ps(load(half(&scores[j], h)), max[h]), MAX_WEIGHT);
                let inverse = _mm512_set1_ps(positions[j].inverse);
                if MASK {
                    let seen = seen(tile, h, block.first + (2 * i + j) as i32);
                    sum[h] = _mm512_mask3_fmadd_ps(weight, inverse, sum[h], seen);
                    integers[j] = _mm512_maskz_cvtps_epi32(seen, weight);
                } else {
                    sum[h] = _mm512_fmadd_ps(weight, inverse, sum[h]);
                    integers[j] = _mm512_cvtps_epi32(weight);
                }
            }
            store_words(half_mut(weights, h), pairs(integers[0], integers[1]));
        }
    }
    sum
}

/// Which queries see a position.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn seen(tile: &Tile, h: usize, position: i32) -> __mmask16 {
    let position = _mm512_set1_epi32(position);
    let started = _mm512_cmple_epi32_mask(load_words(half(&tile.start, h)), position);
    _mm512_mask_cmpgt_epi32_mask(started, load_words(half(&tile.end, h)), position)
}

/// `sum over i of a[i] b[i]` for the eight columns of b, in integers; a[i] and b[i] are pairs of 16-bit numbers.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn products(a: &[Row<u32>], b: &[[u32; SUMS]]) -> [[__m512i; VECTORS]; SUMS] {
    let mut sums = [[_mm512_setzero_si512(); VECTORS]; SUMS];
    for (a, b) in a.iter().zip(b) {
        let mut lanes = [_mm512_setzero_si512(); VECTORS];
        for (h, lanes) in lanes.iter_mut().enumerate() {
            *lanes = load_words(half(a, h));
        }
        for (sums, b) in sums.iter_mut().zip(b) {
            let b = _mm512_set1_epi32(*b as i32);
            for h in 0..VECTORS {
                sums[h] = _mm512_dpwssd_epi32(sums[h], lanes[h], b);
            }
        }
    }
    sums
}

/// `factor * 2^x` to within 2^-18, exact where x is 0; where x is below -125, that of -125; NaN stays NaN. `factor` is
/// from 1 to 2^12, and x at most 100.
///
/// x = n + f with |f| <= 1/2, and a polynomial for 2^f of least relative error (by iterated least squares). n is added to
/// the exponent's bits: `vscalefps` takes some hundred cycles where the result is subnormal.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn exp2(x: __m512, factor: f32) -> __m512 {
    let shift = _mm512_set1_ps(MAGIC);
    // of a NaN and a number it takes the second, the NaN
    let x = _mm512_max_ps(_mm512_set1_ps(-125.0), x);
    let shifted = _mm512_add_ps(x, shift);
    let f = _mm512_sub_ps(x, _mm512_sub_ps(shifted, shift));
    let mut p = _mm512_set1_ps(factor * 0.009_582_85);
    for c in [0.055_906_43, 0.240_240_99, 0.693_124_2, 1.0] {
        p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(factor * c));
    }
    let n = _mm512_slli_epi32::<23>(_mm512_castps_si512(shifted));
    _mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(p), n))
}

/// Two vectors of 16-bit numbers in 32 bits, as pairs.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn pairs(even: __m512i, odd: __m512i) -> __m512i {
    _mm512_mask_blend_epi16(0xaaaa_aaaa, even, _mm512_slli_epi32::<16>(odd))
}

fn half<T>(row: &Row<T>, h: usize) -> &[T; 16] {
    &row.as_chunks().0[h]
}

fn half_mut<T>(row: &mut Row<T>, h: usize) -> &mut [T; 16] {
    &mut row.as_chunks_mut().0[h]
}

// Loads and stores: the only unsafe code of this file.

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn load(a: &[f32; 16]) -> __m512 {
    // SAFETY: reads the sixteen floats of `a`; the load needs no alignment.
    unsafe { _mm512_loadu_ps(a.as_ptr()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn load_words<T: bytemuck::Pod>(a: &[T; 16]) -> __m512i {
    const { assert!(size_of::<T>() == 4) };
    // SAFETY: reads the sixteen words of `a`; the load needs no alignment.
    unsafe { _mm512_loadu_si512(a.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn store(a: &mut [f32; 16], x: __m512) {
    // SAFETY: writes the sixteen floats of `a`; the store needs no alignment.
    unsafe { _mm512_storeu_ps(a.as_mut_ptr(), x) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn store_words(a: &mut [u32; 16], x: __m512i) {
    // SAFETY: writes the sixteen words of `a`; the store needs no alignment.
    unsafe { _mm512_storeu_si512(a.as_mut_ptr().cast(), x) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn to_array(x: __m512i) -> [u32; 16] {
    let mut a = [0; 16];
    store_words(&mut a, x);
    a
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn store_halves(x: __m512i, low: &mut [u32; SUMS], high: &mut [u32; SUMS]) {
    let both = to_array(x);
    low.copy_from_slice(&both[..SUMS]);
    high.copy_from_slice(&both[SUMS..]);
}
