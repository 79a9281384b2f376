//! Q6_K: superblocks of sixteen 16-weight blocks with 8-bit scales; w = d scale (q - 32), q of 4 + 2 bits.

use super::super::{Group, dot_of_superblocks};
use super::*;
use crate::quant::q6_k::Block;

/// Bytes in a superblock.
const BYTES: usize = size_of::<Block>();

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn group<const N: usize>(acc: &mut Acc<N>, w: &[u8; BYTES], x: [Group<'_>; N]) {
    let w: &Block = bytemuck::from_bytes(w);
    let scales = load_128(bytemuck::cast_ref(&w.scales));
    let d = unit(w.d);
    let minus_32_d = _mm256_mul_ps(d, _mm256_set1_ps(-32.0));
    acc.half_blocks(x, (d, scales), (minus_32_d, scales), |p| {
        // 64 bytes: the low nibbles are one pair of blocks, the high ones the next
        let nibbles = load_512(bytemuck::cast_ref::<[u8; 64], _>(&w.ql.as_chunks().0[p / 2]));
        let low = _mm512_srlv_epi64(nibbles, _mm512_set1_epi64(4 * (p % 2) as i64));
        _mm512_or_si512(
            _mm512_and_si512(low, _mm512_set1_epi8(0x0f)),
            _mm512_slli_epi64::<4>(two_bits(&w.qh, p)),
        )
    });
}

dot_of_superblocks!("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c", BYTES, Acc<N>);
