//! Q4_1: an f16 scale, an f16 minimum and 32 nibbles; w = d nibble + m.

use super::super::{Group, dot_of_blocks};
use super::*;

/// Bytes in a block.
const BYTES: usize = 20;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn group<const N: usize>(acc: &mut Acc<N>, b: &[[u8; BYTES]], x: [Group<'_>; N]) {
    let d = scales(b, 0);
    let m = scales(b, 2);
    acc.group(x, d, m, b.len(), |p| nibbles(codes(b, 2 * p), codes(b, 2 * p + 1)));
}

dot_of_blocks!("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c", BYTES, Acc<N>);
