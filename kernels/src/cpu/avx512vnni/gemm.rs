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
use crate::cpu::Panels;
use crate::quant::float::MAGIC;
use crate::quant::packed::{TILE, tile_words};
use crate::quant::q8::BLOCK;

/// Rows of weights in a panel: two vectors of lanes.
const ROWS: usize = 2 * LANES;

const LANES: usize = 16;

/// Tokens that meet a panel at a time: with two vectors of rows, their integer and float sums fill the registers.
pub(super) const COLS: usize = 6;

/// Weights of a row in a panel.
const SLAB: usize = 2 * GROUP * BLOCK;

/// A vector of lanes for each half of a panel's rows.
pub(super) type Pair<T> = [Line<T>; 2];

#[derive(Clone, Copy)]
#[repr(C, align(64))]
pub(super) struct Line<T>([T; LANES]);

/// A block of each row of a panel, taken apart.
#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Block {
    /// (k / 4, row): four codes.
    pub(super) codes: [Pair<u32>; BLOCK / 4],
    /// What shares a scale: all of it, or each half.
    pub(super) groups: [Group; 2],
}

#[derive(Clone, Copy)]
#[repr(C)]
pub(super) struct Group {
    pub(super) scale: Pair<f32>,
    /// The scale times -[`MAGIC`].
    pub(super) magic: Pair<f32>,
    pub(super) offset: Pair<f32>,
    /// Sum of the codes.
    pub(super) sum: Pair<u32>,
}

pub(super) type Panel = [Block; SLAB / BLOCK];

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
        let words = [Line([0; LANES]); 2];
        let group = Group { scale: ZEROS, magic: ZEROS, offset: ZEROS, sum: words };
        Box::new(Scratch {
            panel: [Block { codes: [words; BLOCK / 4], groups: [group; 2] }; SLAB / BLOCK],
            rows: Default::default(),
            y: Vec::new(),
        })
    }
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
        let order = Panels { w, row_bytes, rows: ROWS, slab_bytes: row_bytes * SLAB / x.row_len };
        sums.resize(sums.len().max(rows.div_ceil(ROWS) * tokens), ZEROS);
        // the tokens' part of a slab stays in the second-level cache for all panels
        for start in (0..blocks).step_by(SLAB / BLOCK) {
            let slab = start..blocks.min(start + SLAB / BLOCK);
            for (p, (w, sums)) in w.chunks(ROWS * row_bytes).zip(sums.chunks_exact_mut(tokens)).enumerate() {
                unpack(format, w, row_bytes, slab.clone(), panel, unpacked);
                for (c, y) in sums.as_chunks_mut::<COLS>().0.iter_mut().enumerate() {
                    order.fetch_next(p, start * BLOCK / SLAB, c, tokens / COLS);
                    let (tile, half) = (c / (TILE / COLS), c % (TILE / COLS));
                    let x = x.tiles[tile * tile_words(x.row_len)..][..tile_words(x.row_len)].as_chunks().0;
                    let x = &x[slab.clone()];
                    if start == 0 {
                        *y = [ZEROS; COLS];
                    }
                    match (format.halves, format.shift) {
                        (false, Some(_)) => gemm_step::add_products::<false, false>(panel, x, half, y),
                        (false, None) => gemm_step::add_products::<false, true>(panel, x, half, y),
                        (true, Some(_)) => gemm_step::add_products::<true, false>(panel, x, half, y),
                        (true, None) => gemm_step::add_products::<true, true>(panel, x, half, y),
                    }
                }
            }
        }
        for (first, sums) in (0..rows).step_by(ROWS).zip(sums.chunks_exact(tokens)) {
            for ([low, high], y) in sums.iter().zip(y.chunks_exact_mut(rows)) {
                match y[first..].first_chunk_mut::<ROWS>() {
                    Some(y) => *y = bytemuck::cast([low.0, high.0]),
                    None => {
                        for (y, sum) in y[first..].iter_mut().zip(low.0.iter().chain(&high.0)) {
                            *y = *sum;
                        }
                    }
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
                // each part of a group has two blocks
                let blocks = &mut to[i * GROUP + 2 * p..][..2];
                let lines = blocks.iter_mut().flat_map(|block| &mut block.codes);
                for (line, codes) in lines.zip(transpose(codes)) {
                    store_words(codes, &mut line[v].0);
                }
            }
            let (mut scales, mut offsets) = ([shift; LANES], [shift; LANES]);
            for (r, row) in rows.iter().enumerate() {
                scales[r] = load_words(bytemuck::cast_ref(&row.scales.scales));
                offsets[r] = load_words(bytemuck::cast_ref(&row.scales.offsets));
            }
            let (scales, offsets) = (transpose(scales), transpose(offsets));
            let in_block = scales_in_group / GROUP;
            for j in 0..scales_in_group {
                let Block { codes, groups } = &mut to[i * GROUP + j / in_block];
                let (h, group) = (j % in_block, &mut groups[j % in_block]);
                let (scale, offset) = (_mm512_castsi512_ps(scales[j]), _mm512_castsi512_ps(offsets[j]));
                store_floats(scale, &mut group.scale[v].0);
                store_floats(_mm512_mul_ps(scale, _mm512_set1_ps(-MAGIC)), &mut group.magic[v].0);
                store_floats(offset, &mut group.offset[v].0);
                let lines = codes.chunks_exact(BLOCK / 4 / in_block).nth(h).expect("a half of the block");
                let sum = lines.iter().fold(_mm512_setzero_si512(), |sum, codes| {
                    _mm512_dpbusd_epi32(sum, _mm512_set1_epi8(1), load_words(&codes[v].0))
                });
                // as the low one of two i16
                store_words(_mm512_and_si512(sum, _mm512_set1_epi32(0xffff)), &mut group.sum[v].0);
            }
        }
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
