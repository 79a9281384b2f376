//! Q5_K: superblocks of eight blocks with 6-bit scales and minimums; w = d scale code - dmin minimum, codes of
//! 1 + 4 bits.

use super::super::{Group, dot_of_superblocks};
use super::*;
use crate::quant::q5_k::Block;

/// Bytes in a superblock.
const BYTES: usize = size_of::<Block>();

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn group<const N: usize>(acc: &mut Acc<N>, w: &[u8; BYTES], x: [Group<'_>; N]) {
    let w: &Block = bytemuck::from_bytes(w);
    let (d, m) = k_scales_and_offsets(w.d, w.dmin, &w.scales);
    acc.group(x, d, m, GROUP, |b| _mm256_or_si256(k_nibbles(&w.qs, b), bits(&w.qh, b, 4)));
}

dot_of_superblocks!("avx2,fma,f16c", BYTES, Acc<N>);
