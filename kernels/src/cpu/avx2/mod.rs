//! 256-bit vectors with `vpmaddubsw` (u8 x s8 products, two to an i16).
//!
//! A format's file takes a group of eight blocks apart, or what is left of them at the end of a row: [`dot`] and [`gemm`]
//! say into what.

pub(crate) mod codebook;
mod dot;
pub(crate) mod gemm;
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
pub(crate) mod tq1_0;
pub(crate) mod tq2_0;

use super::{GROUP, high_bits_and_nibbles, k_scales};
use crate::quant::Type;
use crate::table::{MatMulFn, MatMulPacked};
use std::arch::x86_64::*;

/// The formats that this level has a kernel for.
pub(crate) const MATMUL: &[(Type, MatMulFn)] = &[
    (Type::Q4_0, MatMulFn::Q8(q4_0::matmul)),
    (Type::Q4_1, MatMulFn::Q8(q4_1::matmul)),
    (Type::Q5_0, MatMulFn::Q8(q5_0::matmul)),
    (Type::Q5_1, MatMulFn::Q8(q5_1::matmul)),
    (Type::Q8_0, MatMulFn::Q8(q8_0::matmul)),
    (Type::Q2_K, MatMulFn::Q8(q2_k::matmul)),
    (Type::Q3_K, MatMulFn::Q8(q3_k::matmul)),
    (Type::Q4_K, MatMulFn::Q8(q4_k::matmul)),
    (Type::Q5_K, MatMulFn::Q8(q5_k::matmul)),
    (Type::Q6_K, MatMulFn::Q8(q6_k::matmul)),
    (Type::IQ4_NL, MatMulFn::Q8(iq4_nl::matmul)),
    (Type::IQ4_XS, MatMulFn::Q8(iq4_xs::matmul)),
    (Type::MXFP4, MatMulFn::Q8(mxfp4::matmul)),
    (Type::IQ2_XXS, MatMulFn::Q8(iq2_xxs::matmul)),
    (Type::IQ2_XS, MatMulFn::Q8(iq2_xs::matmul)),
    (Type::IQ2_S, MatMulFn::Q8(iq2_s::matmul)),
    (Type::IQ3_XXS, MatMulFn::Q8(iq3_xxs::matmul)),
    (Type::IQ3_S, MatMulFn::Q8(iq3_s::matmul)),
    (Type::IQ1_S, MatMulFn::Q8(iq1_s::matmul)),
    (Type::IQ1_M, MatMulFn::Q8(iq1_m::matmul)),
    (Type::TQ1_0, MatMulFn::Q8(tq1_0::matmul)),
    (Type::TQ2_0, MatMulFn::Q8(tq2_0::matmul)),
    (Type::NVFP4, MatMulFn::Q8(nvfp4::matmul)),
];

/// Products of many tokens, of all block formats.
pub(crate) const MATMUL_PACKED: &[(Type, MatMulPacked)] = &[
    (Type::Q4_0, q4_0::matmul_packed),
    (Type::Q4_1, q4_1::matmul_packed),
    (Type::Q5_0, q5_0::matmul_packed),
    (Type::Q5_1, q5_1::matmul_packed),
    (Type::Q8_0, q8_0::matmul_packed),
    (Type::Q2_K, q2_k::matmul_packed),
    (Type::Q3_K, q3_k::matmul_packed),
    (Type::Q4_K, q4_k::matmul_packed),
    (Type::Q5_K, q5_k::matmul_packed),
    (Type::Q6_K, q6_k::matmul_packed),
    (Type::IQ4_NL, iq4_nl::matmul_packed),
    (Type::IQ4_XS, iq4_xs::matmul_packed),
    (Type::MXFP4, mxfp4::matmul_packed),
    (Type::IQ2_XXS, iq2_xxs::matmul_packed),
    (Type::IQ2_XS, iq2_xs::matmul_packed),
    (Type::IQ2_S, iq2_s::matmul_packed),
    (Type::IQ3_XXS, iq3_xxs::matmul_packed),
    (Type::IQ3_S, iq3_s::matmul_packed),
    (Type::IQ1_S, iq1_s::matmul_packed),
    (Type::IQ1_M, iq1_m::matmul_packed),
    (Type::TQ1_0, tq1_0::matmul_packed),
    (Type::TQ2_0, tq2_0::matmul_packed),
    (Type::NVFP4, nvfp4::matmul_packed),
];

// Loads: the only unsafe code of the kernels in this folder.

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_256(a: &[u8; 32]) -> __m256i {
    // SAFETY: reads the 32 bytes of `a`; the load needs no alignment.
    unsafe { _mm256_loadu_si256(a.as_ptr().cast()) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_128(a: &[u8; 16]) -> __m128i {
    // SAFETY: reads the 16 bytes of `a`; the load needs no alignment.
    unsafe { _mm_loadu_si128(a.as_ptr().cast()) }
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_ps(a: &[f32; 8]) -> __m256 {
    // SAFETY: reads the eight floats of `a`; the load needs no alignment.
    unsafe { _mm256_loadu_ps(a.as_ptr()) }
}

/// The floats of a vector, to be broadcast one by one.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn floats(v: __m256) -> [f32; 8] {
    let mut a = [0.0; 8];
    // SAFETY: writes the eight floats of `a`; the store needs no alignment.
    unsafe { _mm256_storeu_ps(a.as_mut_ptr(), v) };
    a
}

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_i8(a: &[i8; 32]) -> __m256i {
    load_256(bytemuck::cast_ref(a))
}

/// Sixteen bytes, twice.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_twice(a: &[u8; 16]) -> __m256i {
    _mm256_broadcastsi128_si256(load_128(a))
}

/// Two times sixteen bytes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn load_both(a: &[u8; 16], b: &[u8; 16]) -> __m256i {
    _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(load_128(a)), load_128(b))
}

/// The f16 at byte `at` of each of up to eight blocks, as floats; 0 for those that are missing.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn f16_of<const BYTES: usize>(b: &[[u8; BYTES]], at: usize) -> __m256 {
    let h: [i16; GROUP] =
        std::array::from_fn(|i| b.get(i).map_or(0, |b| i16::from_le_bytes([b[at], b[at + 1]])));
    _mm256_cvtph_ps(_mm_set_epi16(h[7], h[6], h[5], h[4], h[3], h[2], h[1], h[0]))
}

/// An f16, as the float that fills a vector.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn unit(h: [u8; 2]) -> __m256 {
    _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(u16::from_le_bytes(h)))))
}

/// Scales and offsets of a Q4_K or Q5_K superblock's blocks.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn k_scales_and_offsets(d: [u8; 2], dmin: [u8; 2], packed: &[u8; 12]) -> (__m256, __m256) {
    let (scales, mins) = k_scales(packed);
    let floats = |bytes: [u8; 8]| {
        _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(i64::from_le_bytes(bytes))))
    };
    let minus_dmin = _mm256_sub_ps(_mm256_setzero_ps(), unit(dmin));
    (_mm256_mul_ps(unit(d), floats(scales)), _mm256_mul_ps(minus_dmin, floats(mins)))
}

/// Block `i` of up to eight; for one that is missing, which has activations of zero, another one.
#[inline(always)]
fn block_or_last<const BYTES: usize>(b: &[[u8; BYTES]], i: usize) -> &[u8; BYTES] {
    &b[i.min(b.len() - 1)]
}

/// Sixteen bytes of nibbles as 32 codes: low nibbles, then high ones.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn nibbles(a: &[u8; 16]) -> __m256i {
    let shifted = _mm256_srlv_epi64(load_twice(a), _mm256_setr_epi64x(0, 0, 4, 4));
    _mm256_and_si256(shifted, _mm256_set1_epi8(0x0f))
}

/// The codes of two blocks of sixteen bytes of nibbles, each as [`nibbles`]: first halves, second halves.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn pair_nibbles(a: &[u8; 16], b: &[u8; 16]) -> [__m256i; 2] {
    let both = load_both(a, b);
    let mask = _mm256_set1_epi8(0x0f);
    [_mm256_and_si256(both, mask), _mm256_and_si256(_mm256_srli_epi16::<4>(both), mask)]
}

/// The codes of two blocks: first halves, second halves.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn pair(a: __m256i, b: __m256i) -> [__m256i; 2] {
    [_mm256_permute2x128_si256::<0x20>(a, b), _mm256_permute2x128_si256::<0x31>(a, b)]
}

/// The nibbles of pair `p` of a Q4_K or Q5_K superblock, first halves and second halves: of 32 bytes, the low nibbles are
/// one block and the high ones the next.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn k_nibbles(a: &[u8; 128], p: usize) -> [__m256i; 2] {
    let half = |i: usize| nibbles(&a.as_chunks().0[2 * p + i]);
    [half(0), half(1)]
}

/// The 5-bit codes of two Q5_0 or Q5_1 blocks, first halves and second halves: of each, four bytes of high bits, then
/// sixteen of low nibbles.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn pair_five_bits(a: &[u8; 20], b: &[u8; 20]) -> [__m256i; 2] {
    let ((high_a, low_a), (high_b, low_b)) = (high_bits_and_nibbles(a), high_bits_and_nibbles(b));
    let lane = |high: u32| _mm_set1_epi32(high.cast_signed());
    let high = _mm256_set_m128i(lane(high_b), lane(high_a));
    // the byte that holds the bit, then the bit
    let spread = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1));
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let five = |low: __m256i, byte: i8| {
        let high = _mm256_shuffle_epi8(high, _mm256_add_epi8(spread, _mm256_set1_epi8(byte)));
        let is_set = _mm256_cmpeq_epi8(_mm256_and_si256(high, bit), bit);
        _mm256_or_si256(low, _mm256_and_si256(is_set, _mm256_set1_epi8(0x10)))
    };
    let [first, second] = pair_nibbles(low_a, low_b);
    [five(first, 0), five(second, 2)]
}

/// Bit `b` of 32 bytes, as bit `to` of 32 bytes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn bits(a: &[u8; 32], b: usize, to: usize) -> __m256i {
    let a = load_256(a);
    let moved = if b < to {
        _mm256_sll_epi16(a, _mm_cvtsi32_si128((to - b) as i32))
    } else {
        _mm256_srl_epi16(a, _mm_cvtsi32_si128((b - to) as i32))
    };
    _mm256_and_si256(moved, _mm256_set1_epi8(1 << to))
}

/// The 2-bit fields of block `b` of a superblock: each 32 bytes hold four blocks.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn two_bits(a: &[u8; 64], b: usize) -> __m256i {
    let fields = _mm256_srl_epi16(load_256(&a.as_chunks().0[b / 4]), _mm_cvtsi32_si128(2 * (b % 4) as i32));
    _mm256_and_si256(fields, _mm256_set1_epi8(0x03))
}

/// The table's values, plus `offset`, of 32 codes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn look_up(table: &[i8; 16], offset: i8, codes: __m256i) -> __m256i {
    let table = _mm_add_epi8(load_128(bytemuck::cast_ref(table)), _mm_set1_epi8(offset));
    _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(table), codes)
}

/// Defines `matmul` and `matmul_packed` (see `table::MatMul`) of a format of kind `$kind` (see [`dot`]) by the enclosing
/// module's `scales` and `codes`; `$bytes`: of eight blocks, `$packed`: what else [`gemm`] wants to know of the kind.
macro_rules! kernels {
    ($kind:ident, $bytes:expr, [$($packed:expr),*]) => {
        /// Weights times a few columns of activations.
        #[target_feature(enable = "avx2,fma,f16c")]
        pub(crate) fn matmul(w: &[u8], x: crate::quant::q8::Q8Mat<'_>, y: &mut [f32]) {
            dot::$kind::<{ $bytes }>(w, x, y, |w| scales(w), |w, i| codes(w, i));
        }

        /// Weights times the activations of many tokens.
        #[target_feature(enable = "avx2,fma,f16c")]
        pub(crate) fn matmul_packed(w: &[u8], x: crate::table::PackedMat<'_>, y: &mut [f32]) {
            gemm::$kind::<{ $bytes }, $({ $packed }),*>(w, x, y, |w| scales(w), |w, i| codes(w, i));
        }
    };
}
use kernels;
