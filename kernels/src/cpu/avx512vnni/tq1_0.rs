//! TQ1_0: superblocks with one scale; w = d (digit - 1), five digits in base three to a byte.

use super::*;
use crate::quant::tq1_0::Block;

/// The first digits of 64 fractions, times `powers` (without what is larger than 1): a power of three for each byte, in
/// 16 bits those of two neighbours, which are the same.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn digits(fractions: __m512i, powers: __m512i) -> __m512i {
    let low = _mm512_set1_epi16(0x00ff);
    let odd = _mm512_mullo_epi16(_mm512_andnot_si512(low, fractions), powers);
    let fractions = select(low, _mm512_mullo_epi16(fractions, powers), odd);
    // 3 * 86 > 256, 3 * 171 > 512
    let one = _mm512_set1_epi8(1);
    let at_least = |n: u8| _mm512_cmpge_epu8_mask(fractions, _mm512_set1_epi8(n.cast_signed()));
    let digits = _mm512_maskz_mov_epi8(at_least(86), one);
    _mm512_mask_add_epi8(digits, at_least(171), digits, one)
}

/// Two halves, each of 32 bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn join(low: __m256i, high: __m256i) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(low), high)
}

/// Two halves, each of 16 bytes.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn join_256(low: __m128i, high: __m128i) -> __m256i {
    _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(low), high)
}

/// The bytes of pair `p` of blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn bytes(w: &Block, p: usize) -> __m512i {
    let (five, rest) = w.qs.split_first_chunk::<32>().expect("48 bytes");
    let (five, rest) = (load_256(five), load_128(rest.try_into().expect("16 bytes")));
    let two = |low, high| join_256(_mm_set1_epi16(low), _mm_set1_epi16(high));
    match p {
        0 => digits(join(five, five), join(_mm256_set1_epi16(1), _mm256_set1_epi16(3))),
        1 => digits(join(five, five), join(_mm256_set1_epi16(9), _mm256_set1_epi16(27))),
        2 => digits(join(five, join_256(rest, rest)), join(_mm256_set1_epi16(81), two(1, 3))),
        _ => {
            let four = _mm_set1_epi32(i32::from_le_bytes(w.qh));
            let last = join_256(_mm_set1_epi16(81), _mm_setr_epi16(1, 1, 3, 3, 9, 9, 27, 27));
            digits(join(join_256(rest, rest), join_256(rest, four)), join(two(9, 27), last))
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn parts(w: &Block) -> (Blocks, impl Fn(usize) -> __m512i) {
    (Blocks::shifted(unit(w.d), 1), |p| bytes(w, p))
}

unpack_of_superblocks!(false, Some(1));

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn scales_of(w: [&Block; 2]) -> (__m512, __m512) {
    let d = two([unit(w[0].d), unit(w[1].d)]);
    (d, _mm512_sub_ps(_mm512_setzero_ps(), d))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn bytes_of(w: &Block) -> impl Fn(usize) -> __m512i {
    |p| bytes(w, p)
}

dot_of_superblocks!(natural, add_natural);
