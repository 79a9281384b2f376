//! Rotary position embedding: which values are rotated, and by which angle at which position.

use std::f32::consts::PI;

/// Which values of a head form the pairs that are rotated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pairs {
    /// Values (2i, 2i + 1): files of the `llama` family.
    Neighbours,
    /// Values (i, i + n_dims / 2): the layout of GPT-NeoX.
    Halves,
}

/// How angles are changed so that a model reads more tokens than it was trained on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scaling {
    /// All angles times `scale` (Chen et al. 2023, arXiv 2306.15595).
    Linear {
        /// Up to 1.
        scale: f32,
        /// A factor of cosines and sines, usually 1.
        attn_factor: f32,
    },
    /// Slow rotations times `scale`, fast ones as they are, and scores made sharper (YaRN: Peng et al. 2023,
    /// arXiv 2309.00071).
    Yarn {
        /// Below 1.
        scale: f32,
        /// Tokens that the model was trained on.
        n_ctx_orig: usize,
        /// Share of the correction that is applied, usually 1.
        ext_factor: f32,
        /// A further factor of cosines and sines, usually 1.
        attn_factor: f32,
        /// Rotations over `n_ctx_orig` from which on a dimension counts as fast, usually 32.
        beta_fast: f32,
        /// Rotations over `n_ctx_orig` up to which a dimension counts as slow, usually 1.
        beta_slow: f32,
    },
}

/// Rotary position embedding (Su et al. 2021, arXiv 2104.09864).
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Values of a head that are rotated, an even number; the rest stay.
    pub n_dims: usize,
    /// How these values are paired.
    pub pairs: Pairs,
    /// Pair i turns by `base^(-2i / n_dims)` a token.
    pub base: f32,
    /// For long contexts.
    pub scaling: Scaling,
    /// Divides the angle of each pair, if the file has such factors.
    pub factors: Option<Factors>,
}

/// Divisors of the angles, n_dims / 2 numbers each.
#[derive(Debug, Clone, PartialEq)]
pub struct Factors {
    /// In contexts of up to `n_ctx_orig` tokens.
    pub short: Vec<f32>,
    /// In longer ones (Ding et al. 2024, arXiv 2402.13753); the same where there is one kind alone (Llama 3.1).
    pub long: Vec<f32>,
    /// Tokens that the model was trained on.
    pub n_ctx_orig: usize,
}

impl Rope {
    /// Angle a token of each pair (radians, n_dims / 2 numbers) in a context of `n_ctx` tokens, and the factor of cosines
    /// and sines.
    pub fn frequencies(&self, n_ctx: usize) -> (Vec<f64>, f32) {
        let n = self.n_dims / 2;
        let factors = self.factors.as_ref().map(|f| if n_ctx > f.n_ctx_orig { &f.long } else { &f.short });
        let plain = |i: usize| {
            let factor = factors.map_or(1.0, |f| f64::from(f[i]));
            f64::from(self.base).powf(-2.0 * i as f64 / self.n_dims as f64) / factor
        };
        match self.scaling {
            Scaling::Linear { scale, attn_factor } => {
                ((0..n).map(|i| plain(i) * f64::from(scale)).collect(), attn_factor)
            }
            Scaling::Yarn { scale, n_ctx_orig, ext_factor, attn_factor, beta_fast, beta_slow } => {
                // the pair that makes `rotations` turns over the original context
                let pair = |rotations: f32| {
                    let turns = n_ctx_orig as f32 / (rotations * 2.0 * PI);
                    self.n_dims as f32 * turns.ln() / (2.0 * self.base.ln())
                };
                let low = pair(beta_fast).floor().max(0.0);
                let high = pair(beta_slow).ceil().min(self.n_dims as f32 - 1.0);
                let frequency = |i: usize| {
                    let slow = ((i as f32 - low) / (high - low).max(0.001)).clamp(0.0, 1.0);
                    let keep = f64::from((1.0 - slow) * ext_factor);
                    plain(i) * (f64::from(scale) * (1.0 - keep) + keep)
                };
                let sharpen = if ext_factor == 0.0 { 1.0 } else { 1.0 - 0.1 * scale.ln() };
                ((0..n).map(frequency).collect(), attn_factor * sharpen)
            }
        }
    }
}

impl Scaling {
    /// None.
    pub const NONE: Scaling = Scaling::Linear { scale: 1.0, attn_factor: 1.0 };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rope(scaling: Scaling, factors: Option<Factors>) -> Rope {
        Rope { n_dims: 8, pairs: Pairs::Neighbours, base: 10_000.0, scaling, factors }
    }

    fn close(a: &[f64], b: &[f64]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() <= 1e-6 * b.abs())
    }

    #[test]
    fn plain_frequencies_are_powers_of_the_base() {
        let (f, m) = rope(Scaling::NONE, None).frequencies(1);
        assert!(close(&f, &[1.0, 0.1, 0.01, 0.001]) && m == 1.0, "{f:?}");
    }

    #[test]
    fn factors_divide_and_linear_scaling_multiplies() {
        let (short, long) = (vec![1.0, 2.0, 4.0, 8.0], vec![1.0; 4]);
        let scaling = Scaling::Linear { scale: 0.25, attn_factor: 1.5 };
        let rope = rope(scaling, Some(Factors { short, long, n_ctx_orig: 9 }));
        let (f, m) = rope.frequencies(9);
        assert!(close(&f, &[0.25, 0.0125, 0.000_625, 0.000_031_25]) && m == 1.5, "{f:?}");
        let (f, _) = rope.frequencies(10);
        assert!(close(&f, &[0.25, 0.025, 0.0025, 0.000_25]), "{f:?}");
    }

    #[test]
    fn yarn_keeps_the_fast_pairs_and_scales_the_slow_ones() {
        let scaling = Scaling::Yarn {
            scale: 0.25,
            n_ctx_orig: 4096,
            ext_factor: 1.0,
            attn_factor: 1.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
        };
        // pairs: 32 rotations -> 8 ln(4096 / 64 pi) / (2 ln 10000) = 1.31 -> 1; 1 rotation -> 2.81 -> 3
        let (f, m) = rope(scaling, None).frequencies(1);
        assert!(close(&f, &[1.0, 0.1, 0.01 * (0.25 * 0.5 + 0.5), 0.000_25]), "{f:?}");
        assert!((m - 1.138_629).abs() < 1e-5, "{m}");
    }
}
