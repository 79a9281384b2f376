//! MXFP4: a power of two and 32 nibbles, which are places in a table of values from -12 to 12.

use super::super::{Group, dot_of_blocks, mxfp4_scales};
use super::*;
use crate::quant::mxfp4::{Block, TABLE};

/// Bytes in a block.
const BYTES: usize = size_of::<Block>();

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn group<const N: usize>(acc: &mut Acc<N>, b: &[[u8; BYTES]], x: [Group<'_>; N]) {
    let d = load_ps(&mxfp4_scales(bytemuck::cast_slice(b.as_flattened())));
    let m = _mm256_mul_ps(d, _mm256_set1_ps(-12.0));
    acc.group(x, d, m, b.len(), |p| look_up(&TABLE, 12, nibbles(codes(b, 2 * p), codes(b, 2 * p + 1))));
}

dot_of_blocks!("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c", BYTES, Acc<N>);
