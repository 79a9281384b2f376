//! NVFP4: blocks of 64 nibbles, which are places in a table of values from -12 to 12, with a scale in E4M3 for each 16.

use super::*;
use crate::quant::mxfp4::TABLE;
use crate::quant::nvfp4::Block;

/// Bytes in what are eight blocks of 32.
const BYTES: usize = 4 * size_of::<Block>();

/// The scales of up to sixteen half blocks, 0 for those that are missing.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn scales(w: &[u8]) -> [__m256; 2] {
    half_block_scales(bytemuck::cast_slice(w))
}

/// The same of up to four blocks.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(crate) fn half_block_scales(w: &[Block]) -> [__m256; 2] {
    let mut bits = [[0; 4]; 4];
    for (bits, w) in bits.iter_mut().zip(w) {
        *bits = w.d;
    }
    let bits = load_128(bytemuck::cast_ref(&bits));
    let bits = _mm_andnot_si128(_mm_cmpeq_epi8(bits, _mm_set1_epi8(0x7f)), bits);
    let exponents = _mm256_cvtepu8_epi16(_mm_and_si128(bits, _mm_set1_epi8(0x7f)));
    let halves = _mm256_slli_epi16::<7>(exponents);
    // see `quant::nvfp4::half_e4m3`
    let floats = |halves: __m128i| _mm256_mul_ps(_mm256_cvtph_ps(halves), _mm256_set1_ps(128.0));
    [floats(_mm256_castsi256_si128(halves)), floats(_mm256_extracti128_si256::<1>(halves))]
}

/// The codes of the first or second half of a block.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn codes(w: &[u8], b: usize) -> __m256i {
    let w: &[Block] = bytemuck::cast_slice(w);
    // of eight bytes, the low nibbles, then the high ones
    let bytes = load_128(&w[b / 2].qs.as_chunks().0[b % 2]);
    let twice = _mm256_permute4x64_epi64::<0b01_01_00_00>(_mm256_castsi128_si256(bytes));
    let moved = _mm256_srlv_epi64(twice, _mm256_setr_epi64x(0, 4, 0, 4));
    look_up(&TABLE, 0, _mm256_and_si256(moved, _mm256_set1_epi8(0x0f)))
}

kernels!(wide_halves, BYTES, [12]);
