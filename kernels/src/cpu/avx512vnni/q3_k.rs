//! Q3_K: superblocks of sixteen 16-weight blocks with 6-bit scales; w = d (scale - 32) (code - 4), codes of 1 + 2 bits.

use super::super::{Group, dot_of_superblocks, q3_k_scales};
use super::*;
use crate::quant::q3_k::Block;

/// Bytes in a superblock.
const BYTES: usize = size_of::<Block>();

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn group<const N: usize>(acc: &mut Acc<N>, w: &[u8; BYTES], x: [Group<'_>; N]) {
    let w: &Block = bytemuck::from_bytes(w);
    let scales = _mm_sub_epi8(load_128(&q3_k_scales(&w.scales)), _mm_set1_epi8(32));
    let d = unit(w.d);
    let minus_4_d = _mm256_mul_ps(d, _mm256_set1_ps(-4.0));
    acc.half_blocks(x, (d, scales), (minus_4_d, scales), |p| {
        _mm512_or_si512(two_bits(&w.qs, p), bits(&w.hmask, p, 2))
    });
}

dot_of_superblocks!("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c", BYTES, Acc<N>);
