//! Q2_K: superblocks of sixteen 16-weight blocks with 4-bit scales and minimums; w = d scale code - dmin minimum, codes
//! of 2 bits.

use super::dot::HalfScales;
use super::*;
use crate::quant::q2_k::Block;

/// Bytes in a superblock.
const BYTES: usize = size_of::<Block>();

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn scales(w: &[u8]) -> HalfScales {
    let w: &Block = bytemuck::from_bytes(w);
    let both = load_128(&w.scales);
    let scales = _mm_and_si128(both, _mm_set1_epi8(0x0f));
    let offsets = _mm_and_si128(_mm_srli_epi16::<4>(both), _mm_set1_epi8(0x0f));
    let m = _mm256_sub_ps(_mm256_setzero_ps(), unit(w.dmin));
    HalfScales { d: unit(w.d), scales, m, offsets }
}

/// The codes of block `b`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn codes(w: &[u8], b: usize) -> __m256i {
    let w: &Block = bytemuck::from_bytes(w);
    two_bits(&w.qs, b)
}

kernels!(halves, BYTES, [0, true]);
