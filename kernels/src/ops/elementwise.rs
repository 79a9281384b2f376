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

/// `y = (x - mean(x)) / sqrt(var(x) + eps) * weight + bias` (Ba et al. 2016, arXiv 1607.06450). An empty bias is none.
#[inline(always)]
pub fn layer_norm<L: Lanes>(x: &[f32], weight: &[f32], bias: &[f32], eps: f32, y: &mut [f32]) {
    assert!(x.len() == weight.len() && x.len() == y.len());
    assert!(bias.is_empty() || bias.len() == x.len());
    let (chunks, rest) = x.as_chunks::<16>();
    let mut sums = [0.0; 16];
    for x in chunks {
        for (s, x) in sums.iter_mut().zip(x) {
            *s += x;
        }
    }
    let mean = (reduce(sums) + rest.iter().sum::<f32>()) / x.len() as f32;
    let mut squares = [0.0; 16];
    for x in chunks {
        for (s, x) in squares.iter_mut().zip(x) {
            *s = L::mul_add(x - mean, x - mean, *s);
        }
    }
    let square = reduce(squares) + rest.iter().map(|x| (x - mean) * (x - mean)).sum::<f32>();
    let scale = 1.0 / (square / x.len() as f32 + eps).sqrt();
    for ((y, x), w) in y.iter_mut().zip(x).zip(weight) {
        *y = (x - mean) * scale * w;
    }
    for (y, b) in y.iter_mut().zip(bias) {
        *y += b;
    }
}

/// What a feed-forward network does to each value between its matrices.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Activation {
    /// `x / (1 + e^-x)`.
    Silu,
    /// `x / 2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))` (Hendrycks and Gimpel 2016, arXiv 1606.08415).
    Gelu,
    /// `max(x, 0)`.
    Relu,
    /// `max(x, 0)^2` (So et al. 2021, arXiv 2109.08668).
    ReluSquared,
    /// `x / (1 + e^(-1.702 x))` with x at most 7; what it gates is kept within 7 of 0, and 1 is added (gpt-oss).
    Clamped,
    /// See [`Xielu`].
    Xielu(Xielu),
}

/// The numbers of an activation that grows as a square (Huang and Schlag 2024, arXiv 2411.13010):
/// `positive x^2 + linear x` where x is positive, else `negative (e^min(x, eps) - 1 - x) + linear x`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Xielu {
    /// Factor on the right.
    pub positive: f32,
    /// Factor on the left.
    pub negative: f32,
    /// Slope at 0.
    pub linear: f32,
    /// Where exponents end.
    pub eps: f32,
}

/// The largest number that [`Activation::Clamped`] lets through.
const LIMIT: f32 = 7.0;

/// `x / (1 + e^-(steepness x))`.
#[inline(always)]
fn swish<L: Lanes>(x: f32, steepness: f32) -> f32 {
    x / (1.0 + exp::<L>(-steepness * x))
}

#[inline(always)]
fn gelu<L: Lanes>(x: f32) -> f32 {
    const SQRT_2_OVER_PI: f32 = 0.797_884_6;
    // (1 + tanh z) / 2 = 1 / (1 + e^-2z)
    swish::<L>(x, 2.0 * SQRT_2_OVER_PI * L::mul_add(0.044_715 * x, x, 1.0))
}

#[inline(always)]
fn xielu<L: Lanes>(x: f32, xielu: Xielu) -> f32 {
    let Xielu { positive, negative, linear, eps } = xielu;
    let right = positive * x * x;
    let left = negative * (exp::<L>(at_most(x, eps)) - 1.0 - x);
    L::mul_add(linear, x, if x > 0.0 { right } else { left })
}

/// Numbers below the limit, and NaN.
#[inline(always)]
fn at_most(x: f32, limit: f32) -> f32 {
    if x > limit { limit } else { x }
}

/// `x = activation(x)`.
#[inline(always)]
pub fn activate<L: Lanes>(activation: Activation, x: &mut [f32]) {
    #[inline(always)]
    fn each(x: &mut [f32], f: impl Fn(f32) -> f32) {
        x.iter_mut().for_each(|x| *x = f(*x));
    }
    let relu = |x: f32| if x < 0.0 { 0.0 } else { x };
    match activation {
        Activation::Silu => each(x, |x| swish::<L>(x, 1.0)),
        Activation::Gelu => each(x, gelu::<L>),
        Activation::Relu => each(x, relu),
        Activation::ReluSquared => each(x, |x| relu(x) * relu(x)),
        Activation::Clamped => each(x, |x| swish::<L>(at_most(x, LIMIT), 1.702)),
        Activation::Xielu(numbers) => each(x, |x| xielu::<L>(x, numbers)),
    }
}

/// `y = activation(gate) * up` (Shazeer 2020, arXiv 2002.05202); of [`Activation::Clamped`] times the clamped `up`
/// plus 1.
#[inline(always)]
pub fn gated<L: Lanes>(activation: Activation, gate: &[f32], up: &[f32], y: &mut [f32]) {
    assert!(gate.len() == y.len() && up.len() == y.len());
    if activation == Activation::Silu {
        for ((y, g), u) in y.iter_mut().zip(gate).zip(up) {
            *y = swish::<L>(*g, 1.0) * u;
        }
        return;
    }
    y.copy_from_slice(gate);
    activate::<L>(activation, y);
    if activation == Activation::Clamped {
        for (y, u) in y.iter_mut().zip(up) {
            *y *= -at_most(-at_most(*u, LIMIT), LIMIT) + 1.0;
        }
    } else {
        for (y, u) in y.iter_mut().zip(up) {
            *y *= u;
        }
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
