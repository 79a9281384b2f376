//! IQ1_S: superblocks of eight blocks with 3-bit scales; w = d (2 s + 1) / 8 code, codes from a codebook.

use super::codebook::{odd_scales, points_of_eight, shifted};
use super::*;
use crate::quant::iq1_s::Block;

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
    let qh = _mm256_cvtepu16_epi32(load_128(bytemuck::cast_ref(&w.qh)));
    odd_scales(w.d, 1.0 / 8.0, _mm256_and_si256(_mm256_srli_epi32::<12>(qh), _mm256_set1_epi32(0x07)))
}

/// The codes of block `b`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn codes(w: &[u8], b: usize) -> __m256i {
    let w: &Block = bytemuck::from_bytes(w);
    shifted(w, b, points_of_eight(|i| w.point(i), b))
}

kernels!(wide, BYTES, [9]);
