//! Q3_K: superblocks of sixteen 16-weight blocks with 6-bit scales; w = d (scale - 32) (code - 4), codes of 1 + 2 bits.

use super::dot::HalfScales;
use super::*;
use crate::cpu::q3_k_scales;
use crate::quant::q3_k::Block;

/// Bytes in a superblock.
const BYTES: usize = size_of::<Block>();

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn scales(w: &[u8]) -> HalfScales {
    let w: &Block = bytemuck::from_bytes(w);
    let scales = _mm_sub_epi8(load_128(&q3_k_scales(&w.scales)), _mm_set1_epi8(32));
    let d = unit(w.d);
    HalfScales { d, scales, m: _mm256_mul_ps(d, _mm256_set1_ps(-4.0)), offsets: scales }
}

/// The codes of block `b`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn codes(w: &[u8], b: usize) -> __m256i {
    let w: &Block = bytemuck::from_bytes(w);
    _mm256_or_si256(two_bits(&w.qs, b), bits(&w.hmask, b, 2))
}

kernels!(halves, BYTES, [4, false]);
