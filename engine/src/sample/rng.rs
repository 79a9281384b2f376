//! Random numbers whose sequence is part of what braise promises (same seed, same text): SplitMix64, from
//! G. Steele, D. Lea and C. Flood, "Fast splittable pseudorandom number generators" (OOPSLA 2014), with the
//! constants of S. Vigna's public-domain `splitmix64.c`.

use std::hash::{BuildHasher, RandomState};

#[derive(Debug, Clone)]
pub(super) struct SplitMix64(u64);

impl SplitMix64 {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number in [0, 1), of 53 random bits.
    pub(super) fn next_unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
}

/// A seed that differs each time, from the randomness that the standard library gives its hash maps.
pub(super) fn fresh_seed() -> u64 {
    RandomState::new().hash_one(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_the_published_sequence() {
        // What splitmix64.c prints for the seed 1234567.
        let mut rng = SplitMix64::new(1_234_567);
        let first = [rng.next(), rng.next(), rng.next()];
        assert_eq!(first, [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]);
    }

    #[test]
    fn fresh_seeds_differ() {
        assert_ne!(fresh_seed(), fresh_seed());
    }
}
