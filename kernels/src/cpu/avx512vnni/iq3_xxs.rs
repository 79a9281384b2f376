//! IQ3_XXS: superblocks of eight blocks with 4-bit scales; w = d (2 s + 1) / 4 code, codes from a codebook.

use super::super::avx2::iq3_xxs::block_scales;
use super::codebook::{even_signs_of_words, signed, sixteen_points};
use super::*;
use crate::cpu::codebook::Magnitudes;
use crate::quant::codebook;
use crate::quant::iq3_xxs::Block;

/// The signs of each pair of blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn signs(w: &Block) -> [u64; 4] {
    even_signs_of_words(load_256(bytemuck::cast_ref(&w.signs_and_scales)))
}

/// The bytes of pair `p` of blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn bytes(w: &Block, signs: [u64; 4], p: usize) -> __m512i {
    let places = _mm512_cvtepu8_epi32(load_128(&w.qs.as_chunks().0[p]));
    signed::<Block>(sixteen_points(&codebook::IQ3_XXS, places), signs[p])
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn parts(w: &Block) -> (Blocks, impl Fn(usize) -> __m512i) {
    (Blocks::shifted(block_scales(w), Block::MOST), bytes_of(w))
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
    let signs = signs(w);
    move |p| bytes(w, signs, p)
}

dot_of_superblocks!(natural, add_natural);
