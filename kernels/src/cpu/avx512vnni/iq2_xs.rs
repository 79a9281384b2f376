//! IQ2_XS: superblocks of sixteen half blocks with 4-bit scales; w = d (2 s + 1) / 8 code, codes from a codebook.

use super::super::avx2::codebook::{eighth, odd_nibbles};
use super::codebook::{eight_points, even_signs, signed};
use super::*;
use crate::cpu::codebook::Magnitudes;
use crate::quant::codebook;
use crate::quant::iq2_xs::Block;

/// The signs of each pair of blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn signs(w: &Block) -> [u64; 4] {
    // the upper seven of sixteen bits
    let sevens = _mm512_srli_epi16::<9>(load_512(bytemuck::cast_ref(&w.qs)));
    even_signs(_mm512_cvtepi16_epi8(sevens))
}

/// The bytes of pair `p` of blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn bytes(w: &Block, signs: [u64; 4], p: usize) -> __m512i {
    let qs: &[[u8; 16]; 4] = bytemuck::cast_ref(&w.qs);
    signed::<Block>(eight_points(&codebook::IQ2_XS, _mm512_cvtepu16_epi64(load_128(&qs[p]))), signs[p])
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn parts(w: &Block) -> (Halves, impl Fn(usize) -> __m512i) {
    (Halves::shifted(eighth(w.d), odd_nibbles(&w.scales), Block::MOST), bytes_of(w))
}

unpack_of_superblocks!(true, Some(Block::MOST));

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn scales_of(w: &Block) -> (__m512, __m512) {
    parts(w).0.products()
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn bytes_of(w: &Block) -> impl Fn(usize) -> __m512i {
    let signs = signs(w);
    move |p| bytes(w, signs, p)
}

dot_of_halves!();
