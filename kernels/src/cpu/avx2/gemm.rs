//! Quantized weights times the activations of many tokens.
//!
//! 1. Eight rows of weights become a panel, slab by slab of 512 weights a row: codes as signed bytes about a center, four
//!    neighbours of a row in a lane, with scale, offset and sum of codes of each group of weights that share a scale.
//!    This is done once for all tokens, and codes and scales of a row are all that a format adds.
//! 2. A panel meets some tokens at a time, exactly (see `quant/packed.rs` for u, z and d):
//!
//!    ```text
//!    sum of code t  =  sum of code u  +  z (sum of codes)
//!                      vpmaddubsw        vfmadd, of whole numbers that floats hold
//!    ```
//!
//!    Sums of two products, each at most 510 times the largest code, are added up in 16 bits as far as that goes, and
//!    are widened then.
//! 3. The sum is scaled by weight and by token. What an offset adds is its product with `d (sum of t)`.
//!
//! Codes of eight bits are too large for a single sum of products: they are split, `code = 16 high + low`.

use super::dot::HalfScales;
use super::*;
use crate::quant::packed::{FLOAT_ZERO, HALF_SUM, LINES, SCALE, SUM, TILE, tile_words};
use crate::quant::q8::BLOCK;
use crate::table::PackedMat;

/// Rows of weights in a panel: the lanes of a vector.
const ROWS: usize = 8;

/// Panels that tokens meet one after the other, while these tokens lie in the L1 cache.
const PANELS: usize = 2;

/// Groups of blocks in a slab: with its tokens' part, a panel of a slab fits the L1 cache.
const GROUPS: usize = 2;

/// Blocks in a slab.
const SLAB: usize = GROUPS * GROUP;

/// A block of `ROWS` rows: lines of a number for each row. Groups of weights that share a scale are the block or, where
/// only the first of two is used, its halves.
#[derive(Clone, Copy)]
struct Block<const PARTS: usize> {
    /// (k / 4, part): four codes; with two parts, the low and the high one.
    codes: [[__m256i; PARTS]; 8],
    /// (group)
    scales: [__m256; 2],
    /// (group): the whole number that the scale is a multiple of, twice as an i16, where `scales` has but the unit.
    factors: [__m256i; 2],
    /// (group): the sum of the codes; with factors, that of all multiples of codes.
    sums: [__m256; 2],
    /// (group)
    offsets: [__m256; 2],
}

impl<const PARTS: usize> Block<PARTS> {
    #[target_feature(enable = "avx2,fma,f16c")]
    #[inline]
    fn new() -> Self {
        let (words, floats) = (_mm256_setzero_si256(), _mm256_setzero_ps());
        Block {
            codes: [[words; PARTS]; 8],
            scales: [floats; 2],
            factors: [words; 2],
            sums: [floats; 2],
            offsets: [floats; 2],
        }
    }
}

/// How many sums of two products of bytes with codes of at most `size` an i16 holds: a number that divides the lines of a
/// block.
const fn chain(size: usize) -> usize {
    let mut n = 8;
    while 2 * 255 * size * n > i16::MAX as usize {
        n /= 2;
    }
    n
}

/// See [`crate::quant::packed::pack`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(crate) fn pack(x: &[f32], k: usize, tile: &mut [u32]) {
    crate::quant::packed::pack(x, k, tile)
}

/// The product of weights of formats of [`dot::pairs`] whose codes lie about `CENTER`: at most as far as that from it.
/// `OFFSETS`: whether the weight of the center is another than 0.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn pairs<const BYTES: usize, const CENTER: i8, const OFFSETS: bool>(
    w: &[u8],
    x: PackedMat<'_>,
    y: &mut [f32],
    scales: impl Fn(&[u8]) -> (__m256, __m256),
    codes: impl Fn(&[u8], usize) -> [__m256i; 2],
) {
    let center = _mm256_set1_epi8(CENTER);
    let unpack = |rows: [&[u8]; ROWS], to: &mut [Block<1>]| {
        let mut d = [_mm256_setzero_ps(); ROWS];
        let mut m = d;
        for r in 0..ROWS {
            (d[r], m[r]) = scales(rows[r]);
            // the weight of the center
            m[r] = _mm256_fmadd_ps(d[r], _mm256_set1_ps(f32::from(CENTER)), m[r]);
        }
        let (d, m) = (transposed_ps(d), transposed_ps(m));
        for (p, to) in to.chunks_mut(2).enumerate() {
            let mut both = [[_mm256_setzero_si256(); ROWS]; 2];
            for r in 0..ROWS {
                let [first, second] = codes(rows[r], p).map(|codes| _mm256_sub_epi8(codes, center));
                both[0][r] = _mm256_permute2x128_si256::<0x20>(first, second);
                both[1][r] = _mm256_permute2x128_si256::<0x31>(first, second);
            }
            for (i, (to, codes)) in to.iter_mut().zip(both).enumerate() {
                to.codes = transposed(codes).map(|codes| [codes]);
                to.scales[0] = d[2 * p + i];
                to.sums = sums_of::<false>(&to.codes);
                to.offsets[0] = m[2 * p + i];
            }
        }
    };
    match chain(CENTER as usize) {
        8 => matmul::<BYTES, 1, 6, 8, false, false, OFFSETS>(w, x, y, unpack),
        _ => matmul::<BYTES, 1, 6, 4, false, false, OFFSETS>(w, x, y, unpack),
    }
}

/// The product of weights of formats of [`dot::halves`]. Where there are no offsets of the format's own, all there is to
/// them is the `CENTER` that its codes lie about; where there are, it is 0 and codes have two bits.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn halves<const BYTES: usize, const CENTER: i8, const OFFSETS: bool>(
    w: &[u8],
    x: PackedMat<'_>,
    y: &mut [f32],
    scales: impl Fn(&[u8]) -> HalfScales,
    codes: impl Fn(&[u8], usize) -> __m256i,
) {
    let center = _mm256_set1_epi8(CENTER);
    let unpack = |rows: [&[u8]; ROWS], to: &mut [Block<1>]| {
        let mut unit = [_mm256_setzero_ps(); ROWS];
        let mut factor = [[_mm256_setzero_si256(); ROWS]; 2]; // of the first and the last eight groups
        let mut offset = [unit; 2];
        for r in 0..ROWS {
            let of = scales(rows[r]);
            unit[r] = of.d;
            for (i, factor) in factor.iter_mut().enumerate() {
                factor[r] = eight_words(of.scales, i);
            }
            for (i, offset) in offset.iter_mut().enumerate().filter(|_| OFFSETS) {
                offset[r] = _mm256_mul_ps(of.m, eight_floats(of.offsets, i));
            }
        }
        let unit = transposed_ps(unit)[0];
        let factor = factor.map(|eight| transposed(eight));
        let offset = offset.map(|eight| transposed_ps(eight));
        for (b, to) in to.iter_mut().enumerate() {
            let mut all = [_mm256_setzero_si256(); ROWS];
            for r in 0..ROWS {
                all[r] = _mm256_sub_epi8(codes(rows[r], b), center);
            }
            to.codes = transposed(all).map(|codes| [codes]);
            let groups = 2 * (b % 4)..2 * (b % 4) + 2;
            let factors = &factor[b / 4][groups.clone()];
            to.scales[0] = unit;
            to.offsets.copy_from_slice(&offset[b / 4][groups]);
            let sums = sums_of::<true>(&to.codes);
            let [first, second] = [_mm256_cvtepi32_ps(factors[0]), _mm256_cvtepi32_ps(factors[1])];
            to.sums[0] = _mm256_fmadd_ps(sums[0], first, _mm256_mul_ps(sums[1], second));
            for (to, factor) in to.factors.iter_mut().zip(factors) {
                let low = _mm256_and_si256(*factor, _mm256_set1_epi32(0xffff));
                *to = _mm256_or_si256(low, _mm256_slli_epi32::<16>(*factor));
            }
        }
    };
    match chain(CENTER as usize) {
        2 => matmul::<BYTES, 1, 6, 2, true, true, OFFSETS>(w, x, y, unpack),
        _ => matmul::<BYTES, 1, 6, 4, true, true, OFFSETS>(w, x, y, unpack),
    }
}

/// The product of weights of formats of [`dot::wide`], whose codes have magnitudes of at most `MOST`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn wide<const BYTES: usize, const MOST: usize>(
    w: &[u8],
    x: PackedMat<'_>,
    y: &mut [f32],
    scales: impl Fn(&[u8]) -> __m256,
    codes: impl Fn(&[u8], usize) -> __m256i,
) {
    match MOST {
        0..16 => {
            let unpack = |rows: [&[u8]; ROWS], to: &mut [Block<1>]| {
                unpack_wide(rows, to, &scales, &codes, |codes| [codes]);
            };
            matmul::<BYTES, 1, 6, 4, false, false, false>(w, x, y, unpack);
        }
        16..64 => {
            let unpack = |rows: [&[u8]; ROWS], to: &mut [Block<1>]| {
                unpack_wide(rows, to, &scales, &codes, |codes| [codes]);
            };
            matmul::<BYTES, 1, 6, 1, false, false, false>(w, x, y, unpack);
        }
        _ => {
            let unpack = |rows: [&[u8]; ROWS], to: &mut [Block<2>]| {
                unpack_wide(rows, to, &scales, &codes, |codes| low_and_high(codes));
            };
            matmul::<BYTES, 2, 4, 8, false, false, false>(w, x, y, unpack);
        }
    }
}

/// Makes a group's blocks; `parts` makes the parts of codes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn unpack_wide<const PARTS: usize>(
    rows: [&[u8]; ROWS],
    to: &mut [Block<PARTS>],
    scales: &impl Fn(&[u8]) -> __m256,
    codes: &impl Fn(&[u8], usize) -> __m256i,
    parts: impl Fn(__m256i) -> [__m256i; PARTS],
) {
    let mut d = [_mm256_setzero_ps(); ROWS];
    for r in 0..ROWS {
        d[r] = scales(rows[r]);
    }
    let d = transposed_ps(d);
    for (b, to) in to.iter_mut().enumerate() {
        let mut all = [_mm256_setzero_si256(); ROWS];
        for r in 0..ROWS {
            all[r] = codes(rows[r], b);
        }
        let all = transposed(all);
        to.scales[0] = d[b];
        to.sums = sums_of::<false>(&all.map(|codes| [codes]));
        to.codes = all.map(&parts);
    }
}

/// The product of weights of formats of [`dot::wide_halves`], whose codes have magnitudes of at most `MOST`, less than 64.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn wide_halves<const BYTES: usize, const MOST: usize>(
    w: &[u8],
    x: PackedMat<'_>,
    y: &mut [f32],
    scales: impl Fn(&[u8]) -> [__m256; 2],
    codes: impl Fn(&[u8], usize) -> __m256i,
) {
    let unpack = |rows: [&[u8]; ROWS], to: &mut [Block<1>]| {
        let mut d = [[_mm256_setzero_ps(); ROWS]; 2]; // of the first and the last eight groups
        for r in 0..ROWS {
            [d[0][r], d[1][r]] = scales(rows[r]);
        }
        let d = d.map(|eight| transposed_ps(eight));
        for (b, to) in to.iter_mut().enumerate() {
            let mut all = [_mm256_setzero_si256(); ROWS];
            for r in 0..ROWS {
                all[r] = codes(rows[r], b);
            }
            to.codes = transposed(all).map(|codes| [codes]);
            to.scales.copy_from_slice(&d[b / 4][2 * (b % 4)..2 * (b % 4) + 2]);
            to.sums = sums_of::<true>(&to.codes);
        }
    };
    match chain(MOST) {
        1 => matmul::<BYTES, 1, 6, 1, true, false, false>(w, x, y, unpack),
        _ => matmul::<BYTES, 1, 6, 4, true, false, false>(w, x, y, unpack),
    }
}

/// Signed bytes as `16 high + low`, with low in -8..8 and high in -8..=8.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn low_and_high(codes: __m256i) -> [__m256i; 2] {
    let eight = _mm256_set1_epi8(8);
    let nibble = |codes: __m256i| {
        let unsigned = _mm256_and_si256(codes, _mm256_set1_epi8(0x0f));
        _mm256_sub_epi8(_mm256_xor_si256(unsigned, eight), eight)
    };
    let carry = _mm256_srli_epi16::<3>(_mm256_and_si256(codes, eight));
    [nibble(codes), _mm256_add_epi8(nibble(_mm256_srli_epi16::<4>(codes)), carry)]
}

/// Eight of sixteen integers.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn eight_words(all: __m128i, i: usize) -> __m256i {
    _mm256_cvtepi8_epi32(if i == 0 { all } else { _mm_unpackhi_epi64(all, all) })
}

/// The same as floats.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn eight_floats(all: __m128i, i: usize) -> __m256 {
    _mm256_cvtepi32_ps(eight_words(all, i))
}

/// The sums of the codes of each group of a block.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn sums_of<const HALVES: bool>(codes: &[[__m256i; 1]; 8]) -> [__m256; 2] {
    let mut sums = [_mm256_setzero_si256(); 2];
    for (i, [codes]) in codes.iter().enumerate() {
        let sum = &mut sums[if HALVES { i / 4 } else { 0 }];
        *sum = _mm256_add_epi16(*sum, _mm256_maddubs_epi16(_mm256_set1_epi8(1), *codes));
    }
    sums.map(|sums| _mm256_cvtepi32_ps(_mm256_madd_epi16(sums, _mm256_set1_epi16(1))))
}

/// All rows of weights times all tokens (see `table::MatMul`); `unpack` makes a group's blocks of `ROWS` rows.
///
/// `BYTES`: of a group of blocks. `PARTS`: of a code. `TOKENS`: that meet a panel at a time, as many as there are registers
/// for. `CHAIN`: sums of two products that an i16 holds. `HALVES`: half blocks have scales and offsets of their own.
/// `FACTORS`: their scales are multiples of a unit. `OFFSETS`: there are offsets.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn matmul<
    const BYTES: usize,
    const PARTS: usize,
    const TOKENS: usize,
    const CHAIN: usize,
    const HALVES: bool,
    const FACTORS: bool,
    const OFFSETS: bool,
>(
    w: &[u8],
    x: PackedMat<'_>,
    y: &mut [f32],
    unpack: impl Fn([&[u8]; ROWS], &mut [Block<PARTS>]),
) {
    let rows = y.len() / x.cols;
    let row_bytes = w.len() / rows;
    let blocks = x.row_len / BLOCK;
    let mut panels = [[Block::new(); SLAB]; PANELS];
    for slab in (0..blocks).step_by(SLAB) {
        let slab = slab..blocks.min(slab + SLAB);
        for first in (0..rows).step_by(PANELS * ROWS) {
            for (row, panel) in (first..rows).step_by(ROWS).zip(&mut panels) {
                for (g, to) in panel[..slab.len()].chunks_mut(GROUP).enumerate() {
                    let start = (slab.start / GROUP + g) * BYTES;
                    let bytes = start..row_bytes.min(start + BYTES);
                    // rows that the last panel lacks are its first one again: nobody reads their results
                    let row_of = |r: usize| if row + r < rows { row + r } else { row };
                    unpack(std::array::from_fn(|r| &w[row_of(r) * row_bytes..][bytes.clone()]), to);
                }
            }
            for (tile, y) in x.tiles.chunks_exact(tile_words(x.row_len)).zip(y.chunks_mut(TILE * rows)) {
                let tile = &tile.as_chunks().0[slab.clone()];
                for (i, y) in y.chunks_mut(TOKENS * rows).enumerate() {
                    for (row, panel) in (first..rows).step_by(ROWS).zip(&panels) {
                        let mut acc = [_mm256_setzero_ps(); TOKENS];
                        let at = row..rows.min(row + ROWS);
                        if slab.start > 0 {
                            for (acc, y) in acc.iter_mut().zip(y.chunks_exact(rows)) {
                                *acc = load_rows(&y[at.clone()]);
                            }
                        }
                        let panel = &panel[..slab.len()];
                        add_product::<PARTS, TOKENS, CHAIN, HALVES, FACTORS, OFFSETS>(
                            &mut acc,
                            panel,
                            tile,
                            i * TOKENS,
                        );
                        for (acc, y) in acc.iter().zip(y.chunks_exact_mut(rows)) {
                            y[at.clone()].copy_from_slice(&floats(*acc)[..at.len()]);
                        }
                    }
                }
            }
        }
    }
}

/// Up to eight floats.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_rows(y: &[f32]) -> __m256 {
    let mut eight = [0.0; ROWS];
    eight[..y.len()].copy_from_slice(y);
    load_ps(&eight)
}

/// Adds the products of a panel's blocks with those of `TOKENS` tokens of a tile, from the token `first` on.
#[target_feature(enable = "avx2,fma,f16c")]
fn add_product<
    const PARTS: usize,
    const TOKENS: usize,
    const CHAIN: usize,
    const HALVES: bool,
    const FACTORS: bool,
    const OFFSETS: bool,
>(
    acc: &mut [__m256; TOKENS],
    w: &[Block<PARTS>],
    x: &[[u32; LINES * TILE]],
    first: usize,
) {
    let mut total = *acc;
    // a loop that is not unrolled keeps the sums in registers
    let chain = if CHAIN == 8 { std::hint::black_box(CHAIN) } else { CHAIN };
    for (w, x) in w.iter().zip(x) {
        // what is read of the tile, of a length that is known, so that no index needs a check
        let x = &x[first..][..(LINES - 1) * TILE + TOKENS];
        let u: &[[u32; TILE]; 8] = x.as_chunks().0.first_chunk().expect("lines of u");
        let float = |line: usize, c: usize| _mm256_set1_ps(f32::from_bits(x[line * TILE + c]));
        let mut products = [_mm256_setzero_si256(); TOKENS];
        for group in 0..if HALVES { 2 } else { 1 } {
            let lines = if HALVES { 4 * group..4 * group + 4 } else { 0..8 };
            for start in lines.step_by(CHAIN) {
                let mut sums = [[_mm256_setzero_si256(); TOKENS]; PARTS];
                let chain = start..start + chain;
                for (codes, x) in w.codes[chain.clone()].iter().zip(&u[chain]) {
                    for c in 0..TOKENS {
                        let u = _mm256_set1_epi32(x[c].cast_signed());
                        for (sums, codes) in sums.iter_mut().zip(codes) {
                            sums[c] = _mm256_add_epi16(sums[c], _mm256_maddubs_epi16(u, *codes));
                        }
                    }
                }
                for (part, sums) in sums.into_iter().enumerate() {
                    let factors = if FACTORS { w.factors[group] } else { _mm256_set1_epi16(1 << (4 * part)) };
                    for (product, sum) in products.iter_mut().zip(sums) {
                        *product = _mm256_add_epi32(*product, _mm256_madd_epi16(sum, factors));
                    }
                }
            }
            if !FACTORS || group == 1 {
                let of = if FACTORS { 0 } else { group };
                for (c, (total, product)) in total.iter_mut().zip(products).enumerate() {
                    // whole numbers, which floats hold, but for the largest
                    let product =
                        _mm256_fmadd_ps(w.sums[of], float(FLOAT_ZERO, c), _mm256_cvtepi32_ps(product));
                    let scaled = _mm256_mul_ps(product, w.scales[of]);
                    *total = _mm256_fmadd_ps(scaled, float(SCALE, c), *total);
                }
                products = [_mm256_setzero_si256(); TOKENS];
            }
            if OFFSETS {
                let sum_line = if HALVES { HALF_SUM + group } else { SUM };
                for (c, total) in total.iter_mut().enumerate() {
                    *total = _mm256_fmadd_ps(w.offsets[group], float(sum_line, c), *total);
                }
            }
        }
    }
    *acc = total;
}

/// Eight rows of eight words, as columns: of each word, those of all rows.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn transposed(rows: [__m256i; 8]) -> [__m256i; 8] {
    let mut pairs = rows;
    for i in 0..4 {
        pairs[2 * i] = _mm256_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[2 * i + 1] = _mm256_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    // words 0 and 4, 1 and 5, 2 and 6, 3 and 7, of the first four rows and of the others
    let mut fours = [[pairs[0]; 4]; 2];
    for (fours, pairs) in fours.iter_mut().zip(pairs.as_chunks::<4>().0) {
        *fours = [
            _mm256_unpacklo_epi64(pairs[0], pairs[2]),
            _mm256_unpackhi_epi64(pairs[0], pairs[2]),
            _mm256_unpacklo_epi64(pairs[1], pairs[3]),
            _mm256_unpackhi_epi64(pairs[1], pairs[3]),
        ];
    }
    let mut columns = rows;
    for i in 0..4 {
        columns[i] = _mm256_permute2x128_si256::<0x20>(fours[0][i], fours[1][i]);
        columns[i + 4] = _mm256_permute2x128_si256::<0x31>(fours[0][i], fours[1][i]);
    }
    columns
}

/// As [`transposed`].
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn transposed_ps(rows: [__m256; 8]) -> [__m256; 8] {
    transposed(rows.map(|row| _mm256_castps_si256(row))).map(|column| _mm256_castsi256_ps(column))
}
