//! The quantizer of the formats for which no reference had to be met: a weighted least-squares search, braise's own.
//!
//! For given codes q the best scale is a division of sums, s = sum(w x q) / sum(w q q), and so is the best pair of
//! scale and minimum; only the codes must be searched. So:
//!
//! ```text
//! for some step sizes around the one that maps the extreme weight to the extreme code
//!     q = the nearest codes at this step size
//!     s = the least-squares scale for q
//! keep the s that leaves the least weighted error
//! ```
//!
//! The scales of the groups of a superblock are then numbers to be quantized themselves, by the same search. At last
//! each weight takes the nearest code under the scale that will really be read, after all its rounding.
//!
//! Errors are weighted by rms(x) + |x|: the large weights of a row matter more to its products than the small. Sums
//! are f64, so that weights which the format can hold exactly come out exactly.

use super::block::{f16, to_f16};
use super::float::round;

/// A set of codes that a scale is searched for.
pub(super) trait Codes {
    /// Codes that the number of largest magnitude may be mapped to.
    const ENDS: &[f32];
    /// How far beside an end the search goes: about the distance to the next code.
    const REACH: f32;
    /// The code nearest to `x`.
    fn nearest(x: f32) -> f32;
}

/// The whole numbers `LO..=HI`.
pub(super) struct Int<const LO: i16, const HI: i16>;

impl<const LO: i16, const HI: i16> Codes for Int<LO, HI> {
    const ENDS: &[f32] = &[if -LO > HI { LO as f32 } else { HI as f32 }];
    const REACH: f32 = 1.0;

    #[inline(always)]
    fn nearest(x: f32) -> f32 {
        round(x.clamp(LO.into(), HI.into()))
    }
}

/// Step sizes tried to each side of the first.
const STEPS: i32 = 8;

/// The number of largest magnitude, the first of several.
pub(super) fn peak(x: &[f32]) -> f32 {
    x.iter().fold(0.0, |peak: f32, &x| if x.abs() > peak.abs() { x } else { peak })
}

/// The least and the greatest number.
pub(super) fn bounds(x: &[f32]) -> (f32, f32) {
    x.iter().fold((f32::INFINITY, f32::NEG_INFINITY), |(min, max), &x| (min.min(x), max.max(x)))
}

/// How much the error of each number counts.
pub(super) fn importance<const N: usize>(x: &[f32; N]) -> [f32; N] {
    let rms = (x.iter().map(|x| x * x).sum::<f32>() / N as f32).sqrt();
    x.map(|x| rms + x.abs())
}

/// The scale s for which s * code comes nearest to x, each error weighted by w.
pub(super) fn fit_scale<C: Codes>(x: &[f32], w: &[f32]) -> f32 {
    let peak = peak(x);
    let (mut best, mut scale) = (0.0, 0.0);
    for end in C::ENDS {
        for step in -STEPS..=STEPS {
            let inverse = (end + C::REACH * step as f32 / STEPS as f32) / peak;
            let (mut xq, mut qq) = (0.0, 0.0);
            for (&x, &w) in x.iter().zip(w) {
                let q = C::nearest(x * inverse);
                let wq = f64::from(w * q);
                xq += wq * f64::from(x);
                qq += wq * f64::from(q);
            }
            // The weighted error at the best scale is sum(w x x) less this. (No comparison holds for 0 / 0.)
            let explained = xq * xq / qq;
            if explained > best {
                (best, scale) = (explained, (xq / qq) as f32);
            }
        }
    }
    scale
}

/// The scale s and the minimum m, neither negative, for which s * code - m comes nearest to x, with codes `0..=TOP`.
fn fit_affine<const TOP: i16>(x: &[f32], w: &[f32]) -> (f32, f32) {
    let (min, max) = bounds(x);
    let min = min.min(0.0);
    if max <= min {
        return (0.0, -min); // all weights alike, zero or negative
    }
    let (mut sw, mut sx) = (0.0, 0.0);
    for (&x, &w) in x.iter().zip(w) {
        sw += f64::from(w);
        sx += f64::from(w) * f64::from(x);
    }
    let (mut best, mut fit) = (0.0, (0.0, 0.0));
    for step in -STEPS..=STEPS {
        let inverse = (f32::from(TOP) + step as f32 / STEPS as f32) / (max - min);
        let (mut sq, mut sqq, mut sxq) = (0.0, 0.0, 0.0);
        for (&x, &w) in x.iter().zip(w) {
            let q = Int::<0, TOP>::nearest((x - min) * inverse);
            let wq = f64::from(w * q);
            sq += wq;
            sqq += wq * f64::from(q);
            sxq += wq * f64::from(x);
        }
        let det = sw * sqq - sq * sq;
        let (mut s, mut m) = ((sw * sxq - sx * sq) / det, (sq * sxq - sqq * sx) / det);
        // Equal codes (det = 0, but for rounding) leave the pair open, and a minimum must not be negative.
        if det <= 1e-9 * sw * sqq || m < 0.0 {
            (s, m) = (sxq / sqq, 0.0);
        }
        // As in `fit_scale`: the weighted error is sum(w x x) less this.
        let explained = s * sxq - m * sx;
        if explained > best && s > 0.0 {
            (best, fit) = (explained, (s as f32, m as f32));
        }
    }
    fit
}

/// A superblock of a symmetric format: weight = d * scale[g] * code.
pub(super) struct Symmetric<const N: usize, const G: usize> {
    pub d: [u8; 2],
    pub scales: [i8; G],
    pub codes: [i8; N],
}

/// Quantizes a superblock with codes `C` and scales `S`.
pub(super) fn symmetric<C: Codes, S: Codes, const N: usize, const G: usize>(x: &[f32; N]) -> Symmetric<N, G> {
    let w = importance(x);
    let n = N / G;
    let scales: [f32; G] =
        std::array::from_fn(|g| fit_scale::<C>(&x[g * n..(g + 1) * n], &w[g * n..(g + 1) * n]));
    let (d, scales) = quantize_scales::<S, G>(&scales, &group_sums(&w));
    let codes = std::array::from_fn(|i| {
        let scale = f16(d) * scales[i / n];
        if scale == 0.0 { 0 } else { C::nearest(x[i] / scale) as i8 }
    });
    Symmetric { d, scales: scales.map(|scale| scale as i8), codes }
}

/// A superblock of a format with minimums: weight = d * scale[g] * code - dmin * min[g].
pub(super) struct Affine<const N: usize, const G: usize> {
    pub d: [u8; 2],
    pub dmin: [u8; 2],
    pub scales: [u8; G],
    pub mins: [u8; G],
    pub codes: [u8; N],
}

/// Quantizes a superblock with codes `0..=TOP`, scales and minimums `0..=SCALE_TOP`.
pub(super) fn affine<const TOP: i16, const SCALE_TOP: i16, const N: usize, const G: usize>(
    x: &[f32; N],
) -> Affine<N, G> {
    let w = importance(x);
    let n = N / G;
    let fits: [(f32, f32); G] =
        std::array::from_fn(|g| fit_affine::<TOP>(&x[g * n..(g + 1) * n], &w[g * n..(g + 1) * n]));
    let sums = group_sums(&w);
    let (d, scales) = quantize_scales::<Int<0, SCALE_TOP>, G>(&fits.map(|(scale, _)| scale), &sums);
    let (dmin, mins) = quantize_scales::<Int<0, SCALE_TOP>, G>(&fits.map(|(_, min)| min), &sums);
    let codes = std::array::from_fn(|i| {
        let (scale, min) = (f16(d) * scales[i / n], f16(dmin) * mins[i / n]);
        if scale == 0.0 { 0 } else { Int::<0, TOP>::nearest((x[i] + min) / scale) as u8 }
    });
    Affine { d, dmin, scales: scales.map(|scale| scale as u8), mins: mins.map(|min| min as u8), codes }
}

/// The sum of each group's importances: an error of a group's scale counts for all its weights.
pub(super) fn group_sums<const N: usize, const G: usize>(w: &[f32; N]) -> [f32; G] {
    std::array::from_fn(|g| w[g * N / G..(g + 1) * N / G].iter().sum())
}

/// Quantizes the scales of a superblock's groups: d, and the codes that d is multiplied with.
fn quantize_scales<C: Codes, const G: usize>(scales: &[f32; G], w: &[f32; G]) -> ([u8; 2], [f32; G]) {
    let d = to_f16(fit_scale::<C>(scales, w));
    let unit = f16(d);
    (d, scales.map(|scale| if unit == 0.0 { 0.0 } else { C::nearest(scale / unit) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minimums_are_not_negative() {
        let above: [f32; 32] = std::array::from_fn(|i| 5.0 + i as f32 / 32.0);
        let (scale, min) = fit_affine::<15>(&above, &importance(&above));
        assert_eq!(min, 0.0, "there is no code for a negative minimum");
        assert!((5.0 / 15.0..6.0 / 13.0).contains(&scale), "{scale}");

        let below = above.map(|x| -x);
        let (scale, min) = fit_affine::<15>(&below, &importance(&below));
        assert!((5.0..7.0).contains(&min) && scale > 0.0, "{scale} {min}");
    }

    #[test]
    fn equal_weights_come_back() {
        for x in [0.0, 0.75, -0.75] {
            let (scale, min) = fit_affine::<15>(&[x; 32], &[1.0; 32]);
            let code = if scale == 0.0 { 0.0 } else { round((x + min) / scale) };
            assert!((scale * code - min - x).abs() <= 1e-6 && min >= 0.0, "{x}: {scale} {min}");
        }
    }
}
