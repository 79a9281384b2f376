//! Q4_0: an f16 scale and 32 nibbles; w = d (nibble - 8).

use super::*;

/// Bytes in a block.
const BYTES: usize = 18;

/// Scales and offsets of up to eight blocks.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn scales(w: &[u8]) -> (__m256, __m256) {
    let d = f16_of(w.as_chunks::<BYTES>().0, 0);
    (d, _mm256_mul_ps(d, _mm256_set1_ps(-8.0)))
}

/// The codes of blocks `2 p` and `2 p + 1`.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn codes(w: &[u8], p: usize) -> [__m256i; 2] {
    let block =
        |i: usize| block_or_last(w.as_chunks::<BYTES>().0, i).last_chunk().expect("16 bytes of nibbles");
    pair_nibbles(block(2 * p), block(2 * p + 1))
}

kernels!(pairs, GROUP * BYTES, [8, false]);
