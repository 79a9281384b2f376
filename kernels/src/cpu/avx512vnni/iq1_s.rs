//! IQ1_S: superblocks of eight blocks with 3-bit scales; w = d (2 s + 1) / 8 code, codes from a codebook.

use super::super::avx2::iq1_s::block_scales;
use super::codebook::{eight_points, places, shifted};
use super::*;
use crate::cpu::codebook::Shifted;
use crate::quant::codebook;
use crate::quant::iq1_s::Block;

/// The bytes of pair `p` of blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn bytes(w: &Block, p: usize) -> __m512i {
    let shifts = [0, 3, 6, 9, 16, 19, 22, 25];
    let places = places(&w.qs.as_chunks().0[p], w.shifts(p), shifts, 0x07);
    shifted(w, p, eight_points(&codebook::IQ1, places))
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
