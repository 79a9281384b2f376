//! Q8: the activation format. Every quantized weight format is multiplied with it, so that a layer's input is
//! quantized once, whatever mix of formats the layer's matrices have.
//!
//! ```text
//! x[i] ~ d * t[i],   t[i] = q[i] + z       t: integers, 255 neighbouring values that include 0
//!
//! q    [i8;  n]      -127..=127
//! z    [i8;  n/32]   zero point of each 32 values, -127..=127
//! d    [f32; n/32]   scale of each 32 values
//! sum  [i16; n/16]   sum of each 16 values of t   (for formats with an offset or a minimum)
//! ```
//!
//! Why a zero point: the activations of language models have a few channels that are many times larger than their
//! neighbours. Around such a value a symmetric scale spends half of its range on values that do not occur. On
//! SmolLM2-135M (three licence texts, 377 to 480 tokens) the zero point cuts the KL divergence from exact activations
//! to 0.39 to 0.44 times that of symmetric 32-value blocks, the format that other engines use; halving the block
//! instead gives 0.54 to 0.57 times.

use super::float::{MAGIC, round};

/// Activations that share a scale and a zero point.
pub const BLOCK: usize = 32;

/// Activations that share an entry of `sum`.
pub const SUM_BLOCK: usize = 16;

/// Steps between the smallest and the largest value of a block.
pub(crate) const STEPS: f32 = 254.0;

/// One row of quantized activations; see the module's documentation for its arrays.
#[derive(Debug, Clone, Copy, Default)]
pub struct Q8Row<'a> {
    /// Values without their zero point, `n` of them.
    pub q: &'a [i8],
    /// Zero points, one for [`BLOCK`] values.
    pub z: &'a [i8],
    /// Scales, one for [`BLOCK`] values.
    pub d: &'a [f32],
    /// Sums of `t`, one for [`SUM_BLOCK`] values.
    pub sum: &'a [i16],
}

impl Q8Row<'_> {
    /// Number of values.
    pub fn len(&self) -> usize {
        self.q.len()
    }

    /// Whether the row has no values.
    pub fn is_empty(&self) -> bool {
        self.q.is_empty()
    }

    /// The integer `t[i] = q[i] + z` that stands for value `i`.
    #[inline(always)]
    pub fn t(&self, i: usize) -> i32 {
        i32::from(self.q[i]) + i32::from(self.z[i / BLOCK])
    }

    /// The sum of `t[at..at + n]`; both are multiples of [`SUM_BLOCK`].
    #[inline(always)]
    pub fn sum_of(&self, at: usize, n: usize) -> i32 {
        self.sum[at / SUM_BLOCK..(at + n) / SUM_BLOCK].iter().map(|&sum| i32::from(sum)).sum()
    }

    #[inline(always)]
    pub(super) fn assert_lengths(&self) {
        let n = self.q.len();
        assert!(n.is_multiple_of(BLOCK), "a row of Q8 activations is made of whole blocks");
        assert!(self.z.len() == n / BLOCK && self.d.len() == n / BLOCK && self.sum.len() == n / SUM_BLOCK);
    }
}

/// The activations that a row stands for, into out (n).
pub fn dequantize(x: Q8Row<'_>, out: &mut [f32]) {
    assert_eq!(x.len(), out.len(), "the output must hold exactly the row");
    for (i, out) in out.iter_mut().enumerate() {
        *out = x.d[i / BLOCK] * x.t(i) as f32;
    }
}

/// Rows of quantized activations of one length: the columns of a matrix product.
#[derive(Debug, Clone, Copy)]
pub struct Q8Mat<'a> {
    /// Values in a row, a multiple of [`BLOCK`].
    pub row_len: usize,
    /// All rows, one after the other.
    pub all: Q8Row<'a>,
}

impl<'a> Q8Mat<'a> {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.all.len() / self.row_len
    }

    /// Row `i`.
    #[inline]
    pub fn row(&self, i: usize) -> Q8Row<'a> {
        let part = |unit: usize| i * self.row_len / unit..(i + 1) * self.row_len / unit;
        Q8Row {
            q: &self.all.q[part(1)],
            z: &self.all.z[part(BLOCK)],
            d: &self.all.d[part(BLOCK)],
            sum: &self.all.sum[part(SUM_BLOCK)],
        }
    }
}

/// Room for rows of quantized activations.
#[derive(Debug, Clone, Default)]
pub struct Q8Buf {
    q: Vec<i8>,
    z: Vec<i8>,
    d: Vec<f32>,
    sum: Vec<i16>,
}

impl Q8Buf {
    /// Room for `n` values, a multiple of [`BLOCK`].
    pub fn new(n: usize) -> Q8Buf {
        Q8Buf { q: vec![0; n], z: vec![0; n / BLOCK], d: vec![0.0; n / BLOCK], sum: vec![0; n / SUM_BLOCK] }
    }

    /// Values that there is room for.
    pub fn len(&self) -> usize {
        self.q.len()
    }

    /// Whether there is no room.
    pub fn is_empty(&self) -> bool {
        self.q.is_empty()
    }

    /// The first `n` values, to be written: q, z, d and sum.
    pub fn parts(&mut self, n: usize) -> (&mut [i8], &mut [i8], &mut [f32], &mut [i16]) {
        let (z, d) = (&mut self.z[..n / BLOCK], &mut self.d[..n / BLOCK]);
        (&mut self.q[..n], z, d, &mut self.sum[..n / SUM_BLOCK])
    }

    /// The first `n` values.
    pub fn row(&self, n: usize) -> Q8Row<'_> {
        let (z, d) = (&self.z[..n / BLOCK], &self.d[..n / BLOCK]);
        Q8Row { q: &self.q[..n], z, d, sum: &self.sum[..n / SUM_BLOCK] }
    }
}

/// Quantizes a row. A block that holds a NaN or an infinity gets a NaN scale, so that it cannot go unnoticed.
#[inline(always)] // into each ISA's version
pub fn quantize(x: &[f32], q: &mut [i8], z: &mut [i8], d: &mut [f32], sum: &mut [i16]) {
    assert!(x.len().is_multiple_of(BLOCK) && q.len() == x.len());
    let n = x.len() / BLOCK;
    assert!(z.len() == n && d.len() == n && sum.len() == x.len() / SUM_BLOCK);
    let blocks = x.as_chunks::<BLOCK>().0.iter().zip(q.as_chunks_mut::<BLOCK>().0);
    let sums = sum.as_chunks_mut::<{ BLOCK / SUM_BLOCK }>().0;
    for (((x, q), (z, d)), sum) in blocks.zip(z.iter_mut().zip(d)).zip(sums) {
        (*z, *d) = quantize_block(x, q);
        for (sum, q) in sum.iter_mut().zip(q.as_chunks::<SUM_BLOCK>().0) {
            *sum = q.iter().map(|&q| i16::from(q) + i16::from(*z)).sum();
        }
    }
}

/// Quantizes one block; returns its zero point and scale.
#[inline(always)]
fn quantize_block(x: &[f32; BLOCK], q: &mut [i8; BLOCK]) -> (i8, f32) {
    *q = [0; BLOCK];
    let (mut lo, mut hi, mut finite) = ([0.0f32; 16], [0.0f32; 16], [true; 16]);
    for x in x.as_chunks::<16>().0 {
        for i in 0..16 {
            lo[i] = if x[i] < lo[i] { x[i] } else { lo[i] };
            hi[i] = if x[i] > hi[i] { x[i] } else { hi[i] };
            finite[i] &= x[i].is_finite();
        }
    }
    if finite.contains(&false) {
        return (0, f32::NAN);
    }
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            lo[i] = if lo[i + half] < lo[i] { lo[i + half] } else { lo[i] };
            hi[i] = if hi[i + half] > hi[i] { hi[i + half] } else { hi[i] };
        }
    }
    let (lo, hi) = (lo[0], hi[0]);
    let d = (hi - lo) / STEPS;
    if d < f32::MIN_POSITIVE {
        return (0, 0.0); // a smaller scale has no inverse
    }
    let inverse = 1.0 / d;
    let z = round(lo * inverse) + STEPS / 2.0;
    for (q, x) in q.iter_mut().zip(x) {
        let steps = round(x * inverse) - z;
        // rounding at both ends can make the range one step too wide
        let steps = if steps < STEPS / 2.0 { steps } else { STEPS / 2.0 };
        *q = (steps + MAGIC).to_bits() as i8;
    }
    (z as i8, d)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::tests::{Random, quantized};

    #[test]
    fn the_error_is_at_most_half_a_step() {
        let mut random = Random::new(1);
        for shift in [-3.0f32, -0.2, 0.0, 0.4, 5.0] {
            let x: Vec<f32> =
                (0..64 * BLOCK).map(|i| (random.normal() + shift) * 2f32.powi(i as i32 / 64 - 16)).collect();
            let buf = quantized(&x);
            let row = buf.row(x.len());
            let mut back = vec![0.0; x.len()];
            dequantize(row, &mut back);
            for (i, (x, y)) in x.iter().zip(back).enumerate() {
                let error = (f64::from(*x) - f64::from(y)).abs();
                // half a step, and the roundings of 1 / d and x / d
                assert!(error <= f64::from(row.d[i / BLOCK]) * (0.5 + 1e-4), "{i}: {x} became {y}");
            }
            for (i, &s) in row.sum.iter().enumerate() {
                let t: i32 = (i * SUM_BLOCK..(i + 1) * SUM_BLOCK).map(|i| row.t(i)).sum();
                assert_eq!(i32::from(s), t, "sum {i}");
            }
            assert_eq!(row.sum_of(64, 96), (64..160).map(|i| row.t(i)).sum::<i32>());
        }
    }

    #[test]
    fn all_steps_are_used_whatever_the_sign() {
        for (lo, hi, z) in [(-127.0, 127.0, 0), (0.0, 254.0, 127), (-254.0, 0.0, -127), (-54.0, 200.0, 73)] {
            let mut x = [0.0; BLOCK];
            x[..6].copy_from_slice(&[lo, hi, 0.5, -0.5, lo / 2.0, hi / 2.0]);
            x[2..4].iter_mut().for_each(|x| *x = f32::clamp(*x, lo, hi));
            let buf = quantized(&x);
            let row = buf.row(BLOCK);
            assert_eq!((row.z[0], row.d[0]), (z, 1.0));
            for (i, x) in x.iter().enumerate() {
                assert_eq!(row.t(i), x.round_ties_even() as i32, "{x} of {lo}..{hi}");
            }
        }
    }

    #[test]
    fn zero_is_exact() {
        let mut x = [0.0; BLOCK];
        (x[3], x[9]) = (7.5, -0.3);
        let buf = quantized(&x);
        assert!((0..BLOCK).filter(|i| ![3, 9].contains(i)).all(|i| buf.row(BLOCK).t(i) == 0));
    }

    #[test]
    fn zeros_and_subnormals_have_scale_zero() {
        for x in [[0.0; BLOCK], [-0.0; BLOCK], [1e-40; BLOCK], [-f32::MIN_POSITIVE; BLOCK]] {
            let buf = quantized(&x);
            assert_eq!((buf.q, buf.z, buf.d, buf.sum), (vec![0; BLOCK], vec![0], vec![0.0], vec![0; 2]));
        }
    }

    #[test]
    fn what_is_not_finite_poisons_its_block_alone() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; 3 * BLOCK];
            x[2 * BLOCK - 1] = bad;
            let buf = quantized(&x);
            assert!(buf.d[0].is_finite() && buf.d[1].is_nan() && buf.d[2].is_finite());
        }
    }
}
