//! MXFP4: a power of two and 32 nibbles, which are places in a table of values from -12 to 12.

use super::super::mxfp4_scales;
use super::*;
use crate::quant::mxfp4::{Block, TABLE};

/// Bytes in a block.
const BYTES: usize = size_of::<Block>();

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn parts(b: &[[u8; BYTES]]) -> (Blocks, impl Fn(usize) -> __m512i) {
    let d = load_ps(&mxfp4_scales(bytemuck::cast_slice(b.as_flattened())));
    (Blocks::shifted(d, 12), |p| look_up(&TABLE, 12, nibbles(codes(b, 2 * p), codes(b, 2 * p + 1))))
}

unpack_of_blocks!(BYTES, Some(12));

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn scales_of(w: [&[[u8; BYTES]]; 2]) -> (__m512, __m512) {
    // as `Block::d`, of all exponents together
    let mut exponents = [0u64; 2];
    for (exponents, blocks) in exponents.iter_mut().zip(w) {
        for (i, block) in blocks.iter().enumerate() {
            *exponents |= u64::from(block[0]) << (8 * i);
        }
    }
    let [low, high] = exponents.map(u64::cast_signed);
    let e = _mm512_cvtepu8_epi32(_mm_set_epi64x(high, low));
    let normal = _mm512_slli_epi32::<23>(_mm512_sub_epi32(e, _mm512_set1_epi32(1)));
    let subnormal = _mm512_sllv_epi32(_mm512_set1_epi32(0x0020_0000), e);
    let is_subnormal = _mm512_cmplt_epu32_mask(e, _mm512_set1_epi32(2));
    let d = _mm512_castsi512_ps(_mm512_mask_mov_epi32(normal, is_subnormal, subnormal));
    (d, _mm512_mul_ps(d, _mm512_set1_ps(-12.0)))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn bytes_of(w: &[[u8; BYTES]]) -> impl Fn(usize) -> __m512i {
    |v| look_up(&TABLE, 12, split_nibbles(|b| codes(w, b), v))
}

dot_of_blocks!(BYTES, split, add_split);
