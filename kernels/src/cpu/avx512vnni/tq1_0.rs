//! TQ1_0: superblocks with one scale; w = d (digit - 1), five digits in base three to a byte.

use super::super::avx2::tq1_0::block;
use super::*;
use crate::quant::tq1_0::Block;

/// The codes of pair `p` of blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn pair(w: &Block, p: usize) -> __m512i {
    _mm512_inserti64x4::<1>(_mm512_castsi256_si512(block(w, 2 * p)), block(w, 2 * p + 1))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn parts(w: &Block) -> (Blocks, impl Fn(usize) -> __m512i) {
    (Blocks::shifted(unit(w.d), 1), |p| pair(w, p))
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
    |p| pair(w, p)
}

dot_of_superblocks!(natural, add_natural);
