//! The codebooks of the IQ formats. Eight neighbouring weights (four in IQ3) are one of some hundred points, those which
//! are nearest to what occurs in models, and a block holds the place of each point. The points of IQ2 and IQ3 are
//! magnitudes, to which signs are added; those of IQ1 have signs of their own, and are shifted a little up or down.
//!
//! The points are ggml's (`ggml-common.h`); `codebooks/make.py` made the files here.

use super::block::{f16, to_f16};
use super::search::{Codes, fit_scale, group_sums, importance};

/// The points of IQ1_S and IQ1_M, eight times -1, 0 or 1.
pub static IQ1: [[i8; 8]; 2048] = points(include_bytes!("codebooks/iq1_s.bin"), &[-8, 0, 8]);
/// The points of IQ2_XXS.
pub static IQ2_XXS: [[i8; 8]; 256] = points(include_bytes!("codebooks/iq2_xxs.bin"), &IQ2_LEVELS);
/// The points of IQ2_XS.
pub static IQ2_XS: [[i8; 8]; 512] = points(include_bytes!("codebooks/iq2_xs.bin"), &IQ2_LEVELS);
/// The points of IQ2_S.
pub static IQ2_S: [[i8; 8]; 1024] = points(include_bytes!("codebooks/iq2_s.bin"), &IQ2_LEVELS);
/// The points of IQ3_XXS.
pub static IQ3_XXS: [[i8; 4]; 256] = points(include_bytes!("codebooks/iq3_xxs.bin"), &IQ3_XXS_LEVELS);
/// The points of IQ3_S.
pub static IQ3_S: [[i8; 4]; 512] = points(include_bytes!("codebooks/iq3_s.bin"), &IQ3_S_LEVELS);

const IQ2_LEVELS: [i8; 3] = [8, 25, 43];
const IQ3_XXS_LEVELS: [i8; 8] = [4, 12, 20, 28, 36, 44, 52, 62];
const IQ3_S_LEVELS: [i8; 8] = [1, 3, 5, 7, 9, 11, 13, 15];

/// Takes the 16 bits of each point apart: the lowest are the place of its first number among the levels.
const fn points<const K: usize, const N: usize>(packed: &[u8], levels: &[i8]) -> [[i8; K]; N] {
    assert!(packed.len() == 2 * N);
    let bits = 16 / K;
    let mut points = [[0; K]; N];
    let mut i = 0;
    while i < N {
        let packed = u16::from_le_bytes([packed[2 * i], packed[2 * i + 1]]) as usize;
        let mut k = 0;
        while k < K {
            points[i][k] = levels[packed >> (k * bits) & ((1 << bits) - 1)];
            k += 1;
        }
        i += 1;
    }
    points
}

/// The signs of eight weights, of which a block holds seven: the last one makes their number even.
#[inline(always)]
pub(super) fn even_signs(seven: u8) -> u8 {
    seven | (seven.count_ones() as u8 & 1) << 7
}

/// A point whose numbers are negative where a bit of `signs` is set, the lowest first.
#[inline(always)]
pub(super) fn signed<const K: usize>(point: &[i8; K], signs: u8) -> [i8; K] {
    std::array::from_fn(|k| if signs >> k & 1 == 1 { -point[k] } else { point[k] })
}

/// The codes of a superblock from those of each of its points.
#[inline(always)]
pub(super) fn codes<const K: usize>(point: impl Fn(usize) -> [i8; K]) -> [i8; 256] {
    let mut codes = [0; 256];
    for (i, codes) in codes.as_chunks_mut().0.iter_mut().enumerate() {
        *codes = point(i);
    }
    codes
}

// Quantizers: the scales are found as if every weight had its own choice of level, by the search of `search.rs`; then
// each point is the nearest one under the scale that will really be read.

/// Defines [`Codes`]: these levels and their negatives, of which neighbours lie at most so far apart.
macro_rules! levels {
    ($($(#[$doc:meta])* $name:ident: $levels:expr, $apart:literal;)*) => { $(
        $(#[$doc])*
        pub(super) struct $name;

        impl Codes for $name {
            const ENDS: &[f32] = &[$levels[$levels.len() - 1] as f32];
            const REACH: f32 = $apart;

            #[inline(always)]
            fn nearest(x: f32) -> f32 {
                let nearer = |best: f32, level: &i8| {
                    let level = f32::from(*level);
                    if (level - x.abs()).abs() < (best - x.abs()).abs() { level } else { best }
                };
                $levels.iter().fold(f32::INFINITY, nearer).copysign(x)
            }
        }
    )* };
}

levels! {
    /// What weights of IQ1 can be.
    Iq1Levels: [1_i8, 7, 9], 6.0;
    /// What weights of IQ2 can be.
    Iq2Levels: IQ2_LEVELS, 18.0;
    /// What weights of IQ3_XXS can be.
    Iq3XxsLevels: IQ3_XXS_LEVELS, 10.0;
    /// What weights of IQ3_S can be.
    Iq3SLevels: IQ3_S_LEVELS, 2.0;
    /// Scales of three bits.
    Odd3: [1_i8, 3, 5, 7, 9, 11, 13, 15], 2.0;
    /// Scales of four bits.
    Odd4: [1_i8, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31], 2.0;
}

/// The scales of a superblock's groups, each `d (2 s + 1)` times a unit of the format's.
pub(super) struct Scales<const G: usize> {
    pub d: [u8; 2],
    pub s: [u8; G],
    /// What they amount to.
    pub scales: [f32; G],
}

/// The scales for levels `L`, of which scales of `S` make units.
pub(super) fn find_scales<L: Codes, S: Codes, const G: usize>(
    x: &[f32; 256],
    w: &[f32; 256],
    unit: f32,
) -> Scales<G> {
    let n = 256 / G;
    // levels come with both signs, and so a scale needs none
    let fit = |g: usize| fit_scale::<L>(&x[g * n..(g + 1) * n], &w[g * n..(g + 1) * n]).abs() / unit;
    let fits: [f32; G] = std::array::from_fn(fit);
    let d = to_f16(fit_scale::<S>(&fits, &group_sums::<256, G>(w)));
    let nearest = |fit: f32| if f16(d) == 0.0 { 1.0 } else { S::nearest(fit / f16(d)) };
    let odd = fits.map(nearest);
    Scales { d, s: odd.map(|odd| odd as u8 / 2), scales: odd.map(|odd| f16(d) * unit * odd) }
}

/// The point nearest to `x`, in units of its scale, and the error that is left, weighted by `w`.
pub(super) fn nearest_point<const K: usize>(points: &[[i8; K]], x: [f32; K], w: &[f32]) -> (usize, f32) {
    let error = |point: &[i8; K]| {
        let mut sum = 0.0;
        for k in 0..K {
            let error = f32::from(point[k]) - x[k];
            sum += w[k] * error * error;
        }
        sum
    };
    let mut best = (0, f32::INFINITY);
    for (i, point) in points.iter().enumerate() {
        let error = error(point);
        if error < best.1 {
            best = (i, error);
        }
    }
    best
}

/// A superblock of a format of magnitudes and signs.
pub(super) struct Magnitudes<const G: usize> {
    pub scales: Scales<G>,
    /// The place of each point, the first `256 / K` of them.
    pub points: [usize; 64],
    /// Of each eight weights.
    pub signs: [u8; 32],
}

/// Quantizes a superblock with levels `L` and four bits of scale; `even`: whether the number of signs must be.
pub(super) fn quantize_magnitudes<L: Codes, const K: usize, const G: usize>(
    x: &[f32; 256],
    points: &[[i8; K]],
    unit: f32,
    even: bool,
) -> Magnitudes<G> {
    let w = importance(x);
    let scales = find_scales::<L, Odd4, G>(x, &w, unit);
    let mut found = Magnitudes { scales, points: [0; 64], signs: [0; 32] };
    for (i, signs) in found.signs.iter_mut().enumerate() {
        let at = 8 * i..8 * i + 8;
        let (x, w) = (&x[at.clone()], &w[at.clone()]);
        *signs = (0..8).fold(0, |signs, k| signs | u8::from(x[k] < 0.0) << k);
        if even && !signs.count_ones().is_multiple_of(2) {
            // the sign that costs least is the wrong one
            let cost = |k: usize| w[k] * x[k].abs();
            *signs ^= 1 << (1..8).fold(0, |best, k| if cost(k) < cost(best) { k } else { best });
        }
        let scale = found.scales.scales[at.start * G / 256];
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        for j in (0..8).step_by(K) {
            let sign = |k: usize| if *signs >> k & 1 == 1 { -1.0 } else { 1.0 };
            let x = std::array::from_fn(|k| x[j + k] * inverse * sign(j + k));
            found.points[(at.start + j) / K] = nearest_point(points, x, &w[j..j + K]).0;
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_differ_and_use_all_levels() {
        fn check<const K: usize>(points: &[[i8; K]], levels: &[i8]) {
            for (i, point) in points.iter().enumerate() {
                assert!(!points[..i].contains(point), "{point:?}");
            }
            let mut used = points.as_flattened().to_vec();
            used.sort_unstable();
            used.dedup();
            assert_eq!(used, levels);
        }
        check(&IQ1, &[-8, 0, 8]);
        check(&IQ2_XXS, &IQ2_LEVELS);
        check(&IQ2_XS, &IQ2_LEVELS);
        check(&IQ2_S, &IQ2_LEVELS);
        check(&IQ3_XXS, &IQ3_XXS_LEVELS);
        check(&IQ3_S, &IQ3_S_LEVELS);
    }

    #[test]
    fn signs_are_even_in_number() {
        for seven in 0..128 {
            let all = even_signs(seven);
            assert!(all & 0x7f == seven && all.count_ones().is_multiple_of(2), "{seven}");
        }
        assert_eq!(signed(&[1, 2, 3, 4], 0b1010), [1, -2, 3, -4]);
    }

    #[test]
    fn nearest_level_has_the_sign_of_the_number() {
        let cases = [(0.0, 8.0), (-16.0, -8.0), (16.7, 25.0), (-33.0, -25.0), (1e9, 43.0), (-1e9, -43.0)];
        for (x, level) in cases {
            assert_eq!(Iq2Levels::nearest(x), level, "{x}");
        }
    }
}
