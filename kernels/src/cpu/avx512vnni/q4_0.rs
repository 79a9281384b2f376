//! Q4_0: an f16 scale and 32 nibbles; w = d (nibble - 8).

use super::super::{Group, dot_of_blocks};
use super::*;

/// Bytes in a block.
const BYTES: usize = 18;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn group<const N: usize>(acc: &mut Acc<N>, b: &[[u8; BYTES]], x: [Group<'_>; N]) {
    let d = scales(b, 0);
    let m = _mm256_mul_ps(d, _mm256_set1_ps(-8.0));
    acc.group(x, d, m, b.len(), |p| nibbles(codes(b, 2 * p), codes(b, 2 * p + 1)));
}

dot_of_blocks!("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c", BYTES, Acc<N>);
