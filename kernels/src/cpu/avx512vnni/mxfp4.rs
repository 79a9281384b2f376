//! MXFP4: a power of two and 32 nibbles, which are places in a table of values from -12 to 12.

use super::super::mxfp4_scales;
use super::*;
use crate::quant::mxfp4::{Block, TABLE};

/// Bytes in a block.
const BYTES: usize = size_of::<Block>();

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn parts(b: &[[u8; BYTES]]) -> (Blocks, impl Fn(usize) -> __m512i) {
    let d = load_ps(&mxfp4_scales(bytemuck::cast_slice(b.as_flattened())));
    (Blocks::shifted(d, 12), |p| look_up(&TABLE, 12, nibbles(codes(b, 2 * p), codes(b, 2 * p + 1))))
}

unpack_of_blocks!(BYTES, Some(12));

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn scales_of(w: [&[[u8; BYTES]]; 2]) -> (__m512, __m512) {
    let one = |b: &[[u8; BYTES]]| load_ps(&mxfp4_scales(bytemuck::cast_slice(b.as_flattened())));
    let d = two([one(w[0]), one(w[1])]);
    (d, _mm512_mul_ps(d, _mm512_set1_ps(-12.0)))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn bytes_of(w: &[[u8; BYTES]]) -> impl Fn(usize) -> __m512i {
    |v| look_up(&TABLE, 12, split_nibbles(|b| codes(w, b), v))
}

dot_of_blocks!(BYTES, split, add_split);
