//! The most that 256-bit vectors can do.

use crate::cpu::peak::{Peak, Peaks};
use std::arch::x86_64::*;
use std::hint::black_box;

/// Chains in flight: latency times units of the longest chain (6 x 2), and with the factors all that fit 16 registers.
const CHAINS: usize = 12;

/// An int8 product takes `vpmaddubsw` and an addition; that its 16-bit sums must be widened now and then is left out,
/// because how often depends on the format.
pub(crate) const PEAKS: Peaks = Peaks {
    int8: Peak { run: int8, ops: 2 * 32 * CHAINS as u64 },
    f32: Peak { run: f32, ops: 2 * 8 * CHAINS as u64 },
};

#[target_feature(enable = "avx2,fma,f16c")]
fn int8(rounds: usize) {
    let w = black_box(_mm256_set1_epi8(1));
    let mut acc = black_box([_mm256_set1_epi8(1); CHAINS]);
    for _ in 0..rounds {
        for acc in &mut acc {
            // the sum is also the next factor: a product that never changed would be moved out of the loop
            *acc = _mm256_add_epi16(*acc, _mm256_maddubs_epi16(w, *acc));
        }
    }
    black_box(acc);
}

#[target_feature(enable = "avx2,fma,f16c")]
fn f32(rounds: usize) {
    let (w, x) = black_box((_mm256_set1_ps(0.5), _mm256_set1_ps(1.0)));
    let mut acc = [_mm256_setzero_ps(); CHAINS];
    for _ in 0..rounds {
        for acc in &mut acc {
            *acc = _mm256_fmadd_ps(*acc, w, x);
        }
    }
    black_box(acc);
}
