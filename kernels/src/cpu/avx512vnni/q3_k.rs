//! Q3_K: superblocks of sixteen 16-weight blocks with 6-bit scales; w = d (scale - 32) (code - 4), codes of 1 + 2 bits.

use super::super::q3_k_scales;
use super::*;
use crate::quant::q3_k::Block;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn parts(w: &Block) -> (Halves, impl Fn(usize) -> __m512i) {
    let scales = _mm_sub_epi8(load_128(&q3_k_scales(&w.scales)), _mm_set1_epi8(32));
    let halves = Halves::shifted(unit(w.d), scales, 4);
    (halves, |p| _mm512_or_si512(two_bits(&w.qs, p), bits(&w.hmask, p, 2)))
}

unpack_of_folded_superblocks!(Some(4));

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
