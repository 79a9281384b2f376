//! Q6_K: superblocks of sixteen 16-weight blocks with 8-bit scales; w = d scale (q - 32), q of 4 + 2 bits.

use super::*;
use crate::quant::q6_k::Block;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn parts(w: &Block) -> (Halves, impl Fn(usize) -> __m512i) {
    let scales = load_128(bytemuck::cast_ref(&w.scales));
    (Halves::shifted(unit(w.d), scales, 32), |p| {
        // 64 bytes: the low nibbles are one pair of blocks, the high ones the next
        let nibbles = load_512(bytemuck::cast_ref::<[u8; 64], _>(&w.ql.as_chunks().0[p / 2]));
        let low = _mm512_srlv_epi64(nibbles, _mm512_set1_epi64(4 * (p % 2) as i64));
        _mm512_or_si512(
            _mm512_and_si512(low, _mm512_set1_epi8(0x0f)),
            _mm512_slli_epi64::<4>(two_bits(&w.qh, p)),
        )
    })
}

kernels_of_superblocks!(halves, true, Some(32));
