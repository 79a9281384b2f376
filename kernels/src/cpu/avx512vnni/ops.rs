//! The float operations, compiled for 512-bit vectors.

use crate::ops::{Attention, Lanes, Scratch};
use crate::table::FloatOps;
use std::arch::x86_64::*;

/// This level's instructions.
pub(crate) enum Level {}

impl Lanes for Level {
    const MANY_REGISTERS: bool = true;

    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    type Vector = __m512;

    #[inline(always)]
    fn load(a: &[f32; 16]) -> __m512 {
        // SAFETY: called from functions of this level alone, which the table hands out on CPUs that have it; the load reads
        // the sixteen floats of `a`.
        unsafe { _mm512_loadu_ps(a.as_ptr()) }
    }

    #[inline(always)]
    fn load_halves(h: &[u8; 32]) -> __m512 {
        // SAFETY: the level as in `load`; the load reads the 32 bytes of `h`.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(h.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_bf16(h: &[u8; 32]) -> __m512 {
        // SAFETY: the level as in `load`; the load reads the 32 bytes of `h`.
        unsafe {
            let words = _mm512_cvtepu16_epi32(_mm256_loadu_si256(h.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(words))
        }
    }

    #[inline(always)]
    fn load_codes(codes: &[u8; 16]) -> __m512 {
        // SAFETY: the level as in `load`; the load reads the sixteen bytes of `codes`.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(codes.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn store(a: &mut [f32; 16], x: __m512) {
        // SAFETY: the level as in `load`; the store writes the sixteen floats of `a`.
        unsafe { _mm512_storeu_ps(a.as_mut_ptr(), x) }
    }

    #[inline(always)]
    fn splat(x: f32) -> __m512 {
        // SAFETY: the level as in `load`.
        unsafe { _mm512_set1_ps(x) }
    }

    #[inline(always)]
    fn splat_half(h: [u8; 2]) -> __m512 {
        // SAFETY: the level as in `load`.
        unsafe { _mm512_cvtph_ps(_mm256_set1_epi16(i16::from_le_bytes(h))) }
    }

    #[inline(always)]
    fn mul_16(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the level as in `load`.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add_16(a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the level as in `load`.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn add_16(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the level as in `load`.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn max_16(a: __m512, b: __m512) -> __m512 {
        // SAFETY: the level as in `load`.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn sum(a: __m512) -> f32 {
        // SAFETY: the level as in `load`.
        unsafe { _mm512_reduce_add_ps(a) }
    }

    #[inline(always)]
    fn largest(a: __m512) -> f32 {
        // SAFETY: the level as in `load`.
        unsafe { _mm512_reduce_max_ps(a) }
    }

    #[inline(always)]
    fn prefetch_after(bytes: &[u8]) {
        crate::cpu::prefetch_after(bytes);
    }

    #[inline(always)]
    fn prefetch_ahead(at: *const u8) {
        crate::cpu::prefetch_ahead(at);
    }
}

/// The operations that plain loops make fast enough.
mod loops {
    use super::Level;

    crate::table::float_ops!(
        #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
        Level
    );
}

/// Attention in integers, where that is possible.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn attention(a: &Attention<'_>, scratch: &mut Scratch, out: &mut [f32], out_stride: usize) {
    if a.scores.may_be_rounded() {
        super::attention::attention::<Level>(a, scratch, out, out_stride);
    } else {
        crate::ops::attention::<Level>(a, scratch, out, out_stride);
    }
}

/// This level's float operations.
pub(crate) const OPS: FloatOps = FloatOps { attention, quantize_q8: super::quantize::quantize, ..loops::OPS };
