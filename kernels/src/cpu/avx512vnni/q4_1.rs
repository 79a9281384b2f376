//! Q4_1: an f16 scale, an f16 minimum and 32 nibbles; w = d nibble + m.

use super::*;

/// Bytes in a block.
const BYTES: usize = 20;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn parts(b: &[[u8; BYTES]]) -> (Blocks, impl Fn(usize) -> __m512i) {
    (Blocks { d: scales(b, 0), m: scales(b, 2) }, |p| nibbles(codes(b, 2 * p), codes(b, 2 * p + 1)))
}

unpack_of_blocks!(BYTES, None);

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn scales_of(w: [&[[u8; BYTES]]; 2]) -> (__m512, __m512) {
    (scales_of_two(w, 0), scales_of_two(w, 2))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn bytes_of(w: &[[u8; BYTES]]) -> impl Fn(usize) -> __m512i {
    |v| split_nibbles_of_blocks(w, v)
}

dot_of_blocks!(BYTES, split, add_split);
