//! IQ1_M: superblocks of sixteen half blocks with 3-bit scales; w = d (2 s + 1) / 8 code, codes from a codebook.

use super::super::avx2::codebook::eighth;
use super::super::avx2::iq1_m::unit_and_scales;
use super::codebook::shifted;
use super::*;
use crate::cpu::codebook::Shifted;
use crate::quant::iq1_m::Block;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
#[inline]
fn parts(w: &Block) -> (Halves, impl Fn(usize) -> __m512i) {
    let (d, odd) = unit_and_scales(w);
    (Halves::shifted(eighth(d), odd, Block::MOST), |p| shifted(w, p))
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
    |p| shifted(w, p)
}

dot_of_halves!(natural, false);
