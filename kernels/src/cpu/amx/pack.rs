//! Activations of many tokens as bf16, in tiles of sixteen tokens, pairs of neighbouring values side by side:
//!
//! ```text
//! (k / 2, token): value 2 i in the low half of a word, value 2 i + 1 in the high half
//! ```

use super::*;
use crate::cpu::avx512vnni::transpose;

/// Tokens in a tile.
pub(crate) const TILE: usize = 16;

/// 32-bit words of a tile of rows of `k` values.
pub(crate) fn words(k: usize) -> usize {
    k / 2 * TILE
}

/// Packs up to [`TILE`] rows of `k` values; where there are fewer, the rest of the tile becomes 0.
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c"
)]
pub(crate) fn pack(x: &[f32], k: usize, tile: &mut [u32]) {
    assert!(k.is_multiple_of(TILE_VALUES) && x.len() <= TILE * k && tile.len() == words(k));
    for (i, tile) in tile.as_chunks_mut::<{ TILE * TILE }>().0.iter_mut().enumerate() {
        let mut rows = [_mm512_setzero_si512(); TILE];
        for (row, x) in rows.iter_mut().zip(x.chunks_exact(k)) {
            let values: &[f32; TILE_VALUES] = &x.as_chunks().0[i];
            // SAFETY: reads the 32 floats of `values`; the loads need no alignment.
            let (low, high) = unsafe {
                (_mm512_loadu_ps(values.as_ptr()), _mm512_loadu_ps(values[TILE_VALUES / 2..].as_ptr()))
            };
            *row = bf16(low, high);
        }
        for (words, column) in tile.as_chunks_mut::<TILE>().0.iter_mut().zip(transpose(rows)) {
            // SAFETY: writes the sixteen words; the store needs no alignment.
            unsafe { _mm512_storeu_si512(words.as_mut_ptr().cast(), column) };
        }
    }
}

/// 32 floats, rounded to bf16.
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16,avx512vbmi,avx2,fma,f16c"
)]
#[inline]
pub(super) fn bf16(low: __m512, high: __m512) -> __m512i {
    // SAFETY: vectors of 512 bits may hold anything.
    unsafe { std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(high, low)) }
}
