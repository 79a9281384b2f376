//! IQ3_S: superblocks of eight blocks with 4-bit scales; w = d (2 s + 1) code, codes from a codebook.

use super::codebook::{odd_scales, points_of_four, signed};
use super::*;
use crate::quant::iq3_s::Block;

/// Bytes in a superblock.
const BYTES: usize = size_of::<Block>();

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn scales(w: &[u8]) -> __m256 {
    block_scales(bytemuck::from_bytes(w))
}

/// The scales of the blocks.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(crate) fn block_scales(w: &Block) -> __m256 {
    let all = _mm256_set1_epi32(i32::from_le_bytes(w.scales));
    let nibbles = _mm256_srlv_epi32(all, _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
    odd_scales(w.d, 1.0, _mm256_and_si256(nibbles, _mm256_set1_epi32(0x0f)))
}

/// The codes of block `b`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn codes(w: &[u8], b: usize) -> __m256i {
    let w: &Block = bytemuck::from_bytes(w);
    signed(w, b, points_of_four(|i| w.point(i), b))
}

kernels!(wide, BYTES, [15]);
