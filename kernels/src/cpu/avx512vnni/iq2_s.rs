//! IQ2_S: superblocks of sixteen half blocks with 4-bit scales; w = d (2 s + 1) / 8 code, codes from a codebook.

use super::super::avx2::codebook::{eighth, odd_nibbles};
use super::codebook::{eight_points, places, signed};
use super::*;
use crate::cpu::codebook::Magnitudes;
use crate::quant::codebook;
use crate::quant::iq2_s::Block;

/// The bytes of pair `p` of blocks.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn bytes(w: &Block, p: usize) -> __m512i {
    let high = u16::from_le_bytes(w.qh.as_chunks().0[p]);
    let places = places(&w.qs.as_chunks().0[p], high.into(), [0, 2, 4, 6, 8, 10, 12, 14], 0x03);
    signed::<Block>(eight_points(&codebook::IQ2_S, places), u64::from_le_bytes(w.signs.as_chunks().0[p]))
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn parts(w: &Block) -> (Halves, impl Fn(usize) -> __m512i) {
    (Halves::shifted(eighth(w.d), odd_nibbles(&w.scales), Block::MOST), |p| bytes(w, p))
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
