//! Quantized weights of any format times the activations of many tokens, in integers.
//!
//! 1. 32 rows of weights, 512 values of each, become a panel: codes as signed bytes, four neighbours of a row in a lane,
//!    with scale, offset and sum of codes of what shares a scale. It stays in the first-level cache while all tokens
//!    pass, and is all that a format adds.
//! 2. A panel meets six tokens at a time. Per block of 32, in integers and exactly, then in floats:
//!
//!    ```text
//!    sum of w x  =  d scale (sum of code u  +  z (sum of codes))  +  offset d (sum of t)      x = d t, t = u + z
//!                            vpdpbusd          vpdpwssd
//!    ```
//!
//! Sums start at the bits of the float 1.5 * 2^23 and so *are* floats, 1.5 * 2^23 more than the sum: no conversion is
//! needed, and what is too much goes in the multiplication by the scale, which has bits to spare (scales have at most 19:
//! an f16 times an i8), so that this product is exact too.

use std::cell::RefCell;

use super::*;
use crate::quant::float::MAGIC;
use crate::quant::packed::{HALF_SUM, LINES, SCALE, SUM, TILE, ZERO, tile_words};
use crate::quant::q8::BLOCK;

/// Rows of weights in a panel: two vectors of lanes.
const ROWS: usize = 2 * LANES;

const LANES: usize = 16;

/// Tokens that meet a panel at a time: with two vectors of rows, their integer and float sums fill the registers.
const COLS: usize = 6;

/// Weights of a row in a panel.
const SLAB: usize = 2 * GROUP * BLOCK;

/// A vector of lanes for each half of a panel's rows.
type Pair<T> = [Line<T>; 2];

#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Line<T>([T; LANES]);

/// Weights taken apart.
struct Panel {
    /// (k / 4, row): four codes.
    codes: [Pair<u32>; SLAB / 4],
    /// (group, row): the scale, and the same times -[`MAGIC`].
    scales: [(Pair<f32>, Pair<f32>); SLAB / BLOCK * 2],
    /// (group, row)
    offsets: [Pair<f32>; SLAB / BLOCK * 2],
    /// (group, row): the sum of the codes.
    sums: [Pair<u32>; SLAB / BLOCK * 2],
}

struct Scratch {
    panel: Panel,
    /// Sixteen rows, before they are turned into lanes.
    rows: [Unpacked; LANES],
    /// (panel, token, row)
    y: Vec<Pair<f32>>,
}

thread_local! {
    /// Kept from call to call.
    static SCRATCH: RefCell<Option<Box<Scratch>>> = const { RefCell::new(None) };
}

const ZEROS: Pair<f32> = [Line([0.0; LANES]); 2];

impl Scratch {
    fn new() -> Box<Scratch> {
        Box::new(Scratch {
            panel: Panel {
                codes: [[Line([0; LANES]); 2]; SLAB / 4],
                scales: [(ZEROS, ZEROS); SLAB / BLOCK * 2],
                offsets: [ZEROS; SLAB / BLOCK * 2],
                sums: [[Line([0; LANES]); 2]; SLAB / BLOCK * 2],
            },
            rows: Default::default(),
            y: Vec::new(),
        })
    }
}

/// See [`crate::quant::packed::pack`].
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(crate) fn pack(x: &[f32], k: usize, tile: &mut [u32]) {
    crate::quant::packed::pack(x, k, tile)
}

/// All rows of weights times all tokens (see `table::MatMul`).
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn matmul(format: &Format, w: &[u8], x: PackedMat<'_>, y: &mut [f32]) {
    SCRATCH.with_borrow_mut(|scratch| {
        let Scratch { panel, rows: unpacked, y: sums } = &mut **scratch.get_or_insert_with(Scratch::new);
        let rows = y.len() / x.cols;
        let row_bytes = w.len() / rows;
        let blocks = x.row_len / BLOCK;
        let tokens = x.cols.next_multiple_of(COLS);
        sums.clear();
        sums.resize(rows.div_ceil(ROWS) * tokens, ZEROS);
        // the tokens' part of a slab stays in the second-level cache for all panels
        for start in (0..blocks).step_by(SLAB / BLOCK) {
            let slab = start..blocks.min(start + SLAB / BLOCK);
            for (w, sums) in w.chunks(ROWS * row_bytes).zip(sums.chunks_exact_mut(tokens)) {
                unpack(format, w, row_bytes, slab.clone(), panel, unpacked);
                for (c, y) in sums.as_chunks_mut::<COLS>().0.iter_mut().enumerate() {
                    let (tile, half) = (c / (TILE / COLS), c % (TILE / COLS));
                    let x = x.tiles[tile * tile_words(x.row_len)..][..tile_words(x.row_len)].as_chunks().0;
                    let x = &x[slab.clone()];
                    match (format.halves, format.shift) {
                        (false, Some(_)) => multiply::<false, false>(panel, x, half, y),
                        (false, None) => multiply::<false, true>(panel, x, half, y),
                        (true, Some(_)) => multiply::<true, false>(panel, x, half, y),
                        (true, None) => multiply::<true, true>(panel, x, half, y),
                    }
                }
            }
        }
        for (first, sums) in (0..rows).step_by(ROWS).zip(sums.chunks_exact(tokens)) {
            for (from, to) in sums.iter().zip(y.chunks_exact_mut(rows)) {
                let to = &mut to[first..rows.min(first + ROWS)];
                for (from, to) in from.iter().zip(to.chunks_mut(LANES)) {
                    to.copy_from_slice(&from.0[..to.len()]);
                }
            }
        }
    });
}

/// Makes a panel of blocks `slab` of up to 32 rows. The rows that it lacks are those of its first row again: nobody
/// reads their results.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn unpack(
    format: &Format,
    w: &[u8],
    row_bytes: usize,
    slab: std::ops::Range<usize>,
    to: &mut Panel,
    rows: &mut [Unpacked; LANES],
) {
    let shift = _mm512_set1_epi8(format.shift.unwrap_or(0) as i8);
    let scales_in_group = if format.halves { 2 * GROUP } else { GROUP };
    for v in 0..ROWS / LANES {
        for (i, group) in (slab.start / GROUP..slab.end.div_ceil(GROUP)).enumerate() {
            for (r, unpacked) in rows.iter_mut().enumerate() {
                let at = (v * LANES + r) * row_bytes;
                let row = w.get(at..at + row_bytes).unwrap_or(&w[..row_bytes]);
                // SAFETY: `unpack` needs this level.
                unsafe { (format.unpack)(row, group, unpacked) };
            }
            for p in 0..4 {
                let mut codes = [shift; LANES];
                for (codes, row) in codes.iter_mut().zip(&*rows) {
                    *codes = _mm512_sub_epi8(load_512(bytemuck::cast_ref(&row.bytes[p])), shift);
                }
                for (line, codes) in to.codes[(4 * i + p) * LANES..].iter_mut().zip(transpose(codes)) {
                    store_words(codes, &mut line[v].0);
                }
            }
            let (mut scales, mut offsets) = ([shift; LANES], [shift; LANES]);
            for (r, row) in rows.iter().enumerate() {
                scales[r] = load_words(bytemuck::cast_ref(&row.scales.scales));
                offsets[r] = load_words(bytemuck::cast_ref(&row.scales.offsets));
            }
            let (scales, offsets) = (transpose(scales), transpose(offsets));
            for j in 0..scales_in_group {
                let at = i * scales_in_group + j;
                let (scale, offset) = (_mm512_castsi512_ps(scales[j]), _mm512_castsi512_ps(offsets[j]));
                store_floats(scale, &mut to.scales[at].0[v].0);
                store_floats(_mm512_mul_ps(scale, _mm512_set1_ps(-MAGIC)), &mut to.scales[at].1[v].0);
                store_floats(offset, &mut to.offsets[at][v].0);
            }
            let lines = &to.codes[i * GROUP * 8..];
            let sums = &mut to.sums[i * scales_in_group..][..scales_in_group];
            for (lines, sum) in lines.chunks_exact(GROUP * 8 / scales_in_group).zip(sums) {
                let codes = lines.iter().fold(_mm512_setzero_si512(), |sum, codes| {
                    _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), load_words(&codes[v].0))
                });
                // as the low one of two i16
                store_words(_mm512_and_si512(codes, _mm512_set1_epi32(0xffff)), &mut sum[v].0);
            }
        }
    }
}

/// A panel times the six tokens of part `half` of a tile, added to y.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn multiply<const HALVES: bool, const OFFSETS: bool>(
    panel: &Panel,
    x: &[[u32; LINES * TILE]],
    half: usize,
    y: &mut [Pair<f32>; COLS],
) {
    let per_block = if HALVES { 2 } else { 1 };
    let mut acc = [[_mm512_setzero_ps(); 2]; COLS];
    for (acc, y) in acc.iter_mut().zip(&*y) {
        *acc = [load_floats(&y[0].0), load_floats(&y[1].0)];
    }
    for (b, (codes, x)) in panel.codes.as_chunks::<8>().0.iter().zip(x).enumerate() {
        let lines: &[[[u32; COLS]; TILE / COLS]] = x.as_chunks().0.as_chunks().0;
        let x: &[_; LINES] = lines.try_into().expect("a block of a tile");
        let float = |line: usize, c: usize| _mm512_set1_ps(f32::from_bits(x[line][half][c]));
        for (h, codes) in codes.chunks_exact(8 / per_block).enumerate() {
            let mut sums = [[_mm512_castps_si512(_mm512_set1_ps(MAGIC)); 2]; COLS];
            for (codes, x) in codes.iter().zip(&x[h * 4..]) {
                let codes = [load_words(&codes[0].0), load_words(&codes[1].0)];
                for (sums, u) in sums.iter_mut().zip(x[half]) {
                    let u = _mm512_set1_epi32(u as i32);
                    for v in 0..2 {
                        sums[v] = _mm512_dpbusd_epi32(sums[v], u, codes[v]);
                    }
                }
            }
            let (scale, magic) = &panel.scales[b * per_block + h];
            let (offset, codes) = (&panel.offsets[b * per_block + h], &panel.sums[b * per_block + h]);
            let offset_sum = if HALVES { HALF_SUM + h } else { SUM };
            for v in 0..2 {
                let (scale, magic) = (load_floats(&scale[v].0), load_floats(&magic[v].0));
                let (offset, codes) = (load_floats(&offset[v].0), load_words(&codes[v].0));
                for c in 0..COLS {
                    let z = _mm512_set1_epi32(x[ZERO][half][c] as i32);
                    let sum = _mm512_castsi512_ps(_mm512_dpwssd_epi32(sums[c][v], codes, z));
                    let scaled = _mm512_fmadd_ps(sum, scale, magic);
                    if OFFSETS {
                        acc[c][v] = _mm512_fmadd_ps(offset, float(offset_sum, c), acc[c][v]);
                    }
                    acc[c][v] = _mm512_fmadd_ps(scaled, float(SCALE, c), acc[c][v]);
                }
            }
        }
    }
    for (acc, y) in acc.iter().zip(y) {
        store_floats(acc[0], &mut y[0].0);
        store_floats(acc[1], &mut y[1].0);
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn load_words(a: &[u32; LANES]) -> __m512i {
    // SAFETY: reads the sixteen words of `a`; the load needs no alignment.
    unsafe { _mm512_loadu_si512(a.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn store_words(x: __m512i, to: &mut [u32; LANES]) {
    // SAFETY: writes the sixteen words of `to`; the store needs no alignment.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), x) }
}
