//! Q8_0: an f16 scale and 32 signed bytes. |w| is the unsigned factor, and the sign of w moves to the activations:
//! 2 * 128 * 127 fits an i16, so that nothing saturates.

use super::super::{Group, dot_of_blocks};
use super::*;

/// Bytes in a block.
const BYTES: usize = 34;

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn group<const N: usize>(acc: &mut Acc<N>, b: &[[u8; BYTES]], x: [Group<'_>; N]) {
    let d = scales(b, 0);
    let mut scale = [[0.0; GROUP]; N];
    let mut z = [_mm256_setzero_si256(); N];
    for c in 0..N {
        scale[c] = floats(_mm256_mul_ps(d, load_ps(x[c].d)));
        z[c] = zero_points(&x[c]);
    }
    let ones = _mm256_set1_epi16(1);
    for (i, b) in b.iter().enumerate() {
        let w = load_256(b.last_chunk().expect("32 bytes of weights"));
        let size = _mm256_abs_epi8(w);
        for c in 0..N {
            let (q, z) = activations(&x[c], z[c], i);
            let q = _mm256_madd_epi16(_mm256_maddubs_epi16(size, _mm256_sign_epi8(q, w)), ones);
            let z = _mm256_madd_epi16(_mm256_maddubs_epi16(size, _mm256_sign_epi8(z, w)), ones);
            let sums = _mm256_cvtepi32_ps(_mm256_add_epi32(q, z));
            acc.main[c] = _mm256_fmadd_ps(sums, _mm256_set1_ps(scale[c][i]), acc.main[c]);
        }
    }
}

dot_of_blocks!("avx2,fma,f16c", BYTES, Acc<N>);
