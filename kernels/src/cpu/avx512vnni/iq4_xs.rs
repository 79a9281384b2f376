//! IQ4_XS: superblocks of eight blocks with 6-bit scales; w = d (scale - 32) value, values from IQ4_NL's table,
//! made unsigned by adding 128.

use super::super::avx2::iq4_xs::block_scales;
use super::*;
use crate::quant::iq4_nl::TABLE;
use crate::quant::iq4_xs::Block;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn parts(w: &Block) -> (Blocks, impl Fn(usize) -> __m512i) {
    let qs = w.qs.as_chunks().0;
    (Blocks::shifted(block_scales(w), 128), |p| look_up(&TABLE, -128, nibbles(&qs[2 * p], &qs[2 * p + 1])))
}

unpack_of_superblocks!(false, Some(128));

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn scales_of(w: [&Block; 2]) -> (__m512, __m512) {
    let d = two([block_scales(w[0]), block_scales(w[1])]);
    (d, _mm512_mul_ps(d, _mm512_set1_ps(-128.0)))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn bytes_of(w: &Block) -> impl Fn(usize) -> __m512i {
    |v| look_up(&TABLE, -128, split_nibbles(|b| &w.qs.as_chunks().0[b], v))
}

dot_of_superblocks!(split, add_split);
