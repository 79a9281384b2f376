//! IQ4_NL: an f16 scale and 32 nibbles, which are places in a table of values from -127 to 113.

use super::*;
use crate::quant::iq4_nl::TABLE;

/// Bytes in a block.
const BYTES: usize = 18;

/// The scales of up to eight blocks.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn scales(w: &[u8]) -> __m256 {
    f16_of(w.as_chunks::<BYTES>().0, 0)
}

/// The codes of block `b`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn codes(w: &[u8], b: usize) -> __m256i {
    let block = &w.as_chunks::<BYTES>().0[b];
    look_up(&TABLE, 0, nibbles(block.last_chunk().expect("16 bytes of nibbles")))
}

kernels!(wide, GROUP * BYTES, [128]);
