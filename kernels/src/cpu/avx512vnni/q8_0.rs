//! Q8_0: an f16 scale and 32 signed bytes, made unsigned by adding 128.

use super::*;

/// Bytes in a block.
const BYTES: usize = 34;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn parts(b: &[[u8; BYTES]]) -> (Blocks, impl Fn(usize) -> __m512i) {
    (Blocks::shifted(scales(b, 0), 128), |p| {
        let first = _mm512_castsi256_si512(load_256(codes(b, 2 * p)));
        let both = _mm512_inserti64x4::<1>(first, load_256(codes(b, 2 * p + 1)));
        _mm512_xor_si512(both, _mm512_set1_epi8(-128))
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
    parts(w).1
}

dot_of_blocks!(BYTES, natural, add_natural);
