//! Q8_0: an f16 scale and 32 signed bytes, made unsigned by adding 128.

use super::super::{Group, dot_of_blocks};
use super::*;

/// Bytes in a block.
const BYTES: usize = 34;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn group<const N: usize>(acc: &mut Acc<N>, b: &[[u8; BYTES]], x: [Group<'_>; N]) {
    let d = scales(b, 0);
    let m = _mm256_mul_ps(d, _mm256_set1_ps(-128.0));
    acc.group(x, d, m, b.len(), |p| {
        let first = _mm512_castsi256_si512(load_256(codes(b, 2 * p)));
        let both = _mm512_inserti64x4::<1>(first, load_256(codes(b, 2 * p + 1)));
        _mm512_xor_si512(both, _mm512_set1_epi8(-128))
    });
}

dot_of_blocks!("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c", BYTES, Acc<N>);
