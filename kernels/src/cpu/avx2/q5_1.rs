//! Q5_1: an f16 scale, an f16 minimum, 32 high bits and 32 nibbles; w = d code + m.

use super::super::{Group, dot_of_blocks};
use super::*;

/// Bytes in a block.
const BYTES: usize = 24;

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn group<const N: usize>(acc: &mut Acc<N>, b: &[[u8; BYTES]], x: [Group<'_>; N]) {
    let d = scales(b, 0);
    let m = scales(b, 2);
    acc.group(x, d, m, b.len(), |i| five_bits(b[i].last_chunk().expect("20 bytes of codes")));
}

dot_of_blocks!("avx2,fma,f16c", BYTES, Acc<N>);
