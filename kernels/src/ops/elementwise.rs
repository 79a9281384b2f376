//! Normalization, activation, rotation and addition of vectors.

use super::{Lanes, exp, reduce};

/// `y = x / sqrt(mean(x^2) + eps) * weight` (Zhang and Sennrich 2019, arXiv 1910.07467).
#[inline(always)]
pub fn rms_norm<L: Lanes>(x: &[f32], weight: &[f32], eps: f32, y: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == y.len());
    let (chunks, rest) = x.as_chunks::<16>();
    let mut sums = [0.0; 16];
    for x in chunks {
        for (s, x) in sums.iter_mut().zip(x) {
            *s = L::mul_add(*x, *x, *s);
        }
    }
    let sum = reduce(sums) + rest.iter().map(|x| x * x).sum::<f32>();
    let scale = 1.0 / (sum / x.len() as f32 + eps).sqrt();
    for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
        *y = x * scale * w;
    }
}

/// `y = silu(gate) * up`, with `silu(g) = g / (1 + e^-g)` (Shazeer 2020, arXiv 2002.05202).
#[inline(always)]
pub fn swiglu<L: Lanes>(gate: &[f32], up: &[f32], y: &mut [f32]) {
    assert!(gate.len() == y.len() && up.len() == y.len());
    for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
        *y = g / (1.0 + exp::<L>(-g)) * u;
    }
}

/// `y += x`.
#[inline(always)]
pub fn add(x: &[f32], y: &mut [f32]) {
    assert!(x.len() == y.len());
    for (y, x) in y.iter_mut().zip(x) {
        *y += x;
    }
}

/// Rotates pairs of values of one head by the angles whose cosines and sines are given (Su et al. 2021,
/// arXiv 2104.09864). Pair i is values `(2i, 2i + 1)`, or `(i, i + n)` of the first `2n` values if `halves`;
/// n angles. Values after the first `2n` stay.
#[inline(always)]
pub fn rope(x: &mut [f32], cos: &[f32], sin: &[f32], halves: bool) {
    let n = cos.len();
    assert!(sin.len() == n && 2 * n <= x.len());
    if halves {
        let (a, b) = x[..2 * n].split_at_mut(n);
        for (((a, b), c), s) in a.iter_mut().zip(b).zip(cos).zip(sin) {
            (*a, *b) = (*a * c - *b * s, *a * s + *b * c);
        }
    } else {
        for (([a, b], c), s) in x.as_chunks_mut::<2>().0.iter_mut().zip(cos).zip(sin) {
            (*a, *b) = (*a * c - *b * s, *a * s + *b * c);
        }
    }
}
