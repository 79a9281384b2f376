//! IQ4_NL: an f16 scale and 32 nibbles, which are places in a table of values from -127 to 113, made unsigned by adding
//! 128.

use super::*;
use crate::quant::iq4_nl::TABLE;

/// Bytes in a block.
const BYTES: usize = 18;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn parts(b: &[[u8; BYTES]]) -> (Blocks, impl Fn(usize) -> __m512i) {
    (Blocks::shifted(scales(b, 0), 128), |p| {
        look_up(&TABLE, -128, nibbles(codes(b, 2 * p), codes(b, 2 * p + 1)))
    })
}

unpack_of_blocks!(BYTES, Some(128));

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn scales_of(w: [&[[u8; BYTES]]; 2]) -> (__m512, __m512) {
    let d = scales_of_two(w, 0);
    (d, _mm512_mul_ps(d, _mm512_set1_ps(-128.0)))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn bytes_of(w: &[[u8; BYTES]]) -> impl Fn(usize) -> __m512i {
    |v| look_up(&TABLE, -128, split_nibbles_of_blocks(w, v))
}

dot_of_blocks!(BYTES, split, add_split);
