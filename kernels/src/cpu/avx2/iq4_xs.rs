//! IQ4_XS: superblocks of eight blocks with 6-bit scales; w = d (scale - 32) value, values from IQ4_NL's table.

use super::*;
use crate::quant::iq4_nl::TABLE;
use crate::quant::iq4_xs::Block;

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
    let low = _mm256_set1_epi32(i32::from_le_bytes(w.scales_l));
    let low = _mm256_srlv_epi32(low, _mm256_setr_epi32(0, 4, 8, 12, 16, 20, 24, 28));
    let high = _mm256_set1_epi32(i32::from(u16::from_le_bytes(w.scales_h)));
    let high = _mm256_srlv_epi32(high, _mm256_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14));
    let both = _mm256_or_si256(
        _mm256_and_si256(low, _mm256_set1_epi32(0x0f)),
        _mm256_slli_epi32::<4>(_mm256_and_si256(high, _mm256_set1_epi32(0x03))),
    );
    _mm256_mul_ps(unit(w.d), _mm256_cvtepi32_ps(_mm256_sub_epi32(both, _mm256_set1_epi32(32))))
}

/// The codes of block `b`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn codes(w: &[u8], b: usize) -> __m256i {
    let w: &Block = bytemuck::from_bytes(w);
    look_up(&TABLE, 0, nibbles(&w.qs.as_chunks().0[b]))
}

kernels!(wide, BYTES, [128]);
