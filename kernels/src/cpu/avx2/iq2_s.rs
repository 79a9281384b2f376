//! IQ2_S: superblocks of sixteen half blocks with 4-bit scales; w = d (2 s + 1) / 8 code, codes from a codebook.

use super::codebook::{half_scales, odd_nibbles, points_of_eight, signed};
use super::*;
use crate::quant::iq2_s::Block;

/// Bytes in a superblock.
const BYTES: usize = size_of::<Block>();

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn scales(w: &[u8]) -> [__m256; 2] {
    let w: &Block = bytemuck::from_bytes(w);
    half_scales(w.d, odd_nibbles(&w.scales))
}

/// The codes of block `b`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn codes(w: &[u8], b: usize) -> __m256i {
    let w: &Block = bytemuck::from_bytes(w);
    signed(w, b, points_of_eight(|i| w.point(i), b))
}

kernels!(wide_halves, BYTES, [43]);
