//! Weights of any format times the activations of many tokens, in tiles of bf16.
//!
//! 32 rows of weights, 256 values of each, become a panel of tiles in bf16, which stays in the cache next to the core
//! while all tokens pass, 32 at a time: four tiles of sums, each of the four tiles loaded serves two of them.

use std::cell::RefCell;

use super::pack::{TILE, bf16};
use super::*;
use crate::cpu::Panels;
use crate::cpu::avx512vnni::{Scales, transpose};
use crate::ops::{Aligned, Lines};

/// Rows of weights in a panel.
const ROWS: usize = 2 * TILE_ROWS;

/// Weights of a row in a panel: as many as are unpacked at a time. The panel takes a third of the first-level cache, past
/// which the tokens stream.
pub(super) const SLAB: usize = 256;

/// Tiles of a panel, (half of the rows, k / 32).
type Panel = [[Tile; SLAB / TILE_VALUES]; 2];

/// Sums of 32 rows and 32 columns, (half of the rows, half of the columns): tiles of (row, column), the bits of f32.
type Sums = [[Tile; 2]; 2];

/// Where a slab of a row goes: row `r` of its tiles.
pub(super) struct RowOfTiles<'a> {
    pub(super) tiles: &'a mut [Tile; SLAB / TILE_VALUES],
    pub(super) r: usize,
}

/// Turns slab `i` of a row into bf16; needs this level. The scales are memory for it.
type Dequantize = unsafe fn(&[u8], usize, &mut Scales, RowOfTiles<'_>);

#[derive(Default)]
struct Scratch {
    panel: Box<Aligned<Panel>>,
    /// (panel, pair of token tiles)
    sums: Lines<Sums>,
}

thread_local! {
    /// Kept from call to call.
    static SCRATCH: RefCell<Scratch> = RefCell::default();
}

/// All rows of weights times all tokens (see `table::MatMul`).
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c"
)]
pub(super) fn matmul(dequantize: Dequantize, w: &[u8], x: PackedMat<'_>, y: &mut [f32]) {
    SCRATCH.with_borrow_mut(|scratch| {
        let Scratch { panel, sums } = scratch;
        // SAFETY: this function is called where the CPU has the level.
        let tiles = unsafe { Tiles::new() };
        let rows = y.len() / x.cols;
        let row_bytes = w.len() / rows;
        let order = Panels { w, row_bytes, rows: ROWS, slab_bytes: row_bytes * SLAB / x.row_len };
        let (panels, pairs) = (rows.div_ceil(ROWS), x.cols.div_ceil(2 * TILE));
        sums.resize(panels * pairs);
        let tiles_of_row = x.row_len / TILE_VALUES;
        let all: &[Tile] = x.tiles.as_chunks().0.as_chunks().0;
        let tokens = |tile: usize, slab: usize| -> &[Tile] {
            let tile = &all[tile * tiles_of_row..(tile + 1) * tiles_of_row];
            let start = slab * (SLAB / TILE_VALUES);
            &tile[start.min(tile.len())..tile.len().min(start + SLAB / TILE_VALUES)]
        };
        // an odd tile at the end meets the panel twice
        let pair = |i: usize| [2 * i, (2 * i + 1).min(x.cols.div_ceil(TILE) - 1)];
        let slabs = x.row_len.div_ceil(SLAB);
        // the tokens' part of a slab stays in the second-level cache for all panels
        for slab in 0..slabs {
            for (p, (w, sums)) in w.chunks(ROWS * row_bytes).zip(sums.chunks_exact_mut(pairs)).enumerate() {
                unpack(dequantize, w, row_bytes, slab, &mut panel.0);
                for (i, sums) in sums.iter_mut().enumerate() {
                    order.fetch_next(p, slab, i, pairs);
                    // each panel fetches a part of the next slab
                    for next in pair(i).map(|tile| tokens(tile, slab + 1)) {
                        fetch(&next[next.len() * p / panels..next.len() * (p + 1) / panels]);
                    }
                    let [first, second] = pair(i);
                    let x = [tokens(first, slab), tokens(second, slab)];
                    multiply(
                        &tiles,
                        [&panel.0[0][..x[0].len()], &panel.0[1][..x[0].len()]],
                        x,
                        slab == 0,
                        sums,
                    );
                }
                if slab + 1 == slabs {
                    store(sums, &mut y[p * ROWS..], rows, x.cols, ROWS.min(rows - p * ROWS));
                }
            }
        }
    });
}

/// Brings tiles to the second-level cache.
fn fetch(tiles: &[Tile]) {
    for line in tiles.as_flattened() {
        // SAFETY: a prefetch reads nothing that the program can see, and cannot fault.
        unsafe { _mm_prefetch::<_MM_HINT_T1>(line.as_ptr().cast()) };
    }
}

/// Makes a panel of slab number `slab` of up to 32 rows. Of rows that are missing nothing is written: nobody reads their
/// results.
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c"
)]
fn unpack(dequantize: Dequantize, w: &[u8], row_bytes: usize, slab: usize, panel: &mut Panel) {
    let mut scales = Scales::default();
    for (r, row) in w.chunks_exact(row_bytes).enumerate() {
        let tiles = &mut panel[r / TILE_ROWS];
        // SAFETY: `dequantize` needs this level.
        unsafe { dequantize(row, slab, &mut scales, RowOfTiles { tiles, r: r % TILE_ROWS }) };
    }
}

/// Turns block `b` of eight, one half of the 64 bytes of a pair, into a row of a tile.
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c"
)]
#[inline]
pub(super) fn store_block<const HALVES: bool>(
    scales: &Scales,
    b: usize,
    pair: __m512i,
    to: &mut [u32; TILE_VALUES / 2],
) {
    let block =
        if b.is_multiple_of(2) { _mm512_castsi512_si256(pair) } else { _mm512_extracti64x4_epi64::<1>(pair) };
    let weights = |bytes: __m128i, i: usize| {
        let (scale, offset) = (_mm512_set1_ps(scales.scales[i]), _mm512_set1_ps(scales.offsets[i]));
        _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(bytes)), scale, offset)
    };
    let (i, j) = if HALVES { (2 * b, 2 * b + 1) } else { (b, b) };
    let low = weights(_mm256_castsi256_si128(block), i);
    let high = weights(_mm256_extracti128_si256::<1>(block), j);
    // SAFETY: writes the 64 bytes of `to`; the store needs no alignment.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), bf16(low, high)) };
}

#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c"
)]
#[inline]
pub(super) fn load(row: &[u32; 16]) -> __m512i {
    // SAFETY: reads the sixteen words of `row`; the load needs no alignment.
    unsafe { _mm512_loadu_si512(row.as_ptr().cast()) }
}

/// Adds the products of two rows of tiles and two columns of tiles to `sums`, or puts them there.
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c"
)]
fn multiply(_: &Tiles, w: [&[Tile]; 2], x: [&[Tile]; 2], put: bool, sums: &mut Sums) {
    let steps = x[0].len();
    assert!(steps > 0 && x[1].len() == steps && w[0].len() == steps && w[1].len() == steps);
    // SAFETY: the tiles are configured to 16 rows of 64 bytes, as there is a `Tiles`. Each step reads a tile of each
    // part of w and of x, and no more than all of them; the sums are read and written whole.
    unsafe {
        std::arch::asm!(
            "test {put:e}, {put:e}",
            "jnz 3f",
            "tileloadd tmm0, [{sums} + {stride}]",
            "tileloadd tmm1, [{sums} + {stride} + 1024]",
            "tileloadd tmm2, [{sums} + {stride} + 2048]",
            "tileloadd tmm3, [{sums} + {stride} + 3072]",
            "jmp 2f",
            "3:",
            "tilezero tmm0",
            "tilezero tmm1",
            "tilezero tmm2",
            "tilezero tmm3",
            "2:",
            "tileloadd tmm4, [{w0} + {stride}]",
            "tileloadd tmm6, [{x0} + {stride}]",
            "tdpbf16ps tmm0, tmm4, tmm6",
            "tileloadd tmm7, [{x1} + {stride}]",
            "tdpbf16ps tmm1, tmm4, tmm7",
            "tileloadd tmm5, [{w1} + {stride}]",
            "tdpbf16ps tmm2, tmm5, tmm6",
            "tdpbf16ps tmm3, tmm5, tmm7",
            "add {w0}, 1024",
            "add {w1}, 1024",
            "add {x0}, 1024",
            "add {x1}, 1024",
            "dec {steps}",
            "jnz 2b",
            "tilestored [{sums} + {stride}], tmm0",
            "tilestored [{sums} + {stride} + 1024], tmm1",
            "tilestored [{sums} + {stride} + 2048], tmm2",
            "tilestored [{sums} + {stride} + 3072], tmm3",
            put = in(reg) u32::from(put),
            stride = in(reg) 64_usize,
            sums = in(reg) sums.as_mut_ptr(),
            w0 = inout(reg) w[0].as_ptr() => _,
            w1 = inout(reg) w[1].as_ptr() => _,
            x0 = inout(reg) x[0].as_ptr() => _,
            x1 = inout(reg) x[1].as_ptr() => _,
            steps = inout(reg) steps => _,
            out("tmm0") _, out("tmm1") _, out("tmm2") _, out("tmm3") _,
            out("tmm4") _, out("tmm5") _, out("tmm6") _, out("tmm7") _,
            options(nostack)
        );
    }
}

/// Writes the sums of `n_rows` rows to the first of `rows` numbers of each token in y.
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c"
)]
fn store(sums: &[Sums], y: &mut [f32], rows: usize, cols: usize, n_rows: usize) {
    for (i, sums) in sums.iter().enumerate() {
        for v in 0..n_rows.div_ceil(TILE_ROWS) {
            let lanes = TILE_ROWS.min(n_rows - v * TILE_ROWS);
            for (half, tile) in sums[v].iter().enumerate() {
                let first = (2 * i + half) * TILE;
                let mut rows_of_tile = [_mm512_setzero_si512(); TILE_ROWS];
                for (to, row) in rows_of_tile.iter_mut().zip(tile) {
                    *to = load(row);
                }
                for (column, c) in transpose(rows_of_tile).into_iter().zip(first..cols) {
                    let y = &mut y[c * rows + v * TILE_ROWS..][..lanes];
                    // SAFETY: the mask lets the store write the elements of `y` alone.
                    unsafe {
                        let mask = (0xffff_u32 >> (TILE_ROWS - lanes)) as u16;
                        _mm512_mask_storeu_ps(y.as_mut_ptr(), mask, _mm512_castsi512_ps(column));
                    }
                }
            }
        }
    }
}
