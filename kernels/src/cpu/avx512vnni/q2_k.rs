//! Q2_K: superblocks of sixteen 16-weight blocks with 4-bit scales and minimums; w = d scale code - dmin minimum, codes
//! of 2 bits.

use super::*;
use crate::quant::q2_k::Block;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn parts(w: &Block) -> (Halves, impl Fn(usize) -> __m512i) {
    let both = load_128(&w.scales);
    let scales = _mm_and_si128(both, _mm_set1_epi8(0x0f));
    let mins = _mm_and_si128(_mm_srli_epi16::<4>(both), _mm_set1_epi8(0x0f));
    let m = _mm256_sub_ps(_mm256_setzero_ps(), unit(w.dmin));
    (Halves { d: unit(w.d), scales, m, mins }, |p| two_bits(&w.qs, p))
}

unpack_of_folded_superblocks!(None);

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn scales_of(w: &Block) -> (__m512, __m512) {
    parts(w).0.products()
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn bytes_of(w: &Block) -> impl Fn(usize) -> __m512i {
    parts(w).1
}

dot_of_halves!();
