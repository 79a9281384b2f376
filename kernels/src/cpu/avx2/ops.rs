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
    fn load_codes(codes: &[u8; 16]) -> [__m256; 2] {
        // SAFETY: the level as in `load`; the load reads the sixteen bytes of `codes`.
        unsafe {
            let codes = _mm_loadu_si128(codes.as_ptr().cast());
            let eight = |codes| _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(codes));
            [eight(codes), eight(_mm_srli_si128::<8>(codes))]
        }
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
    fn splat_half(h: [u8; 2]) -> [__m256; 2] {
        // SAFETY: the level as in `load`.
        unsafe { [_mm256_cvtph_ps(_mm_set1_epi16(i16::from_le_bytes(h))); 2] }
    }

    #[inline(always)]
    fn mul_16(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the level as in `load`.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul_add_16(a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the level as in `load`.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    fn add_16(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the level as in `load`.
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn max_16(a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the level as in `load`.
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn sum(a: [__m256; 2]) -> f32 {
        // SAFETY: the level as in `load`.
        unsafe {
            let eight = _mm256_add_ps(a[0], a[1]);
            let four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_add_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)))
        }
    }

    #[inline(always)]
    fn largest(a: [__m256; 2]) -> f32 {
        // SAFETY: the level as in `load`.
        unsafe {
            let eight = _mm256_max_ps(a[0], a[1]);
            let four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps::<1>(eight));
            let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
            _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)))
        }
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

crate::table::float_ops!(
    #[target_feature(enable = "avx2,fma,f16c")]
    Level
);
