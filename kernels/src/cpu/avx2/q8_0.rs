//! Q8_0: an f16 scale and 32 signed bytes.

use super::super::{Group, dot_of_blocks};
use super::*;

/// Bytes in a block.
const BYTES: usize = 34;

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn group<const N: usize>(acc: &mut Acc<N>, b: &[[u8; BYTES]], x: [Group<'_>; N]) {
    let qs = |i: usize| load_256(b[i].last_chunk().expect("32 bytes of weights"));
    acc.signed_group(x, scales(b, 0), b.len(), qs);
}

dot_of_blocks!("avx2,fma,f16c", BYTES, Acc<N>);
