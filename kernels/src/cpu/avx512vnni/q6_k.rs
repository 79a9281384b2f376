//! Q6_K: superblocks of sixteen 16-weight blocks with 8-bit scales; w = d scale (q - 32), q of 4 + 2 bits.

use super::super::{Group, dot_of_superblocks};
use super::*;

/// Bytes in a superblock.
const BYTES: usize = 210;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn group<const N: usize>(acc: &mut Acc<N>, w: &[u8; BYTES], x: [Group<'_>; N]) {
    let (ql, rest) = w.split_first_chunk::<128>().expect("128 bytes of low bits");
    let (qh, rest) = rest.split_first_chunk::<64>().expect("64 bytes of high bits");
    let (sc, d) = rest.split_first_chunk::<16>().expect("16 scales");
    let d =
        _mm512_broadcastss_ps(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(u16::from_le_bytes([d[0], d[1]])))));
    let sc = load_128(sc);
    let d_sc = _mm512_mul_ps(d, _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(sc)));
    let minus_32_d = _mm256_mul_ps(_mm512_castps512_ps256(d), _mm256_set1_ps(-32.0));

    let mut scale = [_mm512_setzero_ps(); N];
    let mut z = [_mm512_setzero_si512(); N];
    for c in 0..N {
        let d_x = load_ps(x[c].d);
        let twice = _mm512_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7);
        scale[c] = _mm512_mul_ps(d_sc, _mm512_permutexvar_ps(twice, _mm512_castps256_ps512(d_x)));
        z[c] = zero_points(&x[c]);
        let sums = block_sums(&x[c], _mm256_cvtepi8_epi16(sc));
        acc.offset[c] = _mm256_fmadd_ps(_mm256_mul_ps(minus_32_d, d_x), sums, acc.offset[c]);
    }
    for p in 0..4 {
        // 128 weights: 64 bytes whose low nibbles are the first 64 and whose high nibbles are the second, and 32 bytes
        // of four 2-bit fields, one for each 32 weights
        let (half, high) = (p / 2, p % 2);
        let nibbles = load_512(bytemuck::cast_ref::<[u8; 64], _>(&ql.as_chunks().0[half]));
        let low = _mm512_and_si512(
            _mm512_srlv_epi64(nibbles, _mm512_set1_epi64(4 * high as i64)),
            _mm512_set1_epi8(0x0f),
        );
        let fields = _mm512_broadcast_i64x4(load_256(&qh.as_chunks().0[half]));
        let (a, b) = (4 * high as i64, 4 * high as i64 + 2);
        let fields = _mm512_srlv_epi64(fields, _mm512_setr_epi64(a, a, a, a, b, b, b, b));
        let fields = _mm512_slli_epi64::<4>(_mm512_and_si512(fields, _mm512_set1_epi8(0x03)));
        let w = _mm512_or_si512(low, fields);
        let i = 4 * p as i32;
        let (j, k, l) = (i + 1, i + 2, i + 3);
        let index = _mm512_setr_epi32(i, i, i, i, j, j, j, j, k, k, k, k, l, l, l, l);
        for c in 0..N {
            let sums = _mm512_cvtepi32_ps(integer_sums(w, &x[c], z[c], p));
            acc.main[c] = _mm512_fmadd_ps(sums, _mm512_permutexvar_ps(index, scale[c]), acc.main[c]);
        }
    }
}

dot_of_superblocks!("avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c", BYTES, Acc<N>);
