//! IQ2_XXS: superblocks of eight blocks with 4-bit scales; w = d (2 s + 1) / 8 code, codes from a codebook.

use super::super::avx2::iq2_xxs::{block_scales, signs_and_scales};
use super::codebook::{eight_points, even_signs_of_words, signed};
use super::*;
use crate::cpu::codebook::Magnitudes;
use crate::quant::codebook;
use crate::quant::iq2_xxs::Block;

/// The signs of each pair of blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn signs(w: &Block) -> [u64; 4] {
    even_signs_of_words(signs_and_scales(w))
}

/// The bytes of pair `p` of blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn bytes(w: &Block, signs: [u64; 4], p: usize) -> __m512i {
    // the first four of eight bytes
    let [low, high] = [w.qs[2 * p], w.qs[2 * p + 1]].map(|qs| u64::from_le_bytes(qs) & 0xffff_ffff);
    let places = _mm512_cvtepu8_epi64(_mm_cvtsi64_si128((low | high << 32).cast_signed()));
    signed::<Block>(eight_points(&codebook::IQ2_XXS, places), signs[p])
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
