//! Codes of the formats with codebooks, and scales that these formats share.

use super::*;
use crate::cpu::codebook::{Magnitudes, Shifted};

/// Block `b` of a format whose points have eight codes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn points_of_eight(point: impl Fn(usize) -> &'static [i8; 8], b: usize) -> __m256i {
    let word = |j: usize| bytemuck::cast(*point(4 * b + j));
    _mm256_setr_epi64x(word(0), word(1), word(2), word(3))
}

/// Block `b` of a format whose points have four codes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn points_of_four(point: impl Fn(usize) -> &'static [i8; 4], b: usize) -> __m256i {
    let word = |j: usize| bytemuck::cast(*point(8 * b + j));
    _mm256_setr_epi32(word(0), word(1), word(2), word(3), word(4), word(5), word(6), word(7))
}

/// The codes of block `b`, given its magnitudes.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn signed(w: &impl Magnitudes, b: usize, points: __m256i) -> __m256i {
    // of each code the byte that holds its sign, then the sign
    let byte = _mm256_setr_epi64x(0, 0x0101_0101_0101_0101, 0x0202_0202_0202_0202, 0x0303_0303_0303_0303);
    let bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
    let signs = _mm256_shuffle_epi8(_mm256_set1_epi32(w.signs(b).cast_signed()), byte);
    let minus = _mm256_cmpeq_epi8(_mm256_and_si256(signs, bit), bit);
    _mm256_sub_epi8(_mm256_xor_si256(points, minus), minus)
}

/// The codes of block `b`, given its points.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn shifted<B: Shifted>(w: &B, b: usize, points: __m256i) -> __m256i {
    let half = 4 * (b % 2);
    let bit = |j: usize| B::DOWN[half + j];
    let bits = _mm256_setr_epi64x(bit(0), bit(1), bit(2), bit(3));
    let is_down = _mm256_cmpeq_epi64(_mm256_and_si256(_mm256_set1_epi64x(w.shifts(b / 2)), bits), bits);
    let shift = _mm256_or_si256(is_down, _mm256_set1_epi8(1)); // -1 or 1
    _mm256_add_epi8(points, shift)
}

/// Scales `d (2 s + 1) part` of eight blocks, given s in the low bits of each number.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn odd_scales(d: [u8; 2], part: f32, s: __m256i) -> __m256 {
    let odd = _mm256_or_si256(_mm256_slli_epi32::<1>(s), _mm256_set1_epi32(1));
    _mm256_mul_ps(_mm256_mul_ps(unit(d), _mm256_set1_ps(part)), _mm256_cvtepi32_ps(odd))
}

/// Sixteen nibbles s as bytes `2 s + 1`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(crate) fn odd_nibbles(packed: &[u8; 8]) -> __m128i {
    let both = _mm_cvtsi64_si128(i64::from_le_bytes(*packed));
    let nibbles = _mm_unpacklo_epi8(both, _mm_srli_epi16::<4>(both));
    let doubled = _mm_slli_epi16::<1>(_mm_and_si128(nibbles, _mm_set1_epi8(0x0f)));
    _mm_or_si128(doubled, _mm_set1_epi8(1))
}

/// Scales `d odd / 8` of sixteen half blocks.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(super) fn half_scales(d: [u8; 2], odd: __m128i) -> [__m256; 2] {
    let unit = eighth(d);
    let floats = |eight: __m128i| _mm256_mul_ps(unit, _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(eight)));
    [floats(odd), floats(_mm_unpackhi_epi64(odd, odd))]
}

/// An eighth of an f16, as the float that fills a vector.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(crate) fn eighth(d: [u8; 2]) -> __m256 {
    _mm256_mul_ps(unit(d), _mm256_set1_ps(1.0 / 8.0))
}
