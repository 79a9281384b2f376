//! IQ4_NL: an f16 scale and 32 nibbles, which are places in a table of values from -127 to 113, made unsigned by adding
//! 128.

use super::super::{Group, dot_of_blocks};
use super::*;
use crate::quant::iq4_nl::TABLE;

/// Bytes in a block.
const BYTES: usize = 18;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn group<const N: usize>(acc: &mut Acc<N>, b: &[[u8; BYTES]], x: [Group<'_>; N]) {
    let d = scales(b, 0);
    let m = _mm256_mul_ps(d, _mm256_set1_ps(-128.0));
    acc.group(x, d, m, b.len(), |p| look_up(&TABLE, -128, nibbles(codes(b, 2 * p), codes(b, 2 * p + 1))));
}

dot_of_blocks!("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c", BYTES, Acc<N>);
