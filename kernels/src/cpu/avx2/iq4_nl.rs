//! IQ4_NL: an f16 scale and 32 nibbles, which are places in a table of values from -127 to 113.

use super::super::{Group, dot_of_blocks};
use super::*;
use crate::quant::iq4_nl::TABLE;

/// Bytes in a block.
const BYTES: usize = 18;

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn group<const N: usize>(acc: &mut Acc<N>, b: &[[u8; BYTES]], x: [Group<'_>; N]) {
    acc.signed_group(x, scales(b, 0), b.len(), |i| {
        look_up(&TABLE, 0, nibbles(b[i].last_chunk().expect("16 bytes of nibbles")))
    });
}

dot_of_blocks!("avx2,fma,f16c", BYTES, Acc<N>);
