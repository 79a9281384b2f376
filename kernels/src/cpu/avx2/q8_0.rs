//! Q8_0: an f16 scale and 32 signed bytes.

use super::*;

/// Bytes in a block.
const BYTES: usize = 34;

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
    load_256(w.as_chunks::<BYTES>().0[b].last_chunk().expect("32 bytes of weights"))
}

kernels!(wide, GROUP * BYTES, [128]);
