//! Q6_K: superblocks of sixteen 16-weight blocks with 8-bit scales; w = d scale (q - 32), q of 4 + 2 bits.

use super::*;
use crate::quant::q6_k::Block;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn parts(w: &Block) -> (Halves, impl Fn(usize) -> __m512i) {
    let scales = load_128(bytemuck::cast_ref(&w.scales));
    (Halves::shifted(unit(w.d), scales, 32), bytes_of(w))
}

unpack_of_superblocks!(true, Some(32));

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn scales_of(w: &Block) -> (__m512, __m512) {
    let scales = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(load_128(bytemuck::cast_ref(&w.scales))));
    let d = _mm512_mul_ps(_mm512_broadcast_f32x8(unit(w.d)), scales);
    (d, _mm512_mul_ps(d, _mm512_set1_ps(-32.0)))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn bytes_of(w: &Block) -> impl Fn(usize) -> __m512i {
    |p| {
        let nibbles = load_512(bytemuck::cast_ref::<[u8; 64], _>(&w.ql.as_chunks().0[p / 2]));
        let moved = if p.is_multiple_of(2) { nibbles } else { _mm512_srli_epi16::<4>(nibbles) };
        let low = _mm512_and_si512(moved, _mm512_set1_epi8(0x0f));
        // of each 32 bytes: two bits of four blocks, which belong at bit 4
        let twice = _mm512_broadcast_i64x4(load_256(&w.qh.as_chunks().0[p / 2]));
        let n = 4 - 4 * (p as i64 % 2);
        let top = _mm512_rolv_epi64(twice, _mm512_setr_epi64(n, n, n, n, n - 2, n - 2, n - 2, n - 2));
        select(_mm512_set1_epi8(0x30), top, low)
    }
}

dot_of_halves!();
