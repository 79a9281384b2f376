//! IQ1_M: superblocks of sixteen half blocks with 3-bit scales; w = d (2 s + 1) / 8 code, codes from a codebook.

use super::super::avx2::codebook::eighth;
use super::super::avx2::iq1_m::unit_and_scales;
use super::codebook::{eight_points, places, shifted};
use super::*;
use crate::cpu::codebook::Shifted;
use crate::quant::codebook;
use crate::quant::iq1_m::Block;

/// The bytes of pair `p` of blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn bytes(w: &Block, p: usize) -> __m512i {
    let places = places(&w.qs.as_chunks().0[p], w.shifts(p), [0, 4, 8, 12, 16, 20, 24, 28], 0x07);
    shifted(w, p, eight_points(&codebook::IQ1, places))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn parts(w: &Block) -> (Halves, impl Fn(usize) -> __m512i) {
    let (d, odd) = unit_and_scales(w);
    (Halves::shifted(eighth(d), odd, Block::MOST), |p| bytes(w, p))
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
    |p| bytes(w, p)
}

dot_of_halves!();
