//! Q8: the activation format. Every quantized weight format is multiplied with it, so that a layer's input is
//! quantized once, whatever mix of formats the layer's matrices have.
//!
//! A row of n activations (n a multiple of 32) is three arrays:
//!
//! ```text
//! q    [i8;  n]      values, -127..=127
//! d    [f32; n/32]   scale of each 32 values:       x[i] ~ d[i / 32] * q[i]
//! sum  [i16; n/16]   sum of each 16 values of q     (for formats with an offset or a minimum)
//! ```

use super::float::round;

/// Activations that share a scale: a multiple of [`SUM`].
pub const BLOCK: usize = 32;

/// Activations that share a sum: the smallest group of weights that any format gives an offset.
pub const SUM: usize = 16;

/// One row of quantized activations.
#[derive(Debug, Clone, Copy)]
pub struct Q8Row<'a> {
    /// Values, `n` of them.
    pub q: &'a [i8],
    /// Scales, one for [`BLOCK`] values.
    pub d: &'a [f32],
    /// Sums of `q`, one for [`SUM`] values.
    pub sum: &'a [i16],
}

impl Q8Row<'_> {
    /// The sum of `q[at..at + n]`; both are multiples of [`SUM`].
    #[inline(always)]
    pub fn sum_of(&self, at: usize, n: usize) -> i32 {
        self.sum[at / SUM..(at + n) / SUM].iter().map(|&sum| i32::from(sum)).sum()
    }

    #[inline(always)]
    pub(super) fn assert_lengths(&self) {
        assert_lengths(self.q.len(), self.d.len(), self.sum.len());
    }
}

#[inline(always)]
fn assert_lengths(n: usize, d: usize, sum: usize) {
    assert!(n.is_multiple_of(BLOCK), "a row of Q8 activations is made of whole blocks");
    assert!(d == n / BLOCK && sum == n / SUM, "scales and sums must be as many as the row's blocks");
}

/// Quantizes x (n) into q (n), d (n / [`BLOCK`]) and sum (n / [`SUM`]).
///
/// In each block d = max |x| / 127 and q = x / d, rounded to the nearest, ties to even. A NaN or an infinity makes
/// the scale of its block NaN, so that it reaches the results instead of being hidden.
pub fn quantize(x: &[f32], q: &mut [i8], d: &mut [f32], sum: &mut [i16]) {
    assert_eq!(x.len(), q.len(), "as many quantized values as activations");
    assert_lengths(q.len(), d.len(), sum.len());
    let (x, _) = x.as_chunks::<BLOCK>();
    let (q, _) = q.as_chunks_mut::<BLOCK>();
    for ((x, q), d) in x.iter().zip(&mut *q).zip(d) {
        (*q, *d) = quantize_block(x);
    }
    for (q, sum) in q.as_flattened().chunks_exact(SUM).zip(sum) {
        *sum = q.iter().map(|&q| i16::from(q)).sum();
    }
}

fn quantize_block(x: &[f32; BLOCK]) -> ([i8; BLOCK], f32) {
    if x.iter().any(|x| !x.is_finite()) {
        return ([0; BLOCK], f32::NAN);
    }
    let d = x.iter().fold(0.0, |max: f32, x| max.max(x.abs())) / 127.0;
    if d == 0.0 {
        return ([0; BLOCK], 0.0);
    }
    // A subnormal d is so coarse that x / d may pass 127.
    (x.map(|x| round((x / d).clamp(-127.0, 127.0)) as i8), d)
}

/// The activations that a row stands for, into out (n).
pub fn dequantize(x: Q8Row<'_>, out: &mut [f32]) {
    assert_eq!(x.q.len(), out.len(), "the output must hold exactly the row");
    x.assert_lengths();
    for (i, (q, out)) in x.q.iter().zip(out).enumerate() {
        *out = x.d[i / BLOCK] * f32::from(*q);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::tests::{Activations, Random};

    #[test]
    fn values_are_the_nearest_multiples_of_the_scale() {
        let mut random = Random::new(1);
        let x: Vec<f32> = (0..64 * BLOCK).map(|i| random.normal() * 2f32.powi(i as i32 / 64 - 16)).collect();
        let row = Activations::quantize(&x);
        for (b, x) in x.chunks_exact(BLOCK).enumerate() {
            let peak = x.iter().fold(0.0, |max: f32, x| max.max(x.abs()));
            assert_eq!(row.d[b], peak / 127.0);
            let q = &row.q[b * BLOCK..][..BLOCK];
            assert_eq!(q.iter().map(|q| q.unsigned_abs()).max(), Some(127));
            for (x, q) in x.iter().zip(q) {
                let err = (f64::from(*x) - f64::from(row.d[b]) * f64::from(*q)).abs();
                // half a step, and the rounding of x / d
                assert!(err <= f64::from(row.d[b]) * (0.5 + 1e-5), "{x} became {q} * {}", row.d[b]);
            }
        }
    }

    #[test]
    fn ties_go_to_even() {
        let mut x = [0.0; BLOCK];
        x[..8].copy_from_slice(&[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 3.5]);
        let row = Activations::quantize(&x);
        assert_eq!(row.d, [1.0; 32 / BLOCK]);
        assert_eq!(row.q[..8], [127, 0, 2, 2, 0, -2, -2, 4]);
    }

    #[test]
    fn sums_are_those_of_the_values() {
        let mut random = Random::new(2);
        let x: Vec<f32> = (0..256).map(|_| random.normal()).collect();
        let row = Activations::quantize(&x);
        for (q, sum) in row.q.chunks_exact(SUM).zip(&row.sum) {
            assert_eq!(q.iter().map(|&q| i32::from(q)).sum::<i32>(), i32::from(*sum));
        }
        let all: i32 = row.q.iter().map(|&q| i32::from(q)).sum();
        assert_eq!(row.row().sum_of(0, 256), all);
    }

    #[test]
    fn representable_rows_come_back_exactly() {
        let mut random = Random::new(3);
        let mut x: Vec<f32> = (0..256).map(|_| random.below(255) as f32 - 127.0).collect();
        x.chunks_exact_mut(BLOCK).enumerate().for_each(|(b, x)| {
            x[b] = -127.0;
            x.iter_mut().for_each(|x| *x *= 2f32.powi(b as i32 - 4));
        });
        let mut back = vec![0.0; x.len()];
        dequantize(Activations::quantize(&x).row(), &mut back);
        assert_eq!(back, x);
    }

    #[test]
    fn what_is_not_finite_poisons_its_block_alone() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            let mut x = [1.0; 3 * BLOCK];
            x[2 * BLOCK - 1] = bad;
            let row = Activations::quantize(&x);
            assert_eq!(row.d[0], 1.0 / 127.0);
            assert!(row.d[1].is_nan(), "{bad} gave the scale {}", row.d[1]);
            assert_eq!(row.d[2], 1.0 / 127.0);
        }
    }

    #[test]
    fn zeros_and_subnormals_stay_in_range() {
        let tiny = f32::from_bits(1);
        for peak in [0.0, tiny, 63.0 * tiny, 64.0 * tiny, 190.0 * tiny, f32::MIN_POSITIVE, f32::MAX / 2.0] {
            let mut x = [0.0; BLOCK];
            (x[0], x[1]) = (peak, -peak);
            let row = Activations::quantize(&x);
            assert!(
                row.d[0].is_finite() && row.q[0] == -row.q[1],
                "{peak:e}: {} {:?}",
                row.d[0],
                &row.q[..2]
            );
            assert!(row.q[2..].iter().all(|&q| q == 0));
            let back = row.d[0] * f32::from(row.q[0]);
            assert!((back - peak).abs() <= 64.0 * tiny + peak * 1e-6, "{peak:e} came back as {back:e}");
        }
    }
}
