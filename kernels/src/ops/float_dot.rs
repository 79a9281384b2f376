//! Dot products of float weights with float activations.

use super::Lanes;
use half::{bf16, f16};

/// Independent partial sums: enough to hide the latency of an addition in vectors of sixteen.
const SUMS: usize = 64;

#[inline(always)]
fn dot<L: Lanes, T: Copy>(
    w: &[T],
    x: &[f32],
    widen: impl Fn(&[T; 16]) -> [f32; 16],
    widen_one: impl Fn(T) -> f32,
) -> f32 {
    assert!(w.len() == x.len());
    let mut sums = [0.0; SUMS];
    let (w_chunks, w_rest) = w.as_chunks::<16>();
    let (x_chunks, x_rest) = x.as_chunks::<16>();
    let (w_groups, w_last) = w_chunks.as_chunks::<{ SUMS / 16 }>();
    let (x_groups, x_last) = x_chunks.as_chunks::<{ SUMS / 16 }>();
    for (w, x) in w_groups.iter().zip(x_groups) {
        for ((sums, w), x) in sums.as_chunks_mut::<16>().0.iter_mut().zip(w).zip(x) {
            for ((s, w), x) in sums.iter_mut().zip(widen(w)).zip(x) {
                *s = L::mul_add(w, *x, *s);
            }
        }
    }
    for (w, x) in w_last.iter().zip(x_last) {
        for ((s, w), x) in sums.iter_mut().zip(widen(w)).zip(x) {
            *s = L::mul_add(w, *x, *s);
        }
    }
    for ((s, w), x) in sums.iter_mut().zip(w_rest).zip(x_rest) {
        *s = L::mul_add(widen_one(*w), *x, *s);
    }
    let mut total = [0.0; 16];
    for part in sums.as_chunks::<16>().0 {
        for (t, p) in total.iter_mut().zip(part) {
            *t += p;
        }
    }
    super::reduce(total)
}

/// A row of F32 weights (little-endian bytes) times activations.
#[inline(always)]
pub fn dot_f32<L: Lanes>(w: &[u8], x: &[f32]) -> f32 {
    dot::<L, [u8; 4]>(w.as_chunks().0, x, |w| w.map(f32::from_le_bytes), f32::from_le_bytes)
}

/// A row of F16 weights times activations.
#[inline(always)]
pub fn dot_f16<L: Lanes>(w: &[u8], x: &[f32]) -> f32 {
    let one = |w| crate::quant::f16_to_f32(u16::from_le_bytes(w));
    dot::<L, [u8; 2]>(w.as_chunks().0, x, |w| L::widen(&w.map(f16::from_le_bytes)), one)
}

/// A row of BF16 weights times activations.
#[inline(always)]
pub fn dot_bf16<L: Lanes>(w: &[u8], x: &[f32]) -> f32 {
    let one = |w: [u8; 2]| bf16::from_le_bytes(w).to_f32();
    dot::<L, [u8; 2]>(
        w.as_chunks().0,
        x,
        |w| w.map(|w| f32::from_bits(u32::from(u16::from_le_bytes(w)) << 16)),
        one,
    )
}
