//! 512-bit vectors with `vpdpbusd` (u8 x s8 products, four to an i32).

pub(crate) mod attention;
mod codebook;
mod dot;
pub(crate) mod gemm;
mod gemm_step;
pub(crate) mod iq1_m;
pub(crate) mod iq1_s;
pub(crate) mod iq2_s;
pub(crate) mod iq2_xs;
pub(crate) mod iq2_xxs;
pub(crate) mod iq3_s;
pub(crate) mod iq3_xxs;
pub(crate) mod iq4_nl;
pub(crate) mod iq4_xs;
pub(crate) mod mxfp4;
pub(crate) mod nvfp4;
pub(crate) mod ops;
pub(crate) mod peak;
pub(crate) mod q2_k;
pub(crate) mod q3_k;
pub(crate) mod q4_0;
pub(crate) mod q4_1;
pub(crate) mod q4_k;
pub(crate) mod q5_0;
pub(crate) mod q5_1;
pub(crate) mod q5_k;
pub(crate) mod q6_k;
pub(crate) mod q8_0;
pub(crate) mod quantize;
pub(crate) mod tq1_0;
pub(crate) mod tq2_0;

use super::avx2::{k_scales_and_offsets, unit};
use super::{GROUP, high_bits_and_nibbles, k_scales, prefetch_after};
use crate::quant::Type;
use crate::table::PackedMat;
use crate::table::{MatMulFn, MatMulPacked};
use dot::{dot_of_blocks, dot_of_halves, dot_of_superblocks};
use std::arch::x86_64::*;

/// A table with a row for each format that has kernels here, which the level above takes over; `$row` makes a row of a
/// type and a module; and rows of others.
macro_rules! table_of_formats {
    ($row:ident $(, $more:expr)*) => {
        &[
            $row!(Q4_0, q4_0),
            $row!(Q4_1, q4_1),
            $row!(Q5_0, q5_0),
            $row!(Q5_1, q5_1),
            $row!(Q8_0, q8_0),
            $row!(Q2_K, q2_k),
            $row!(Q3_K, q3_k),
            $row!(Q4_K, q4_k),
            $row!(Q5_K, q5_k),
            $row!(Q6_K, q6_k),
            $row!(IQ4_NL, iq4_nl),
            $row!(IQ4_XS, iq4_xs),
            $row!(MXFP4, mxfp4),
            $row!(IQ2_XXS, iq2_xxs),
            $row!(IQ2_XS, iq2_xs),
            $row!(IQ2_S, iq2_s),
            $row!(IQ3_XXS, iq3_xxs),
            $row!(IQ3_S, iq3_s),
            $row!(IQ1_S, iq1_s),
            $row!(IQ1_M, iq1_m),
            $row!(TQ1_0, tq1_0),
            $row!(TQ2_0, tq2_0),
            $row!(NVFP4, nvfp4),
            $($more,)*
        ]
    };
}
pub(super) use table_of_formats;

/// A row of the table of products of few tokens.
macro_rules! few {
    ($type:ident, $format:ident) => {
        (Type::$type, MatMulFn::Q8($format::matmul))
    };
}

/// Products of few tokens.
pub(crate) const MATMUL: &[(Type, MatMulFn)] = table_of_formats!(few);

/// A row of the table of products of many tokens.
macro_rules! packed {
    ($type:ident, $format:ident) => {
        (Type::$type, {
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
            fn matmul(w: &[u8], x: PackedMat<'_>, y: &mut [f32]) {
                gemm::matmul(&$format::FORMAT, w, x, y)
            }
            matmul
        })
    };
}

/// Products of many tokens.
pub(crate) const MATMUL_PACKED: &[(Type, MatMulPacked)] = table_of_formats!(packed);

// Loads and stores.

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn load_512(a: &[i8; 64]) -> __m512i {
    // SAFETY: reads the 64 bytes of `a`; the load needs no alignment.
    unsafe { _mm512_loadu_si512(a.as_ptr().cast()) }
}

/// Bytes `from..from + 64`; zeros beyond the end.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn load_some(a: &[u8], from: usize) -> __m512i {
    let mask =
        u64::MAX.checked_shr(64u32.saturating_sub(a.len().saturating_sub(from).min(64) as u32)).unwrap_or(0);
    // SAFETY: reads those of the 64 bytes that are in `a`; others are neither read nor cause a fault.
    unsafe { _mm512_maskz_loadu_epi8(mask, a.as_ptr().wrapping_add(from).cast()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn load_256(a: &[u8; 32]) -> __m256i {
    // SAFETY: reads the 32 bytes of `a`; the load needs no alignment.
    unsafe { _mm256_loadu_si256(a.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn load_128(a: &[u8; 16]) -> __m128i {
    // SAFETY: reads the 16 bytes of `a`; the load needs no alignment.
    unsafe { _mm_loadu_si128(a.as_ptr().cast()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn load_ps(a: &[f32; 8]) -> __m256 {
    // SAFETY: reads the eight floats of `a`; the load needs no alignment.
    unsafe { _mm256_loadu_ps(a.as_ptr()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn store_ps(x: __m256, to: &mut [f32; 8]) {
    // SAFETY: writes the eight floats of `to`; the store needs no alignment.
    unsafe { _mm256_storeu_ps(to.as_mut_ptr(), x) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(crate) fn load_floats(a: &[f32; 16]) -> __m512 {
    // SAFETY: reads the sixteen floats of `a`; the load needs no alignment.
    unsafe { _mm512_loadu_ps(a.as_ptr()) }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn store_floats(x: __m512, to: &mut [f32; 16]) {
    // SAFETY: writes the sixteen floats of `to`; the store needs no alignment.
    unsafe { _mm512_storeu_ps(to.as_mut_ptr(), x) }
}

/// Turns sixteen rows of sixteen words into sixteen columns.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(crate) fn transpose(rows: [__m512i; 16]) -> [__m512i; 16] {
    // 2 x 2 words, then 2 x 2 pairs of words: after that each 128-bit lane holds a column of four rows
    let mut a = [_mm512_setzero_si512(); 16];
    for i in 0..16 / 2 {
        a[2 * i] = _mm512_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        a[2 * i + 1] = _mm512_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    let mut b = a;
    for i in 0..16 / 4 {
        for j in 0..2 {
            b[4 * i + 2 * j] = _mm512_unpacklo_epi64(a[4 * i + j], a[4 * i + 2 + j]);
            b[4 * i + 2 * j + 1] = _mm512_unpackhi_epi64(a[4 * i + j], a[4 * i + 2 + j]);
        }
    }
    // now the lanes: b[4 i + j] has column j + 4 l of rows 4 i to 4 i + 3 in its lane l
    let mut columns = b;
    for j in 0..4 {
        let low = _mm512_shuffle_i32x4::<0b10_00_10_00>(b[j], b[4 + j]);
        let high = _mm512_shuffle_i32x4::<0b11_01_11_01>(b[j], b[4 + j]);
        let low_2 = _mm512_shuffle_i32x4::<0b10_00_10_00>(b[8 + j], b[12 + j]);
        let high_2 = _mm512_shuffle_i32x4::<0b11_01_11_01>(b[8 + j], b[12 + j]);
        columns[j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(low, low_2);
        columns[8 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(low, low_2);
        columns[4 + j] = _mm512_shuffle_i32x4::<0b10_00_10_00>(high, high_2);
        columns[12 + j] = _mm512_shuffle_i32x4::<0b11_01_11_01>(high, high_2);
    }
    columns
}

/// The f16 at byte `at` of each of up to eight blocks, as floats; 0 for those that are missing.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn scales<const BYTES: usize>(b: &[[u8; BYTES]], at: usize) -> __m256 {
    let h: [i16; GROUP] =
        std::array::from_fn(|i| b.get(i).map_or(0, |b| i16::from_le_bytes([b[at], b[at + 1]])));
    _mm256_cvtph_ps(_mm_set_epi16(h[7], h[6], h[5], h[4], h[3], h[2], h[1], h[0]))
}

/// The f16 at byte `at` of each of up to eight blocks of two rows, as floats; 0 for those that are missing.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn scales_of_two<const BYTES: usize>(w: [&[[u8; BYTES]]; 2], at: usize) -> __m512 {
    let halves = if 3 * BYTES + at + 2 <= 64 {
        // two loads hold those of four blocks each
        let n = (BYTES / 2) as i16;
        let i = (at / 2) as i16;
        let second = (4 * BYTES + at).min(GROUP * BYTES - 64);
        let j = 32 + ((4 * BYTES + at - second) / 2) as i16;
        let index = _mm_setr_epi16(i, i + n, i + 2 * n, i + 3 * n, j, j + n, j + 2 * n, j + 3 * n);
        let index = _mm512_castsi128_si512(index);
        let eight = |w: &[[u8; BYTES]]| {
            let bytes = w.as_flattened();
            let all = _mm512_permutex2var_epi16(load_some(bytes, 0), index, load_some(bytes, second));
            _mm512_castsi512_si128(all)
        };
        _mm256_set_m128i(eight(w[1]), eight(w[0]))
    } else {
        // put together as integers: inserting them into a vector one by one takes twice as long
        let mut fours = [[0; 2]; 2];
        for r in 0..2 {
            for i in 0..GROUP.min(w[r].len()) {
                let half = u16::from_le_bytes([w[r][i][at], w[r][i][at + 1]]);
                fours[r][i / 4] |= i64::from(half) << (16 * (i % 4));
            }
        }
        _mm256_set_epi64x(fours[1][1], fours[1][0], fours[0][1], fours[0][0])
    };
    _mm512_cvtph_ps(halves)
}

/// Eight floats of each of two rows.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn two([low, high]: [__m256; 2]) -> __m512 {
    _mm512_insertf32x8::<1>(_mm512_castps256_ps512(low), high)
}

/// Scales and offsets of the blocks of two superblocks of Q4_K or Q5_K, given their d and dmin and their packed scales.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn k_scales_of_two(w: [([u8; 4], &[u8; 12]); 2]) -> (__m512, __m512) {
    let packed = w.map(|(_, packed)| k_scales(packed));
    let floats = |bytes: [[u8; 8]; 2]| {
        let [low, high] = bytes.map(i64::from_le_bytes);
        _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_set_epi64x(high, low)))
    };
    let [low, high] = w.map(|(units, _)| u64::from(u32::from_le_bytes(units)));
    // d, dmin of the first, of the second
    let units = _mm512_castps128_ps512(_mm_cvtph_ps(_mm_cvtsi64_si128((low | high << 32) as i64)));
    let unit = |i: i32| {
        let j = i + 2;
        let index = _mm512_setr_epi32(i, i, i, i, i, i, i, i, j, j, j, j, j, j, j, j);
        _mm512_permutexvar_ps(index, units)
    };
    let minus = _mm512_sub_ps(_mm512_setzero_ps(), unit(1));
    (
        _mm512_mul_ps(unit(0), floats(packed.map(|(scales, _)| scales))),
        _mm512_mul_ps(minus, floats(packed.map(|(_, mins)| mins))),
    )
}

/// Vector `v`, in the order [`dot::split`], of the nibbles of blocks of sixteen bytes: the low ones are a block's first
/// half, the high ones its second.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn split_nibbles<'a>(block: impl Fn(usize) -> &'a [u8; 16], v: usize) -> __m512i {
    let odd = v / 2;
    let part = |i: usize| load_128(block(2 * i + odd));
    let two = |i: usize| _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(part(i)), part(i + 1));
    let all = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(two(0)), two(2));
    let moved = if v.is_multiple_of(2) { all } else { _mm512_srli_epi16::<4>(all) };
    _mm512_and_si512(moved, _mm512_set1_epi8(0x0f))
}

/// The same where blocks of `BYTES` bytes, a multiple of two, end with them; zeros where blocks are missing.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn split_nibbles_of_blocks<const BYTES: usize>(w: &[[u8; BYTES]], v: usize) -> __m512i {
    // Two loads hold four blocks each, and what four of the eight need lies at multiples of four bytes in them.
    let odd = v / 2;
    let start = |i: usize| (2 * i + odd) * BYTES + BYTES - 16;
    let loads = [start(0), start(2).min(GROUP * BYTES - 64)];
    let bytes = w.as_flattened();
    let [low, high] = [load_some(bytes, loads[0]), load_some(bytes, loads[1])];
    let at = |part: usize| ((start(part) - loads[part / 2]) / 4 + 16 * (part / 2)) as i32;
    let (i, j, k, l) = (at(0), at(1), at(2), at(3));
    let index = _mm512_setr_epi32(
        i,
        i + 1,
        i + 2,
        i + 3,
        j,
        j + 1,
        j + 2,
        j + 3,
        k,
        k + 1,
        k + 2,
        k + 3,
        l,
        l + 1,
        l + 2,
        l + 3,
    );
    let all = _mm512_permutex2var_epi32(low, index, high);
    let moved = if v.is_multiple_of(2) { all } else { _mm512_srli_epi16::<4>(all) };
    _mm512_and_si512(moved, _mm512_set1_epi8(0x0f))
}

/// Vector `v`, in the order [`dot::split`], of the nibbles of a Q4_K or Q5_K superblock: of 32 bytes, the low nibbles
/// are an even block, the high ones the next.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn split_k_nibbles(a: &[u8; 128], v: usize) -> __m512i {
    let [low, high] = a.as_chunks::<64>().0 else { unreachable!("128 bytes") };
    let (low, high) = (load_512(bytemuck::cast_ref(low)), load_512(bytemuck::cast_ref(high)));
    let all = match v % 2 {
        0 => _mm512_shuffle_i64x2::<0b10_00_10_00>(low, high),
        _ => _mm512_shuffle_i64x2::<0b11_01_11_01>(low, high),
    };
    let moved = if v < 2 { all } else { _mm512_srli_epi16::<4>(all) };
    _mm512_and_si512(moved, _mm512_set1_epi8(0x0f))
}

/// `bits` where `mask` has a one, `rest` elsewhere.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn select(mask: __m512i, bits: __m512i, rest: __m512i) -> __m512i {
    _mm512_ternarylogic_epi64::<0xca>(mask, bits, rest)
}

/// The last bytes of block `i` of up to eight, which hold its codes. A pair without a second block takes the first
/// again: its scale is 0.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn codes<const BYTES: usize, const N: usize>(b: &[[u8; BYTES]], i: usize) -> &[u8; N] {
    b[i.min(b.len() - 1)].last_chunk().expect("codes are no longer than their block")
}

/// Two blocks of sixteen bytes of nibbles as 64 bytes: low nibbles, then high ones, of the first, then of the second.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn nibbles(a: &[u8; 16], b: &[u8; 16]) -> __m512i {
    let both = _mm512_castsi256_si512(_mm256_inserti128_si256::<1>(
        _mm256_castsi128_si256(load_128(a)),
        load_128(b),
    ));
    let twice = _mm512_shuffle_i64x2::<0b01_01_00_00>(both, both);
    let shifted = _mm512_srlv_epi64(twice, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4));
    _mm512_and_si512(shifted, _mm512_set1_epi8(0x0f))
}

/// The nibbles of pair `p` of a Q4_K or Q5_K superblock: of 32 bytes, the low nibbles are one block, the high ones the
/// next.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn k_nibbles(a: &[u8; 128], p: usize) -> __m512i {
    let twice = _mm512_broadcast_i64x4(load_256(&a.as_chunks().0[p]));
    let shifted = _mm512_srlv_epi64(twice, _mm512_setr_epi64(0, 0, 0, 0, 4, 4, 4, 4));
    _mm512_and_si512(shifted, _mm512_set1_epi8(0x0f))
}

/// The 5-bit codes of two Q5_0 or Q5_1 blocks: of each, four bytes of high bits, then sixteen of low nibbles.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn five_bits(a: &[u8; 20], b: &[u8; 20]) -> __m512i {
    let (high_a, low_a) = high_bits_and_nibbles(a);
    let (high_b, low_b) = high_bits_and_nibbles(b);
    let high = u64::from(high_a) | u64::from(high_b) << 32;
    let low = nibbles(low_a, low_b);
    _mm512_mask_add_epi8(low, high, low, _mm512_set1_epi8(0x10))
}

/// Bits `2 p` and `2 p + 1` of 32 bytes, as bit `to` of 64 bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn bits(a: &[u8; 32], p: usize, to: usize) -> __m512i {
    let twice = _mm512_broadcast_i64x4(load_256(a));
    let (i, j) = (2 * p as i64 - to as i64, 2 * p as i64 + 1 - to as i64);
    let moved = _mm512_rorv_epi64(twice, _mm512_setr_epi64(i, i, i, i, j, j, j, j));
    _mm512_and_si512(moved, _mm512_set1_epi8(1 << to))
}

/// The 2-bit fields of pair `p` of a superblock: each 32 bytes hold four blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn two_bits(a: &[u8; 64], p: usize) -> __m512i {
    let twice = _mm512_broadcast_i64x4(load_256(&a.as_chunks().0[p / 2]));
    let (i, j) = (4 * (p % 2) as i64, 4 * (p % 2) as i64 + 2);
    let fields = _mm512_srlv_epi64(twice, _mm512_setr_epi64(i, i, i, i, j, j, j, j));
    _mm512_and_si512(fields, _mm512_set1_epi8(0x03))
}

/// The table's values, plus `offset`, of 64 codes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn look_up(table: &[i8; 16], offset: i8, codes: __m512i) -> __m512i {
    let table = _mm_add_epi8(load_128(bytemuck::cast_ref(table)), _mm_set1_epi8(offset));
    _mm512_shuffle_epi8(_mm512_broadcast_i32x4(table), codes)
}

/// What makes weights of the bytes of eight blocks: d byte + m. Each has a scale and an offset.
struct Blocks {
    d: __m256,
    m: __m256,
}

impl Blocks {
    /// Symmetric blocks, whose bytes are `shift` more than their codes.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    fn shifted(d: __m256, shift: u8) -> Self {
        Blocks { d, m: _mm256_mul_ps(d, _mm256_set1_ps(-f32::from(shift))) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    fn store(self, to: &mut Scales) {
        store_ps(self.d, to.scales.first_chunk_mut().expect("eight of sixteen"));
        store_ps(self.m, to.offsets.first_chunk_mut().expect("eight of sixteen"));
    }
}

/// What makes weights of the bytes of eight blocks: d scale byte + m min. Each half block has a scale and a minimum.
struct Halves {
    d: __m256,
    scales: __m128i,
    m: __m256,
    mins: __m128i,
}

impl Halves {
    /// Symmetric blocks, whose bytes are `shift` more than their codes.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    fn shifted(d: __m256, scales: __m128i, shift: u8) -> Self {
        Halves { d, scales, m: _mm256_mul_ps(d, _mm256_set1_ps(-f32::from(shift))), mins: scales }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    fn store(self, to: &mut Scales) {
        let (scales, offsets) = self.products();
        store_floats(scales, &mut to.scales);
        store_floats(offsets, &mut to.offsets);
    }

    /// The codes of pair `p` of blocks times minus their scales.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    fn fold(&self, p: usize, codes: __m512i) -> __m512i {
        let minus = _mm256_sub_epi16(_mm256_setzero_si256(), _mm256_cvtepi8_epi16(self.scales));
        let four = |i: i64| 0x0001_0001_0001_0001 * i;
        let eight = _mm512_setr_epi64(four(0), four(0), four(1), four(1), four(2), four(2), four(3), four(3));
        let index = _mm512_add_epi16(eight, _mm512_set1_epi16(4 * p as i16));
        let factors = _mm512_permutexvar_epi16(index, _mm512_castsi256_si512(minus));
        // of two neighbours, the low bytes of both products
        let low = _mm512_set1_epi16(0x00ff);
        let odd = _mm512_mullo_epi16(_mm512_andnot_si512(low, codes), factors);
        select(low, _mm512_mullo_epi16(codes, factors), odd)
    }

    /// Scales of what [`Halves::fold`] makes, and the offsets.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    fn store_folded(self, to: &mut Scales) {
        let minus = _mm256_sub_ps(_mm256_setzero_ps(), self.d);
        store_ps(minus, to.scales.first_chunk_mut().expect("eight of sixteen"));
        let (_, offsets) = self.products();
        store_floats(offsets, &mut to.offsets);
    }

    /// d scale and m min of each half block.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
    #[inline]
    fn products(self) -> (__m512, __m512) {
        let product =
            |d, x| _mm512_mul_ps(_mm512_broadcast_f32x8(d), _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(x)));
        (product(self.d, self.scales), product(self.m, self.mins))
    }
}

/// Scales and offsets of up to 256 weights: one of each for 32 of them, or for 16.
#[derive(Default)]
#[repr(C, align(64))]
pub(crate) struct Scales {
    pub(crate) scales: [f32; 16],
    pub(crate) offsets: [f32; 16],
}

/// Up to 256 weights of a row, taken apart: weight = scale byte + offset. What the row does not have is meaningless.
#[repr(C, align(64))]
struct Unpacked {
    bytes: [[u8; 64]; 4],
    scales: Scales,
}

impl Default for Unpacked {
    fn default() -> Self {
        Unpacked { bytes: [[0; 64]; 4], scales: Scales::default() }
    }
}

/// What has a number of its own: a block of 32 weights, or each half.
#[derive(Clone, Copy)]
enum Per {
    Block,
    Half,
}

/// What the kernels for many tokens know of a format.
struct Format {
    /// Takes group `i` of 256 weights of sixteen rows apart; needs this level.
    unpack: unsafe fn(&[&[u8]; 16], usize, &mut [Unpacked; 16]),
    scales: Per,
    /// None: the format is symmetric.
    offsets: Option<Per>,
    /// What the bytes are more than the codes.
    shift: u8,
}

impl Format {
    /// A format whose offsets, where it is not `symmetric`, are as many as its scales.
    const fn new(
        unpack: unsafe fn(&[&[u8]; 16], usize, &mut [Unpacked; 16]),
        halves: bool,
        symmetric: Option<u8>,
    ) -> Self {
        assert!(!halves || symmetric.is_some(), "there is no step for offsets of halves beside their scales");
        let scales = if halves { Per::Half } else { Per::Block };
        match symmetric {
            Some(shift) => Format { unpack, scales, offsets: None, shift },
            None => Format { unpack, scales, offsets: Some(scales), shift: 0 },
        }
    }
}

/// Defines how rows of a format of blocks of `$bytes` bytes are taken apart, from the module's `parts`.
macro_rules! unpack_of_blocks {
    ($bytes:expr, $shift:expr) => {
        /// Takes group `i` of 256 weights of a row apart: `take` gets four pairs of blocks, one by one.
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        #[inline]
        pub(crate) fn each_pair(
            row: &[u8],
            i: usize,
            scales: &mut Scales,
            mut take: impl FnMut(&Scales, usize, __m512i),
        ) {
            let row = row.as_chunks::<{ $bytes }>().0;
            let (parts, pair) = parts(&row[i * GROUP..row.len().min((i + 1) * GROUP)]);
            parts.store(scales);
            for p in 0..GROUP / 2 {
                take(scales, p, pair(p));
            }
        }
        unpack_by_pairs!(false, $shift);
    };
}
use unpack_of_blocks;

/// Defines how rows of a format of superblocks are taken apart, from the module's `parts`.
macro_rules! unpack_of_superblocks {
    ($halves:literal, $shift:expr) => {
        each_pair_of_superblocks!();
        unpack_by_pairs!($halves, $shift);
    };
}
use unpack_of_superblocks;

macro_rules! each_pair_of_superblocks {
    () => {
        /// Takes group `i` of 256 weights of a row apart: `take` gets four pairs of blocks, one by one.
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        #[inline]
        pub(crate) fn each_pair(
            row: &[u8],
            i: usize,
            scales: &mut Scales,
            mut take: impl FnMut(&Scales, usize, __m512i),
        ) {
            let (parts, pair) = parts(&bytemuck::cast_slice(row)[i]);
            parts.store(scales);
            for p in 0..GROUP / 2 {
                take(scales, p, pair(p));
            }
        }
    };
}
use each_pair_of_superblocks;

/// The same of a format whose half blocks have scales, for many tokens folded into the codes (see [`Halves::fold`]): their
/// products are from -127 to 128, so that minus these are bytes.
macro_rules! unpack_of_folded_superblocks {
    ($shift:expr) => {
        each_pair_of_superblocks!();

        const SYMMETRIC: Option<u8> = $shift;

        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        fn unpack(rows: &[&[u8]; 16], i: usize, to: &mut [Unpacked; 16]) {
            let shift = _mm512_set1_epi8(SYMMETRIC.unwrap_or(0).cast_signed());
            for (row, to) in rows.iter().zip(to) {
                let (parts, pair) = parts(&bytemuck::cast_slice(row)[i]);
                for (p, to) in to.bytes.iter_mut().enumerate() {
                    store_512(parts.fold(p, _mm512_sub_epi8(pair(p), shift)), to);
                }
                parts.store_folded(&mut to.scales);
            }
        }
        /// Whether half blocks have their own scales.
        pub(crate) const HALVES: bool = true;
        pub(super) const FORMAT: Format = Format {
            unpack,
            scales: Per::Block,
            offsets: match SYMMETRIC {
                Some(_) => None,
                None => Some(Per::Half),
            },
            shift: 0,
        };
    };
}
use unpack_of_folded_superblocks;

macro_rules! unpack_by_pairs {
    ($halves:literal, $shift:expr) => {
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        fn unpack(rows: &[&[u8]; 16], i: usize, to: &mut [Unpacked; 16]) {
            for (row, Unpacked { bytes: to, scales }) in rows.iter().zip(to) {
                each_pair(row, i, scales, |_, p, bytes| store_512(bytes, &mut to[p]));
            }
        }
        /// Whether half blocks have their own scales.
        pub(crate) const HALVES: bool = $halves;
        pub(super) const FORMAT: Format = Format::new(unpack, HALVES, $shift);
    };
}
use unpack_by_pairs;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn store_512(x: __m512i, to: &mut [u8; 64]) {
    // SAFETY: writes the 64 bytes of `to`; the store needs no alignment.
    unsafe { _mm512_storeu_si512(to.as_mut_ptr().cast(), x) }
}
