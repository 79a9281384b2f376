//! IQ1_M: superblocks of sixteen half blocks with 3-bit scales; w = d (2 s + 1) / 8 code, codes from a codebook.

use super::codebook::{half_scales, points_of_eight, shifted};
use super::*;
use crate::quant::iq1_m::Block;

/// Bytes in a superblock.
const BYTES: usize = size_of::<Block>();

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn scales(w: &[u8]) -> [__m256; 2] {
    let (d, odd) = unit_and_scales(bytemuck::from_bytes(w));
    half_scales(d, odd)
}

/// The unit of the scales, an f16, and `2 s + 1` of each half block.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
pub(crate) fn unit_and_scales(w: &Block) -> ([u8; 2], __m128i) {
    let all = u64::from_le_bytes(bytemuck::cast(w.scales));
    let d = all >> 12 & 0x000f | all >> 24 & 0x00f0 | all >> 36 & 0x0f00 | all >> 48 & 0xf000;
    // each number of 16 bits four times, and of each another field moved to bits 9 to 11
    let four_times = |i: i8| {
        let (a, b, c, d) = (2 * i, 2 * i + 1, 2 * i + 2, 2 * i + 3);
        _mm_setr_epi8(a, b, a, b, a, b, a, b, c, d, c, d, c, d, c, d)
    };
    let fields = |i: i8| {
        let four = _mm_shuffle_epi8(_mm_cvtsi64_si128(all.cast_signed()), four_times(i));
        let moved = _mm_mullo_epi16(four, _mm_setr_epi16(512, 64, 8, 1, 512, 64, 8, 1));
        _mm_and_si128(_mm_srli_epi16::<9>(moved), _mm_set1_epi16(0x07))
    };
    let s = _mm_packus_epi16(fields(0), fields(2));
    let odd = _mm_or_si128(_mm_add_epi8(s, s), _mm_set1_epi8(1));
    ((d as u16).to_le_bytes(), odd)
}

/// The codes of block `b`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn codes(w: &[u8], b: usize) -> __m256i {
    let w: &Block = bytemuck::from_bytes(w);
    shifted(w, b, points_of_eight(|i| w.point(i), b))
}

kernels!(wide_halves, BYTES, [9]);
