//! Q4_K: superblocks of eight blocks with 6-bit scales and minimums; w = d scale nibble - dmin minimum.

use super::super::{Group, dot_of_superblocks, k_scales};
use super::*;

/// Bytes in a superblock.
const BYTES: usize = 144;

#[target_feature(enable = "avx2,fma,f16c")]
#[inline]
fn group<const N: usize>(acc: &mut Acc<N>, w: &[u8; BYTES], x: [Group<'_>; N]) {
    let (&[d0, d1, m0, m1], rest) = w.split_first_chunk().expect("two f16");
    let (packed, qs) = rest.split_first_chunk().expect("12 bytes of scales");
    let (sc, mn) = k_scales(packed);
    let floats = |bytes: [u8; 8]| {
        _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_cvtsi64_si128(i64::from_le_bytes(bytes))))
    };
    let both = _mm_cvtph_ps(_mm_cvtsi32_si128(i32::from_le_bytes([d0, d1, m0, m1])));
    let d = _mm256_mul_ps(_mm256_broadcastss_ps(both), floats(sc));
    let dmin = _mm256_broadcastss_ps(_mm_movehdup_ps(both));
    let m = _mm256_mul_ps(_mm256_sub_ps(_mm256_setzero_ps(), dmin), floats(mn));
    acc.group(x, d, m, GROUP, |b| {
        // 32 bytes: the low nibbles are one block, the high ones the next
        let bytes = load_256(&qs.as_chunks().0[b / 2]);
        let shifted = _mm256_srl_epi16(bytes, _mm_cvtsi32_si128(4 * (b % 2) as i32));
        _mm256_and_si256(shifted, _mm256_set1_epi8(0x0f))
    });
}

dot_of_superblocks!("avx2,fma,f16c", BYTES, Acc<N>);
