//! The float operations, compiled for 256-bit vectors.

use crate::ops::Lanes;
use half::f16;
use std::arch::x86_64::*;

/// This level's instructions.
enum Level {}

impl Lanes for Level {
    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }

    #[inline(always)]
    fn widen(h: &[f16; 16]) -> [f32; 16] {
        // SAFETY: called from functions of this level alone, which the table hands out on CPUs that have it; the loads
        // read the sixteen numbers of `h` and the stores write those of `f`.
        unsafe {
            let mut f = [0.0; 16];
            for i in [0, 8] {
                let eight = _mm256_cvtph_ps(_mm_loadu_si128(h[i..].as_ptr().cast()));
                _mm256_storeu_ps(f[i..].as_mut_ptr(), eight);
            }
            f
        }
    }
}

crate::table::float_ops!(
    #[target_feature(enable = "avx2,fma,f16c")]
    Level
);
