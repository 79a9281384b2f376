//! Q4_K: superblocks of eight blocks with 6-bit scales and minimums; w = d scale nibble - dmin minimum.

use super::*;
use crate::quant::q4_k::Block;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn parts(w: &Block) -> (Blocks, impl Fn(usize) -> __m512i) {
    let (d, m) = k_scales_and_offsets(w.d, w.dmin, &w.scales);
    (Blocks { d, m }, |p| k_nibbles(&w.qs, p))
}

unpack_of_superblocks!(false, None);

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn scales_of(w: [&Block; 2]) -> (__m512, __m512) {
    k_scales_of_two(w.map(|w| ([w.d[0], w.d[1], w.dmin[0], w.dmin[1]], &w.scales)))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn bytes_of(w: &Block) -> impl Fn(usize) -> __m512i {
    |v| split_k_nibbles(&w.qs, v)
}

dot_of_superblocks!(split, add_split);
