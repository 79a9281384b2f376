//! Quantized weights of any format times the activations of many tokens.
//!
//! 1. Sixteen rows of weights become a panel: codes as unsigned bytes u = code + 128, four neighbours of a row in a lane,
//!    with scale, offset and sum of codes of each group of weights that share a scale. This is done once for all tokens,
//!    and is all that a format adds.
//! 2. A panel meets the tokens of a tile, each of them in one accumulator of sixteen rows. In integers, exactly:
//!
//!    ```text
//!    sum of code t  =  sum of u q  +  z (sum of u)  -  128 (sum of t)          with t = q + z
//!                      dpbusd         `------------- dpwssd --------'
//!    ```
//!
//! 3. These sums become floats and are scaled by weight and by token; an offset adds `offset * d * (sum of t)`.

use std::cell::RefCell;

use super::*;
use crate::quant::block::BlockFormat;
use crate::quant::packed::{HALF_PAIR, HALF_SUM, LINES, PAIR, PackedMat, SCALE, SUM, TILE, tile_words};
use crate::quant::q8::BLOCK;

/// Rows of weights in a panel: the lanes of a vector.
const ROWS: usize = 16;

/// Some panels of weights.
#[derive(Default)]
struct Panels {
    /// (panel, k / 4, row): four codes plus 128.
    codes: Vec<[u32; ROWS]>,
    /// (panel, group, row): the sum of the group's codes, each plus 128, and 128, as two i16.
    sums: Vec<[u32; ROWS]>,
    /// (panel, group, row)
    scales: Vec<[f32; ROWS]>,
    /// (panel, group, row); not used by formats without offsets.
    offsets: Vec<[f32; ROWS]>,
}

thread_local! {
    /// Memory for panels, kept from call to call.
    static PANELS: RefCell<Panels> = RefCell::default();
}

/// All rows of weights times all tokens (see `table::MatMul`), for a format of `N` weights and `G` groups a block.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(crate) fn matmul<B: BlockFormat<N, G>, const N: usize, const G: usize>(
    w: &[u8],
    x: PackedMat<'_>,
    y: &mut [f32],
) {
    PANELS.with_borrow_mut(|panels| {
        let rows = y.len() / x.cols;
        let w: &[B] = bytemuck::cast_slice(w);
        let offsets = unpack(w, rows, panels);
        for (tile, y) in x.tiles.chunks_exact(tile_words(x.row_len)).zip(y.chunks_mut(TILE * rows)) {
            match (N / G < BLOCK, offsets) {
                (false, false) => tile_product::<false, false>(panels, tile, rows, y),
                (false, true) => tile_product::<false, true>(panels, tile, rows, y),
                (true, false) => tile_product::<true, false>(panels, tile, rows, y),
                (true, true) => tile_product::<true, true>(panels, tile, rows, y),
            }
        }
    });
}

/// Makes panels of `rows` rows; says whether the format has offsets. The rows that the last panel lacks are those of its
/// first row again: nobody reads their results.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn unpack<B: BlockFormat<N, G>, const N: usize, const G: usize>(
    w: &[B],
    rows: usize,
    to: &mut Panels,
) -> bool {
    let blocks = w.len() / rows;
    let panels = rows.div_ceil(ROWS);
    to.codes.resize(panels * blocks * N / 4, [0; ROWS]);
    for all in [&mut to.scales, &mut to.offsets] {
        all.resize(panels * blocks * G, [0.0; ROWS]);
    }
    to.sums.resize(panels * blocks * G, [0; ROWS]);
    let mut has_offsets = false;
    for panel in 0..panels {
        for r in 0..ROWS {
            let row = if panel * ROWS + r < rows { panel * ROWS + r } else { panel * ROWS };
            for (b, block) in w[row * blocks..(row + 1) * blocks].iter().enumerate() {
                let at = panel * blocks + b;
                let codes = block.codes().map(|code| code as u8 ^ 0x80);
                let lanes = &mut to.codes[at * N / 4..(at + 1) * N / 4];
                for (lane, four) in lanes.iter_mut().zip(codes.as_chunks::<4>().0) {
                    lane[r] = u32::from_le_bytes(*four);
                }
                let (scales, offsets) = (block.scales(), block.offsets());
                for g in 0..G {
                    let sum: u32 = codes[g * N / G..(g + 1) * N / G].iter().map(|u| u32::from(*u)).sum();
                    to.sums[at * G + g][r] = sum | 128 << 16;
                    to.scales[at * G + g][r] = scales[g];
                    if let Some(offsets) = offsets {
                        to.offsets[at * G + g][r] = offsets[g];
                    }
                }
                has_offsets = offsets.is_some();
            }
        }
    }
    has_offsets
}

/// All panels times the tokens of one tile: y (tokens, rows). `HALVES`: a group is half a block.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn tile_product<const HALVES: bool, const OFFSETS: bool>(w: &Panels, x: &[u32], rows: usize, y: &mut [f32]) {
    let x = x.as_chunks::<{ LINES * TILE }>().0;
    let panels = rows.div_ceil(ROWS);
    let groups = w.scales.len() / panels;
    for panel in 0..panels {
        let codes = &w.codes[panel * x.len() * 8..(panel + 1) * x.len() * 8];
        let part = panel * groups..(panel + 1) * groups;
        let (sums, scales, offsets) = (&w.sums[part.clone()], &w.scales[part.clone()], &w.offsets[part]);
        let mut acc = [_mm512_setzero_ps(); TILE];
        for (b, (codes, x)) in codes.as_chunks::<8>().0.iter().zip(x).enumerate() {
            if HALVES {
                for h in 0..2 {
                    let g = 2 * b + h;
                    let codes = codes.as_chunks::<4>().0[h];
                    let lines = Lines { q: 4 * h, pair: HALF_PAIR + h, sum: HALF_SUM + h };
                    add_group::<4, OFFSETS>(&mut acc, &codes, &sums[g], &scales[g], &offsets[g], x, lines);
                }
            } else {
                let lines = Lines { q: 0, pair: PAIR, sum: SUM };
                add_group::<8, OFFSETS>(&mut acc, codes, &sums[b], &scales[b], &offsets[b], x, lines);
            }
        }
        let first = panel * ROWS;
        for (acc, y) in acc.into_iter().zip(y.chunks_exact_mut(rows)) {
            let y = &mut y[first..rows.min(first + ROWS)];
            // SAFETY: the mask lets the store write the elements of `y` alone.
            unsafe { _mm512_mask_storeu_ps(y.as_mut_ptr(), (0xffff_u32 >> (ROWS - y.len())) as u16, acc) };
        }
    }
}

/// Lines of a tile's block that meet a group of weights.
#[derive(Clone, Copy)]
struct Lines {
    q: usize,
    pair: usize,
    sum: usize,
}

/// Adds the products of one group of 4 K weights.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn add_group<const K: usize, const OFFSETS: bool>(
    acc: &mut [__m512; TILE],
    codes: &[[u32; ROWS]; K],
    sums: &[u32; ROWS],
    scales: &[f32; ROWS],
    offsets: &[f32; ROWS],
    x: &[u32; LINES * TILE],
    lines: Lines,
) {
    let word = |line: usize, c: usize| _mm512_set1_epi32(x[line * TILE + c] as i32);
    let float = |line: usize, c: usize| _mm512_set1_ps(f32::from_bits(x[line * TILE + c]));
    let mut products = [_mm512_setzero_si512(); TILE];
    for (i, codes) in codes.iter().enumerate() {
        let codes = load_words(codes);
        for (c, product) in products.iter_mut().enumerate() {
            *product = _mm512_dpbusd_epi32(*product, codes, word(lines.q + i, c));
        }
    }
    let sums = load_words(sums);
    let scales = load_floats(scales);
    for (c, (acc, product)) in acc.iter_mut().zip(products).enumerate() {
        let product = _mm512_dpwssd_epi32(product, sums, word(lines.pair, c));
        let scaled = _mm512_mul_ps(_mm512_cvtepi32_ps(product), scales);
        *acc = _mm512_fmadd_ps(scaled, float(SCALE, c), *acc);
    }
    if OFFSETS {
        let offsets = load_floats(offsets);
        for (c, acc) in acc.iter_mut().enumerate() {
            *acc = _mm512_fmadd_ps(offsets, float(lines.sum, c), *acc);
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn load_words(a: &[u32; ROWS]) -> __m512i {
    // SAFETY: reads the sixteen words of `a`; the load needs no alignment.
    unsafe { _mm512_loadu_si512(a.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn load_floats(a: &[f32; ROWS]) -> __m512 {
    // SAFETY: reads the sixteen floats of `a`; the load needs no alignment.
    unsafe { _mm512_loadu_ps(a.as_ptr()) }
}
