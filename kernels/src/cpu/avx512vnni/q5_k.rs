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

unpack_of_superblocks!(false, None);

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn scales_of(w: [&Block; 2]) -> (__m512, __m512) {
    k_scales_of_two(w.map(|w| ([w.d[0], w.d[1], w.dmin[0], w.dmin[1]], &w.scales)))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn bytes_of(w: &Block) -> impl Fn(usize) -> __m512i {
    |v| {
        // sixteen bytes hold a bit of each block: bring those of blocks 0, 2, 4 and 6, or of the odd ones, to bit 4
        let sixteen = _mm512_broadcast_i32x4(load_128(&w.qh.as_chunks().0[v % 2]));
        let n = 4 - v as i64 / 2;
        let moved =
            _mm512_rolv_epi64(sixteen, _mm512_setr_epi64(n, n, n - 2, n - 2, n - 4, n - 4, n - 6, n - 6));
        select(_mm512_set1_epi8(0x10), moved, split_k_nibbles(&w.qs, v))
    }
}

dot_of_superblocks!(split, add_split);
