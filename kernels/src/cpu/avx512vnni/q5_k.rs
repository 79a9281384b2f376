//! Q5_K: superblocks of eight blocks with 6-bit scales and minimums; w = d scale code - dmin minimum, codes of
//! 1 + 4 bits.

use super::*;
use crate::quant::q5_k::Block;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn parts(w: &Block) -> (Blocks, impl Fn(usize) -> __m512i) {
    let (d, m) = k_scales_and_offsets(w.d, w.dmin, &w.scales);
    (Blocks { d, m }, |p| _mm512_or_si512(k_nibbles(&w.qs, p), bits(&w.qh, p, 4)))
}

kernels_of_superblocks!(blocks, false, None);
