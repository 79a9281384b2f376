//! Q6_K: superblocks of sixteen 16-weight blocks with 8-bit scales; w = d scale (q - 32), q of 4 + 2 bits.

use super::super::{GROUP, Group, dot_of_superblocks};
use super::*;

/// Bytes in a superblock.
const BYTES: usize = 210;

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn group<const N: usize>(acc: &mut Acc<N>, w: &[u8; BYTES], x: [Group<'_>; N]) {
    let (ql, rest) = w.split_first_chunk::<128>().expect("128 bytes of low bits");
    let (qh, rest) = rest.split_first_chunk::<64>().expect("64 bytes of high bits");
    let (sc, d) = rest.split_first_chunk::<16>().expect("16 scales");
    let d =
        _mm256_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(u16::from_le_bytes([d[0], d[1]])))));
    let sc = _mm256_cvtepi8_epi16(load_128(sc));
    let minus_32_d = _mm256_mul_ps(d, _mm256_set1_ps(-32.0));

    let mut scale = [[0.0; GROUP]; N];
    let mut z = [_mm256_setzero_si256(); N];
    for c in 0..N {
        let d_x = load_ps(x[c].d);
        scale[c] = floats(_mm256_mul_ps(d, d_x));
        z[c] = zero_points(&x[c]);
        let sums = block_sums(&x[c], sc);
        acc.offset[c] = _mm256_fmadd_ps(_mm256_mul_ps(minus_32_d, d_x), sums, acc.offset[c]);
    }
    for b in 0..GROUP {
        // 128 weights: 64 bytes whose low nibbles are blocks 0 and 1 and whose high nibbles are 2 and 3, and 32 bytes
        // of four 2-bit fields, one for each block
        let (half, field) = (b / 4, b % 4);
        let nibbles = load_256(&ql.as_chunks().0[2 * half + field % 2]);
        let low = _mm256_srl_epi16(nibbles, _mm_cvtsi32_si128(4 * (field / 2) as i32));
        let high = _mm256_srl_epi16(load_256(&qh.as_chunks().0[half]), _mm_cvtsi32_si128(2 * field as i32));
        let w = _mm256_or_si256(
            _mm256_and_si256(low, _mm256_set1_epi8(0x0f)),
            _mm256_slli_epi16::<4>(_mm256_and_si256(high, _mm256_set1_epi8(0x03))),
        );
        // the two scales of the block meet the i16 sums of its halves: 2 * 63 * 254 * 128 fits an i32 eight times
        let lanes = _mm256_shuffle_epi8(
            _mm256_permute4x64_epi64::<0b01_00_01_00>(_mm256_castsi128_si256(pair_of_scales(sc, b))),
            _mm256_setr_epi8(
                0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2, 3, 2,
                3,
            ),
        );
        for c in 0..N {
            let sums = _mm256_madd_epi16(integer_sums(w, &x[c], z[c], b), lanes);
            let scale = _mm256_set1_ps(scale[c][b]);
            acc.main[c] = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sums), scale, acc.main[c]);
        }
    }
}

/// Scales 2b and 2b + 1 of the sixteen, in the lowest 32 bits.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn pair_of_scales(sc: __m256i, b: usize) -> __m128i {
    _mm256_castsi256_si128(_mm256_permutevar8x32_epi32(sc, _mm256_set1_epi32(b as i32)))
}

dot_of_superblocks!("avx2,fma,f16c", BYTES, Acc<N>);
