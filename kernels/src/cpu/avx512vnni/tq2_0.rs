//! TQ2_0: superblocks with one scale; w = d (code - 1), codes of 2 bits.

use super::*;
use crate::quant::tq2_0::Block;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn parts(w: &Block) -> (Blocks, impl Fn(usize) -> __m512i) {
    (Blocks::shifted(unit(w.d), 1), |p| two_bits(&w.qs, p))
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
    |p| two_bits(&w.qs, p)
}

dot_of_superblocks!(natural, add_natural);
