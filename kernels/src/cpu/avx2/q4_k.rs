//! Q4_K: superblocks of eight blocks with 6-bit scales and minimums; w = d scale nibble - dmin minimum.

use super::*;
use crate::quant::q4_k::Block;

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
    k_nibbles(&w.qs, p)
}

kernels!(pairs, BYTES, [8, true]);
