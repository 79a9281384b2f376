//! IQ3_S: superblocks of eight blocks with 4-bit scales; w = d (2 s + 1) code, codes from a codebook.

use super::super::avx2::iq3_s::block_scales;
use super::codebook::{signed, sixteen_points};
use super::*;
use crate::cpu::codebook::Magnitudes;
use crate::quant::codebook;
use crate::quant::iq3_s::Block;

/// The bytes of pair `p` of blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn bytes(w: &Block, p: usize) -> __m512i {
    let low = _mm512_cvtepu8_epi32(load_128(&w.qs.as_chunks().0[p]));
    let high = u16::from_le_bytes(w.qh.as_chunks().0[p]);
    let places = _mm512_mask_or_epi32(low, high, low, _mm512_set1_epi32(0x100));
    signed::<Block>(sixteen_points(&codebook::IQ3_S, places), u64::from_le_bytes(w.signs.as_chunks().0[p]))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn parts(w: &Block) -> (Blocks, impl Fn(usize) -> __m512i) {
    (Blocks::shifted(block_scales(w), Block::MOST), |p| bytes(w, p))
}

unpack_of_superblocks!(false, Some(Block::MOST));

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn scales_of(w: [&Block; 2]) -> (__m512, __m512) {
    let d = two([block_scales(w[0]), block_scales(w[1])]);
    (d, _mm512_mul_ps(d, _mm512_set1_ps(-f32::from(Block::MOST))))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn bytes_of(w: &Block) -> impl Fn(usize) -> __m512i {
    |p| bytes(w, p)
}

dot_of_superblocks!(natural, add_natural);
