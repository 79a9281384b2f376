//! Q2_K: superblocks of sixteen 16-weight blocks with 4-bit scales and minimums; w = d scale code - dmin minimum, codes
//! of 2 bits.

use super::super::{Group, dot_of_superblocks};
use super::*;
use crate::quant::q2_k::Block;

/// Bytes in a superblock.
const BYTES: usize = size_of::<Block>();

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn group<const N: usize>(acc: &mut Acc<N>, w: &[u8; BYTES], x: [Group<'_>; N]) {
    let w: &Block = bytemuck::from_bytes(w);
    let both = load_128(&w.scales);
    let scales = _mm_and_si128(both, _mm_set1_epi8(0x0f));
    let mins = _mm_and_si128(_mm_srli_epi16::<4>(both), _mm_set1_epi8(0x0f));
    let minus_dmin = _mm256_sub_ps(_mm256_setzero_ps(), unit(w.dmin));
    acc.half_blocks(x, (unit(w.d), scales), (minus_dmin, mins), |b| two_bits(&w.qs, b));
}

dot_of_superblocks!("avx2,fma,f16c", BYTES, Acc<N>);
