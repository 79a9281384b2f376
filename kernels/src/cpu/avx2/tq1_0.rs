//! TQ1_0: superblocks with one scale; w = d (digit - 1), five digits in base three to a byte.

use super::*;
use crate::quant::tq1_0::Block;

/// Bytes in a superblock.
const BYTES: usize = size_of::<Block>();

/// Scales and offsets of the blocks.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn scales(w: &[u8]) -> (__m256, __m256) {
    let w: &Block = bytemuck::from_bytes(w);
    let d = unit(w.d);
    (d, _mm256_sub_ps(_mm256_setzero_ps(), d))
}

/// The first digits of 32 fractions, times `powers` (without what is larger than 1): a power of three for each byte, in
/// 16 bits those of two neighbours, which are the same.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn digits(fractions: __m256i, powers: __m256i) -> __m256i {
    let low = _mm256_set1_epi16(0x00ff);
    let even = _mm256_and_si256(_mm256_mullo_epi16(fractions, powers), low);
    let odd = _mm256_mullo_epi16(_mm256_andnot_si256(low, fractions), powers);
    let fractions = _mm256_or_si256(even, odd);
    // 3 * 86 > 256, 3 * 171 > 512
    let at_least = |n: u8| {
        let n = _mm256_set1_epi8(n.cast_signed());
        _mm256_cmpeq_epi8(_mm256_max_epu8(fractions, n), fractions)
    };
    let minus = _mm256_add_epi8(at_least(86), at_least(171));
    _mm256_sub_epi8(_mm256_setzero_si256(), minus)
}

/// The codes of block `b`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn block(w: &Block, b: usize) -> __m256i {
    let (five, rest) = w.qs.split_first_chunk::<32>().expect("48 bytes");
    let sixteen = load_128(rest.try_into().expect("16 bytes"));
    let powers = |low: i16, high: i16| _mm256_set_m128i(_mm_set1_epi16(high), _mm_set1_epi16(low));
    let twice = _mm256_broadcastsi128_si256(sixteen);
    match b {
        0 => digits(load_256(five), _mm256_set1_epi16(1)),
        1 => digits(load_256(five), _mm256_set1_epi16(3)),
        2 => digits(load_256(five), _mm256_set1_epi16(9)),
        3 => digits(load_256(five), _mm256_set1_epi16(27)),
        4 => digits(load_256(five), _mm256_set1_epi16(81)),
        5 => digits(twice, powers(1, 3)),
        6 => digits(twice, powers(9, 27)),
        _ => {
            let four = _mm_set1_epi32(i32::from_le_bytes(w.qh));
            let powers = _mm256_set_m128i(_mm_setr_epi16(1, 1, 3, 3, 9, 9, 27, 27), _mm_set1_epi16(81));
            digits(_mm256_set_m128i(four, sixteen), powers)
        }
    }
}

/// The codes of blocks `2 p` and `2 p + 1`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn codes(w: &[u8], p: usize) -> [__m256i; 2] {
    let w: &Block = bytemuck::from_bytes(w);
    pair(block(w, 2 * p), block(w, 2 * p + 1))
}

kernels!(pairs, BYTES, [1, false]);
