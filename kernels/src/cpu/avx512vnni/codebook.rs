//! Bytes of the formats with codebooks.

use super::*;
use crate::cpu::codebook::{Magnitudes, Shifted};

/// Eight words.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn vector([a, b, c, d]: [i64; 4], [e, f, g, h]: [i64; 4]) -> __m512i {
    _mm512_setr_epi64(a, b, c, d, e, f, g, h)
}

/// Pair `p` of blocks: codes, plus the largest of them.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) fn signed<B: Magnitudes>(w: &B, p: usize) -> __m512i {
    let points = vector(w.words(2 * p), w.words(2 * p + 1));
    let most = _mm512_set1_epi8(B::MOST.cast_signed());
    _mm512_mask_sub_epi8(_mm512_add_epi8(most, points), w.signs(p), most, points)
}

/// Pair `p` of blocks: codes, plus the largest of them.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
pub(super) fn shifted<B: Shifted>(w: &B, p: usize) -> __m512i {
    let [low, high] = const { [B::DOWN.as_chunks::<4>().0[0], B::DOWN.as_chunks::<4>().0[1]] };
    let is_down = _mm512_test_epi64_mask(_mm512_set1_epi64(w.shifts(p)), vector(low, high));
    let most = B::MOST.cast_signed();
    let shift = _mm512_mask_mov_epi64(_mm512_set1_epi8(most + 1), is_down, _mm512_set1_epi8(most - 1));
    _mm512_add_epi8(vector(w.words(2 * p), w.words(2 * p + 1)), shift)
}
