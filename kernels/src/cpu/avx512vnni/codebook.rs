//! Bytes of the formats with codebooks. Points are gathered: that takes 0.7 times as long as loading eight words, and 0.4
//! times as long as loading sixteen (measured on Sapphire Rapids).

use super::*;
use crate::cpu::codebook::{Magnitudes, Shifted};

/// Eight of `N` points, N a power of two, by their places in words of 64 bits.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) fn eight_points<const N: usize>(points: &[[i8; 8]; N], places: __m512i) -> __m512i {
    const { assert!(N.is_power_of_two()) };
    let places = _mm512_and_si512(places, _mm512_set1_epi64(N as i64 - 1));
    // SAFETY: reads the eight bytes of points, whose places are less than N.
    unsafe { _mm512_i64gather_epi64::<8>(places, points.as_ptr().cast()) }
}

/// Sixteen of `N` points, N a power of two, by their places in words of 32 bits.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) fn sixteen_points<const N: usize>(points: &[[i8; 4]; N], places: __m512i) -> __m512i {
    const { assert!(N.is_power_of_two()) };
    let places = _mm512_and_si512(places, _mm512_set1_epi32(N as i32 - 1));
    // SAFETY: reads the four bytes of points, whose places are less than N.
    unsafe { _mm512_i32gather_epi32::<4>(places, points.as_ptr().cast()) }
}

/// The places of eight points: eight lower bits, and above them `mask` of the bits of `high` from `shifts` on.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) fn places(low: &[u8; 8], high: i64, shifts: [i64; 8], mask: i64) -> __m512i {
    let low = _mm512_cvtepu8_epi64(_mm_cvtsi64_si128(i64::from_le_bytes(*low)));
    let [a, b, c, d, e, f, g, h] = shifts;
    let high = _mm512_srlv_epi64(_mm512_set1_epi64(high), _mm512_setr_epi64(a, b, c, d, e, f, g, h));
    let high = _mm512_and_si512(high, _mm512_set1_epi64(mask));
    _mm512_or_si512(low, _mm512_slli_epi64::<8>(high))
}

/// The signs of each pair of blocks, given seven of eight in each byte: the eighth makes their number even.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) fn even_signs(sevens: __m256i) -> [u64; 4] {
    // in the lowest bit of each byte: whether its number of ones is odd
    let odd = _mm256_xor_si256(sevens, _mm256_srli_epi16::<4>(sevens));
    let odd = _mm256_xor_si256(odd, _mm256_srli_epi16::<2>(odd));
    let odd = _mm256_xor_si256(odd, _mm256_srli_epi16::<1>(odd));
    let eighth = _mm256_slli_epi16::<7>(_mm256_and_si256(odd, _mm256_set1_epi8(0x01)));
    words(_mm256_or_si256(sevens, eighth))
}

/// The same, given four times seven in the low bits of a word for each block.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) fn even_signs_of_words(fields: __m256i) -> [u64; 4] {
    let spread = |fields: __m256i, low: i32, high: i32, moved: __m256i| {
        let low = _mm256_and_si256(fields, _mm256_set1_epi32(low));
        _mm256_or_si256(low, _mm256_and_si256(moved, _mm256_set1_epi32(high)))
    };
    let pairs = spread(fields, 0x0000_3fff, 0x3fff_0000, _mm256_slli_epi32::<2>(fields));
    even_signs(spread(pairs, 0x007f_007f, 0x7f00_7f00, _mm256_slli_epi32::<1>(pairs)))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn words(x: __m256i) -> [u64; 4] {
    let mut words = [0; 4];
    // SAFETY: writes the 32 bytes of `words`; the store needs no alignment.
    unsafe { _mm256_storeu_si256(words.as_mut_ptr().cast(), x) };
    words
}

/// Codes of magnitudes and signs, plus the largest of them.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) fn signed<B: Magnitudes>(points: __m512i, signs: u64) -> __m512i {
    let most = _mm512_set1_epi8(B::MOST.cast_signed());
    _mm512_mask_sub_epi8(_mm512_add_epi8(most, points), signs, most, points)
}

/// Pair `p` of blocks, given their points: codes, plus the largest of them.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) fn shifted<B: Shifted>(w: &B, p: usize, points: __m512i) -> __m512i {
    let [a, b, c, d, e, f, g, h] = B::DOWN;
    let down = _mm512_setr_epi64(a, b, c, d, e, f, g, h);
    let is_down = _mm512_test_epi64_mask(_mm512_set1_epi64(w.shifts(p)), down);
    let most = B::MOST.cast_signed();
    let shift = _mm512_mask_mov_epi64(_mm512_set1_epi8(most + 1), is_down, _mm512_set1_epi8(most - 1));
    _mm512_add_epi8(points, shift)
}
