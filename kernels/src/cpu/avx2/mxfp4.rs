//! MXFP4: a power of two and 32 nibbles, which are places in a table of values from -12 to 12.

use super::*;
use crate::cpu::mxfp4_scales;
use crate::quant::mxfp4::{Block, TABLE};

/// Bytes in a block.
const BYTES: usize = size_of::<Block>();

/// Scales and offsets of up to eight blocks.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn scales(w: &[u8]) -> (__m256, __m256) {
    let d = load_ps(&mxfp4_scales(bytemuck::cast_slice(w)));
    (d, _mm256_mul_ps(d, _mm256_set1_ps(-12.0)))
}

/// The codes of blocks `2 p` and `2 p + 1`: the table's values, plus 12.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn codes(w: &[u8], p: usize) -> [__m256i; 2] {
    let block =
        |i: usize| block_or_last(w.as_chunks::<BYTES>().0, i).last_chunk().expect("16 bytes of nibbles");
    pair_nibbles(block(2 * p), block(2 * p + 1)).map(|codes| look_up(&TABLE, 12, codes))
}

kernels!(pairs, GROUP * BYTES, [12, false]);
