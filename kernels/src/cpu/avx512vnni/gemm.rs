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
//!
//! Where half blocks have scales of their own, what comes after the products comes twice. So where these scales are whole
//! multiples of a unit and small enough, as in Q2_K and Q3_K, the multiples become part of the codes ([`Halves::fold`]).

use std::cell::RefCell;

use super::gemm_step::Product;
use super::*;
use crate::cpu::Panels;
use crate::quant::float::MAGIC;
use crate::quant::packed::{TILE, tile_words};
use crate::quant::q8::BLOCK;

/// Rows of weights in a panel: two vectors of lanes.
pub(super) const ROWS: usize = 2 * LANES;

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
    /// What shares a scale or an offset: all of it, or each half.
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

impl Per {
    /// How many there are in eight blocks.
    fn in_group(self) -> usize {
        match self {
            Per::Block => GROUP,
            Per::Half => 2 * GROUP,
        }
    }

    /// Where number `i` of these lies.
    fn group(self, blocks: &mut [Block; GROUP], i: usize) -> &mut Group {
        match self {
            Per::Block => &mut blocks[i].groups[0],
            Per::Half => &mut blocks[i / 2].groups[i % 2],
        }
    }
}

struct Scratch {
    panel: Panel,
    /// Sixteen rows, before they are turned into lanes.
    rows: [Unpacked; LANES],
    /// (panel, token, row): results until the last slab.
    sums: Vec<Pair<f32>>,
}

thread_local! {
    /// Kept from call to call.
    static SCRATCH: RefCell<Option<Box<Scratch>>> = const { RefCell::new(None) };
}

impl Scratch {
    fn new() -> Box<Scratch> {
        let (words, floats) = ([Line([0; LANES]); 2], [Line([0.0; LANES]); 2]);
        let group = Group { scale: floats, magic: floats, offset: floats, sum: words };
        Box::new(Scratch {
            panel: [Block { codes: [words; BLOCK / 4], groups: [group; 2] }; SLAB / BLOCK],
            rows: Default::default(),
            sums: Vec::new(),
        })
    }
}

/// All rows of weights times all tokens (see `table::MatMul`).
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
pub(super) fn matmul(format: &Format, w: &[u8], x: PackedMat<'_>, y: &mut [f32]) {
    SCRATCH.with_borrow_mut(|scratch| {
        let Scratch { panel, rows: unpacked, sums } = &mut **scratch.get_or_insert_with(Scratch::new);
        let rows = y.len() / x.cols;
        let row_bytes = w.len() / rows;
        let blocks = x.row_len / BLOCK;
        let tokens = x.cols.next_multiple_of(COLS);
        let order = Panels { w, row_bytes, rows: ROWS, slab_bytes: row_bytes * SLAB / x.row_len };
        sums.resize(sums.len().max(rows.div_ceil(ROWS) * tokens), [Line([0.0; LANES]); 2]);
        // the tokens' part of a slab stays in the second-level cache for all panels
        for start in (0..blocks).step_by(SLAB / BLOCK) {
            let slab = start..blocks.min(start + SLAB / BLOCK);
            for (p, (w, sums)) in w.chunks(ROWS * row_bytes).zip(sums.chunks_exact_mut(tokens)).enumerate() {
                unpack(format, w, row_bytes, slab.clone(), panel, unpacked);
                let (sums, y) = (sums.as_chunks_mut().0.iter_mut(), y.chunks_mut(COLS * rows));
                for (c, (sums, y)) in sums.zip(y).enumerate() {
                    order.fetch_next(p, start * BLOCK / SLAB, c, tokens / COLS);
                    let (tile, half) = (c / (TILE / COLS), c % (TILE / COLS));
                    let x = x.tiles[tile * tile_words(x.row_len)..][..tile_words(x.row_len)].as_chunks().0;
                    let product = Product { panel, x: &x[slab.clone()], half, first: start == 0 };
                    let y = &mut y[p * ROWS..];
                    let whole = rows >= (p + 1) * ROWS && y.len() > (COLS - 1) * rows;
                    if slab.end < blocks {
                        product.add_to(format, sums, None);
                    } else if whole {
                        product.add_to(format, sums, Some((y, rows)));
                    } else {
                        product.add_to(format, sums, None);
                        for ([low, high], y) in sums.iter().zip(y.chunks_mut(rows)) {
                            let n_rows = ROWS.min(rows - p * ROWS);
                            for (y, sum) in y[..n_rows].iter_mut().zip(low.0.iter().chain(&high.0)) {
                                *y = *sum;
                            }
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
    unpacked: &mut [Unpacked; LANES],
) {
    for v in 0..ROWS / LANES {
        let rows: [&[u8]; LANES] = std::array::from_fn(|r| {
            let at = (v * LANES + r) * row_bytes;
            w.get(at..at + row_bytes).unwrap_or(&w[..row_bytes])
        });
        let groups = slab.start / GROUP..slab.end.div_ceil(GROUP);
        for (i, to) in groups.zip(to.as_chunks_mut().0) {
            // SAFETY: `unpack` needs this level.
            unsafe { (format.unpack)(&rows, i, unpacked) };
            put_codes(format, unpacked, v, to);
            put_scales(format, unpacked, v, to);
        }
    }
}

/// Puts the codes of sixteen rows and their sums into vector `v` of a group of a panel.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn put_codes(format: &Format, rows: &[Unpacked; LANES], v: usize, to: &mut [Block; GROUP]) {
    let shift = _mm512_set1_epi8(format.shift.cast_signed());
    for (b, Block { codes, groups }) in to.iter_mut().enumerate() {
        let mut sums = [_mm512_setzero_si512(); 2];
        for (h, sum) in sums.iter_mut().enumerate() {
            let four = columns(|r| &rows[r].bytes.as_flattened().as_chunks().0[2 * b + h]);
            for (line, codes) in codes[BLOCK / 8 * h..].iter_mut().zip(four) {
                let codes = _mm512_sub_epi8(codes, shift);
                *sum = _mm512_dpbusd_epi32(*sum, _mm512_set1_epi8(1), codes);
                store_words(codes, &mut line[v].0);
            }
        }
        let sums = match format.scales {
            Per::Block => [_mm512_add_epi32(sums[0], sums[1]); 2],
            Per::Half => sums,
        };
        for (group, sum) in groups.iter_mut().zip(sums) {
            // as the low one of two i16
            store_words(_mm512_and_si512(sum, _mm512_set1_epi32(0xffff)), &mut group.sum[v].0);
        }
    }
}

/// Puts the scales and offsets of sixteen rows into vector `v` of a group of a panel.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn put_scales(format: &Format, rows: &[Unpacked; LANES], v: usize, to: &mut [Block; GROUP]) {
    let minus_magic = _mm512_set1_ps(-MAGIC);
    for i in (0..format.scales.in_group()).step_by(4) {
        let four = columns(|r| bytemuck::cast_ref(&rows[r].scales.scales.as_chunks::<4>().0[i / 4]));
        for (j, scale) in four.into_iter().enumerate() {
            let group = format.scales.group(to, i + j);
            let scale = _mm512_castsi512_ps(scale);
            store_floats(scale, &mut group.scale[v].0);
            store_floats(_mm512_mul_ps(scale, minus_magic), &mut group.magic[v].0);
        }
    }
    let Some(offsets) = format.offsets else { return };
    for i in (0..offsets.in_group()).step_by(4) {
        let four = columns(|r| bytemuck::cast_ref(&rows[r].scales.offsets.as_chunks::<4>().0[i / 4]));
        for (j, offset) in four.into_iter().enumerate() {
            store_floats(_mm512_castsi512_ps(offset), &mut offsets.group(to, i + j).offset[v].0);
        }
    }
}

/// Four words of each of sixteen rows, as columns. Rows go to their lanes as they are loaded: only half of the shuffles of
/// [`transpose`] are left to the one unit that has them.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn columns<'a>(row: impl Fn(usize) -> &'a [u8; 16]) -> [__m512i; 4] {
    // rows r, r + 4, r + 8 and r + 12
    let four = |r: usize| {
        let low = _mm512_castsi128_si512(load_128(row(r)));
        let low = _mm512_inserti32x4::<1>(low, load_128(row(r + 4)));
        let low = _mm512_inserti32x4::<2>(low, load_128(row(r + 8)));
        _mm512_inserti32x4::<3>(low, load_128(row(r + 12)))
    };
    let rows = [four(0), four(1), four(2), four(3)];
    let low = [_mm512_unpacklo_epi32(rows[0], rows[1]), _mm512_unpacklo_epi32(rows[2], rows[3])];
    let high = [_mm512_unpackhi_epi32(rows[0], rows[1]), _mm512_unpackhi_epi32(rows[2], rows[3])];
    [
        _mm512_unpacklo_epi64(low[0], low[1]),
        _mm512_unpackhi_epi64(low[0], low[1]),
        _mm512_unpacklo_epi64(high[0], high[1]),
        _mm512_unpackhi_epi64(high[0], high[1]),
    ]
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn store_words(x: __m512i, to: &mut [u32; LANES]) {
    // SAFETY: writes the sixteen words of `to`; the store needs no alignment.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), x) }
}
