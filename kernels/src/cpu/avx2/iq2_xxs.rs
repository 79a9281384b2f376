//! IQ2_XXS: superblocks of eight blocks with 4-bit scales; w = d (2 s + 1) / 8 code, codes from a codebook.

use super::codebook::{odd_scales, points_of_eight, signed};
use super::*;
use crate::quant::iq2_xxs::Block;

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
    odd_scales(w.d, 1.0 / 8.0, _mm256_srli_epi32::<28>(signs_and_scales(w)))
}

/// The words of signs and scales of the blocks.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(crate) fn signs_and_scales(w: &Block) -> __m256i {
    // the second of the two words of each block
    let [low, high]: &[[u8; 32]; 2] = bytemuck::cast_ref(&w.qs);
    let (low, high) = (_mm256_castsi256_ps(load_256(low)), _mm256_castsi256_ps(load_256(high)));
    let second = _mm256_castps_si256(_mm256_shuffle_ps::<0b11_01_11_01>(low, high));
    _mm256_permute4x64_epi64::<0b11_01_10_00>(second)
}

/// The codes of block `b`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn codes(w: &[u8], b: usize) -> __m256i {
    let w: &Block = bytemuck::from_bytes(w);
    signed(w, b, points_of_eight(|i| w.point(i), b))
}

kernels!(wide, BYTES, [43]);
