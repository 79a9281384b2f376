//! Q5_K: superblocks of eight blocks with 6-bit scales and minimums; w = d scale code - dmin minimum, codes of
//! 1 + 4 bits.

use super::super::{Group, dot_of_superblocks};
use super::*;
use crate::quant::q5_k::Block;

/// Bytes in a superblock.
const BYTES: usize = size_of::<Block>();

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn group<const N: usize>(acc: &mut Acc<N>, w: &[u8; BYTES], x: [Group<'_>; N]) {
    let w: &Block = bytemuck::from_bytes(w);
    let (d, m) = k_scales_and_offsets(w.d, w.dmin, &w.scales);
    acc.group(x, d, m, GROUP, |p| _mm512_or_si512(k_nibbles(&w.qs, p), bits(&w.qh, p, 4)));
}

dot_of_superblocks!("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c", BYTES, Acc<N>);
