//! IQ4_XS: superblocks of eight blocks with 6-bit scales; w = d (scale - 32) value, values from IQ4_NL's table,
//! made unsigned by adding 128.

use super::super::avx2::iq4_xs::block_scales;
use super::super::{Group, dot_of_superblocks};
use super::*;
use crate::quant::iq4_nl::TABLE;
use crate::quant::iq4_xs::Block;

/// Bytes in a superblock.
const BYTES: usize = size_of::<Block>();

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn group<const N: usize>(acc: &mut Acc<N>, w: &[u8; BYTES], x: [Group<'_>; N]) {
    let w: &Block = bytemuck::from_bytes(w);
    let d = block_scales(w);
    let m = _mm256_mul_ps(d, _mm256_set1_ps(-128.0));
    let qs = w.qs.as_chunks().0;
    acc.group(x, d, m, GROUP, |p| look_up(&TABLE, -128, nibbles(&qs[2 * p], &qs[2 * p + 1])));
}

dot_of_superblocks!("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c", BYTES, Acc<N>);
