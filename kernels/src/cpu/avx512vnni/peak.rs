//! The most that 512-bit vectors can do.

use crate::cpu::peak::{Peak, Peaks};
use std::arch::x86_64::*;
use std::hint::black_box;

/// Chains in flight: more than latency times units (5 x 2), and half of the 32 registers.
const CHAINS: usize = 16;

/// `vpdpbusd` and `vfmadd` do a whole multiply-add each.
pub(crate) const PEAKS: Peaks = Peaks {
    int8: Peak { run: int8, ops: 2 * 64 * CHAINS as u64 },
    f32: Peak { run: f32, ops: 2 * 16 * CHAINS as u64 },
};

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn int8(rounds: usize) {
    let (w, x) = black_box((_mm512_set1_epi8(1), _mm512_set1_epi8(1)));
    let mut acc = [_mm512_setzero_si512(); CHAINS];
    for _ in 0..rounds {
        for acc in &mut acc {
            *acc = _mm512_dpbusd_epi32(*acc, w, x);
        }
    }
    black_box(acc);
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma,f16c")]
fn f32(rounds: usize) {
    let (w, x) = black_box((_mm512_set1_ps(0.5), _mm512_set1_ps(1.0)));
    let mut acc = [_mm512_setzero_ps(); CHAINS];
    for _ in 0..rounds {
        for acc in &mut acc {
            *acc = _mm512_fmadd_ps(*acc, w, x);
        }
    }
    black_box(acc);
}
