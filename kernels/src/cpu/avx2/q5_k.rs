//! Q5_K: superblocks of eight blocks with 6-bit scales and minimums; w = d scale code - dmin minimum, codes of
//! 1 + 4 bits.

use super::*;
use crate::quant::q5_k::Block;

/// Bytes in a superblock.
const BYTES: usize = size_of::<Block>();

/// Scales and offsets of the blocks.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn scales(w: &[u8]) -> (__m256, __m256) {
    let w: &Block = bytemuck::from_bytes(w);
    k_scales_and_offsets(w.d, w.dmin, &w.scales)
}

/// The codes of blocks `2 p` and `2 p + 1`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn codes(w: &[u8], p: usize) -> [__m256i; 2] {
    let w: &Block = bytemuck::from_bytes(w);
    let high = |half: usize| {
        let bits = load_twice(&w.qh.as_chunks().0[half]);
        // bit 2 p of the bytes for block 2 p, bit 2 p + 1 for the other, as bit 4
        let (a, b) = (2 * p as i64 - 4, 2 * p as i64 - 3);
        let bits = if p < 2 {
            _mm256_sllv_epi64(bits, _mm256_setr_epi64x(-a, -a, -b, -b))
        } else {
            _mm256_srlv_epi64(bits, _mm256_setr_epi64x(a, a, b, b))
        };
        _mm256_and_si256(bits, _mm256_set1_epi8(0x10))
    };
    let [first, second] = k_nibbles(&w.qs, p);
    [_mm256_or_si256(first, high(0)), _mm256_or_si256(second, high(1))]
}

kernels!(pairs, BYTES, [16, true]);
