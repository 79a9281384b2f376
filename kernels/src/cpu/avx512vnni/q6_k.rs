//! Q6_K: superblocks of sixteen 16-weight blocks with 8-bit scales; w = d scale (q - 32), q of 4 + 2 bits.

use super::*;
use crate::quant::q6_k::Block;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn parts(w: &Block) -> (Halves, impl Fn(usize) -> __m512i) {
    let scales = load_128(bytemuck::cast_ref(&w.scales));
    (Halves::shifted(unit(w.d), scales, 32), |p| {
        // 64 bytes: the low nibbles are one pair of blocks, the high ones the next
        let nibbles = load_512(bytemuck::cast_ref::<[u8; 64], _>(&w.ql.as_chunks().0[p / 2]));
        let low = _mm512_srlv_epi64(nibbles, _mm512_set1_epi64(4 * (p % 2) as i64));
        _mm512_or_si512(
            _mm512_and_si512(low, _mm512_set1_epi8(0x0f)),
            _mm512_slli_epi64::<4>(two_bits(&w.qh, p)),
        )
    })
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
    let [low, high] = w.ql.as_chunks::<64>().0 else { unreachable!("128 bytes") };
    let (low, high) = (load_512(bytemuck::cast_ref(low)), load_512(bytemuck::cast_ref(high)));
    let top = load_512(bytemuck::cast_ref(&w.qh));
    move |v| {
        // of 64 bytes each: 16 of them are a half of a block in the low nibbles, and of the next but one in the high
        let nibbles = match v {
            0 => _mm512_shuffle_i64x2::<0b00_00_00_00>(low, high),
            1 => _mm512_shuffle_i64x2::<0b01_01_01_01>(low, high),
            2 => _mm512_shuffle_i64x2::<0b10_10_10_10>(low, high),
            _ => _mm512_shuffle_i64x2::<0b11_11_11_11>(low, high),
        };
        let nibbles = _mm512_srlv_epi64(nibbles, _mm512_setr_epi64(0, 0, 4, 4, 0, 0, 4, 4));
        // of 32 bytes: 16 of them hold two bits of the same half of four blocks, which belong at bit 4
        let top = match v % 2 {
            0 => _mm512_shuffle_i64x2::<0b10_10_00_00>(top, top),
            _ => _mm512_shuffle_i64x2::<0b11_11_01_01>(top, top),
        };
        let n = 4 - 2 * (v as i64 / 2);
        let top = _mm512_rolv_epi64(top, _mm512_setr_epi64(n, n, n - 4, n - 4, n, n, n - 4, n - 4));
        let low = _mm512_and_si512(nibbles, _mm512_set1_epi8(0x0f));
        select(_mm512_set1_epi8(0x30), top, low)
    }
}

dot_of_halves!(split, true);
