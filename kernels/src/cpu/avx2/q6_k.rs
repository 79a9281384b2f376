//! Q6_K: superblocks of sixteen 16-weight blocks with 8-bit scales; w = d scale (q - 32), q of 4 + 2 bits.

use super::dot::HalfScales;
use super::*;
use crate::quant::q6_k::Block;

/// Bytes in a superblock.
const BYTES: usize = size_of::<Block>();

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn scales(w: &[u8]) -> HalfScales {
    let w: &Block = bytemuck::from_bytes(w);
    let scales = load_128(bytemuck::cast_ref(&w.scales));
    let d = unit(w.d);
    HalfScales { d, scales, m: _mm256_mul_ps(d, _mm256_set1_ps(-32.0)), offsets: scales }
}

/// The codes of block `b`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn codes(w: &[u8], b: usize) -> __m256i {
    let w: &Block = bytemuck::from_bytes(w);
    // 64 bytes: the low nibbles are two blocks, the high ones the next two
    let (half, field) = (b / 4, b % 4);
    let nibbles = load_256(&w.ql.as_chunks().0[2 * half + field % 2]);
    let low = _mm256_srl_epi16(nibbles, _mm_cvtsi32_si128(4 * (field / 2) as i32));
    let high = _mm256_slli_epi16::<4>(two_bits(&w.qh, b));
    _mm256_or_si256(_mm256_and_si256(low, _mm256_set1_epi8(0x0f)), high)
}

kernels!(halves, BYTES, [32, false]);
