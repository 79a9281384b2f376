//! Q5_0: an f16 scale, 32 high bits and 32 nibbles; w = d (code - 16).

use super::super::{Group, dot_of_blocks};
use super::*;

/// Bytes in a block.
const BYTES: usize = 22;

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn group<const N: usize>(acc: &mut Acc<N>, b: &[[u8; BYTES]], x: [Group<'_>; N]) {
    let d = scales(b, 0);
    let m = _mm256_mul_ps(d, _mm256_set1_ps(-16.0));
    acc.group(x, d, m, b.len(), |i| five_bits(b[i].last_chunk().expect("20 bytes of codes")));
}

dot_of_blocks!("avx2,fma,f16c", BYTES, Acc<N>);
