//! The float operations, compiled for 256-bit vectors.

use crate::ops::Lanes;
use std::arch::x86_64::*;

/// This level's instructions.
enum Level {}

impl Lanes for Level {
    const MANY_REGISTERS: bool = false;

    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    type Vector = [__m256; 2];

    #[inline(always)]
    fn load(a: &[f32; 16]) -> [__m256; 2] {
        // SAFETY: called from functions of this level alone, which the table hands out on CPUs that have it; the loads
        // read the sixteen floats of `a`.
        unsafe { [_mm256_loadu_ps(a.as_ptr()), _mm256_loadu_ps(a[8..].as_ptr())] }
    }

    #[inline(always)]
    fn load_halves(h: &[u8; 32]) -> [__m256; 2] {
        let eight = |h: &[u8]| {
            // SAFETY: the level as in `load`; both slices have sixteen bytes.
            unsafe { _mm256_cvtph_ps(_mm_loadu_si128(h.as_ptr().cast())) }
        };
        [eight(&h[..16]), eight(&h[16..])]
    }

    #[inline(always)]
    fn load_bf16(h: &[u8; 32]) -> [__m256; 2] {
        let eight = |h: &[u8]| {
            // SAFETY: the level as in `load`; both slices have sixteen bytes.
            unsafe {
                let words = _mm256_cvtepu16_epi32(_mm_loadu_si128(h.as_ptr().cast()));
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(words))
            }
        };
        [eight(&h[..16]), eight(&h[16..])]
    }

    #[inline(always)]
    fn store(a: &mut [f32; 16], x: [__m256; 2]) {
        // SAFETY: the level as in `load`; the stores write the sixteen floats of `a`.
        unsafe {
            _mm256_storeu_ps(a.as_mut_ptr(), x[0]);
            _mm256_storeu_ps(a[8..].as_mut_ptr(), x[1]);
        }
    }

    #[inline(always)]
    fn splat(x: f32) -> [__m256; 2] {
        // SAFETY: the level as in `load`.
        unsafe { [_mm256_set1_ps(x); 2] }
    }

    #[inline(always)]
    fn mul_add_16(a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the level as in `load`.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    fn prefetch_after(bytes: &[u8]) {
        crate::cpu::prefetch_after(bytes);
    }
}

crate::table::float_ops!(
    #[target_feature(enable = "avx2,fma,f16c")]
    Level
);
