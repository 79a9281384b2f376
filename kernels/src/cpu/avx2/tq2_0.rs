//! TQ2_0: superblocks with one scale; w = d (code - 1), codes of 2 bits.

use super::*;
use crate::quant::tq2_0::Block;

/// Bytes in a superblock.
const BYTES: usize = size_of::<Block>();

/// Scales and offsets of the blocks.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn scales(w: &[u8]) -> (__m256, __m256) {
    let w: &Block = bytemuck::from_bytes(w);
    let d = unit(w.d);
    (d, _mm256_sub_ps(_mm256_setzero_ps(), d))
}

/// The codes of blocks `2 p` and `2 p + 1`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn codes(w: &[u8], p: usize) -> [__m256i; 2] {
    let w: &Block = bytemuck::from_bytes(w);
    pair(two_bits(&w.qs, 2 * p), two_bits(&w.qs, 2 * p + 1))
}

// The codes reach from one below this center to two above: sums of eight fit 16 bits in either case.
kernels!(pairs, BYTES, [1, false]);
