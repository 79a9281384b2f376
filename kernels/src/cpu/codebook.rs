//! What the kernels of the formats with codebooks read in the same way on every level: points, as words of eight codes,
//! and signs, as bits. (A gather of points takes longer than these loads, on many processors several times as long.)

use crate::quant::codebook;
use crate::quant::{iq1_m, iq1_s, iq2_s, iq2_xs, iq2_xxs, iq3_s, iq3_xxs};

/// Eight codes.
#[inline(always)]
fn word(point: &[i8; 8]) -> i64 {
    bytemuck::cast(*point)
}

/// Twice four codes.
#[inline(always)]
fn word_of_two(low: &[i8; 4], high: &[i8; 4]) -> i64 {
    let word = |point: &[i8; 4]| i64::from(bytemuck::cast::<_, u32>(*point));
    word(low) | word(high) << 32
}

/// Fields of seven bits, four in the low bits of each half, as bytes.
#[inline(always)]
fn sevens_as_bytes(fields: u64) -> u64 {
    let pairs = fields & 0x0000_3fff_0000_3fff | (fields & 0x0fff_c000_0fff_c000) << 2;
    pairs & 0x007f_007f_007f_007f | (pairs & 0x3f80_3f80_3f80_3f80) << 1
}

/// Bytes of seven signs, with the eighth that makes their number even.
#[inline(always)]
fn even_signs(sevens: u64) -> u64 {
    // in the lowest bit of each byte: whether its number of ones is odd
    let mut odd = sevens ^ sevens >> 4;
    odd ^= odd >> 2;
    odd ^= odd >> 1;
    sevens | (odd & 0x0101_0101_0101_0101) << 7
}

/// A superblock of a format with magnitudes and signs.
pub(super) trait Magnitudes {
    /// The largest magnitude.
    const MOST: u8;

    /// The four words of block `b`, of magnitudes.
    fn words(&self, b: usize) -> [i64; 4];

    /// The signs of blocks `2 p` and `2 p + 1`.
    fn signs(&self, p: usize) -> u64;
}

impl Magnitudes for iq2_xxs::Block {
    const MOST: u8 = 43;

    #[inline(always)]
    fn words(&self, b: usize) -> [i64; 4] {
        std::array::from_fn(|j| word(&codebook::IQ2_XXS[usize::from(self.qs[b][j])]))
    }

    #[inline(always)]
    fn signs(&self, p: usize) -> u64 {
        let [low, high] = [2 * p, 2 * p + 1].map(|g| u64::from(self.signs_and_scale(g)));
        even_signs(sevens_as_bytes(low | high << 32))
    }
}

impl Magnitudes for iq2_xs::Block {
    const MOST: u8 = 43;

    #[inline(always)]
    fn words(&self, b: usize) -> [i64; 4] {
        std::array::from_fn(|j| {
            word(&codebook::IQ2_XS[usize::from(u16::from_le_bytes(self.qs[4 * b + j]) & 0x1ff)])
        })
    }

    #[inline(always)]
    fn signs(&self, p: usize) -> u64 {
        // the upper bytes of eight numbers of 16 bits
        let highs: [u8; 8] = std::array::from_fn(|j| self.qs[8 * p + j][1]);
        even_signs(u64::from_le_bytes(highs) >> 1 & 0x7f7f_7f7f_7f7f_7f7f)
    }
}

impl Magnitudes for iq2_s::Block {
    const MOST: u8 = 43;

    #[inline(always)]
    fn words(&self, b: usize) -> [i64; 4] {
        std::array::from_fn(|j| word(self.point(4 * b + j)))
    }

    #[inline(always)]
    fn signs(&self, p: usize) -> u64 {
        u64::from_le_bytes(self.signs.as_chunks().0[p])
    }
}

impl Magnitudes for iq3_xxs::Block {
    const MOST: u8 = 62;

    #[inline(always)]
    fn words(&self, b: usize) -> [i64; 4] {
        let point = |i: usize| &codebook::IQ3_XXS[usize::from(self.qs[i])];
        std::array::from_fn(|j| word_of_two(point(8 * b + 2 * j), point(8 * b + 2 * j + 1)))
    }

    #[inline(always)]
    fn signs(&self, p: usize) -> u64 {
        let [low, high] = [2 * p, 2 * p + 1].map(|g| u64::from(self.signs_and_scale(g)));
        even_signs(sevens_as_bytes(low | high << 32))
    }
}

impl Magnitudes for iq3_s::Block {
    const MOST: u8 = 15;

    #[inline(always)]
    fn words(&self, b: usize) -> [i64; 4] {
        std::array::from_fn(|j| word_of_two(self.point(8 * b + 2 * j), self.point(8 * b + 2 * j + 1)))
    }

    #[inline(always)]
    fn signs(&self, p: usize) -> u64 {
        u64::from_le_bytes(self.signs.as_chunks().0[p])
    }
}

/// A superblock of IQ1: codes are those of its points plus 1, or minus 1.
pub(super) trait Shifted {
    /// The largest magnitude.
    const MOST: u8 = 9;

    /// The four words of block `b`.
    fn words(&self, b: usize) -> [i64; 4];

    /// Bits that say which points of blocks `2 p` and `2 p + 1` are shifted down: those that [`Shifted::DOWN`] names.
    fn shifts(&self, p: usize) -> i64;

    /// The bit of each of eight points.
    const DOWN: [i64; 8];
}

impl Shifted for iq1_s::Block {
    const DOWN: [i64; 8] = {
        let (first, second) = (1 << 15, 1 << 31);
        [first, first, first, first, second, second, second, second]
    };

    #[inline(always)]
    fn words(&self, b: usize) -> [i64; 4] {
        std::array::from_fn(|j| word(self.point(4 * b + j)))
    }

    #[inline(always)]
    fn shifts(&self, p: usize) -> i64 {
        i64::from(self.qh(2 * p)) | i64::from(self.qh(2 * p + 1)) << 16
    }
}

impl Shifted for iq1_m::Block {
    const DOWN: [i64; 8] = [1 << 3, 1 << 7, 1 << 11, 1 << 15, 1 << 19, 1 << 23, 1 << 27, 1 << 31];

    #[inline(always)]
    fn words(&self, b: usize) -> [i64; 4] {
        std::array::from_fn(|j| word(self.point(4 * b + j)))
    }

    #[inline(always)]
    fn shifts(&self, p: usize) -> i64 {
        i64::from(u32::from_le_bytes(self.qh.as_chunks().0[p]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::quant::block::BlockFormat;
    use crate::quant::tests::Random;
    use bytemuck::Zeroable;

    fn random_block<B: bytemuck::Pod + Zeroable>(random: &mut Random) -> B {
        let mut block = B::zeroed();
        bytemuck::bytes_of_mut(&mut block).fill_with(|| random.below(256) as u8);
        block
    }

    #[test]
    fn words_and_signs_make_the_codes_of_the_scalar_truth() {
        fn check<B: Magnitudes + BlockFormat<256, G>, const G: usize>() {
            let mut random = Random::new(1);
            for _ in 0..100 {
                let block: B = random_block(&mut random);
                for (i, code) in block.codes().into_iter().enumerate() {
                    let magnitude = block.words(i / 32)[i / 8 % 4].to_le_bytes()[i % 8] as i8;
                    let negative = block.signs(i / 64) >> (i % 64) & 1 == 1;
                    assert_eq!(if negative { -magnitude } else { magnitude }, code);
                    assert!(magnitude <= B::MOST as i8);
                }
            }
        }
        check::<iq2_xxs::Block, 8>();
        check::<iq2_xs::Block, 16>();
        check::<iq2_s::Block, 16>();
        check::<iq3_xxs::Block, 8>();
        check::<iq3_s::Block, 8>();
    }

    #[test]
    fn words_and_shifts_make_the_codes_of_the_scalar_truth() {
        fn check<B: Shifted + BlockFormat<256, G>, const G: usize>() {
            let mut random = Random::new(2);
            for _ in 0..100 {
                let block: B = random_block(&mut random);
                for (i, code) in block.codes().into_iter().enumerate() {
                    let point = block.words(i / 32)[i / 8 % 4].to_le_bytes()[i % 8] as i8;
                    let down = block.shifts(i / 64) & B::DOWN[i / 8 % 8] != 0;
                    assert_eq!(if down { point - 1 } else { point + 1 }, code);
                }
            }
        }
        check::<iq1_s::Block, 8>();
        check::<iq1_m::Block, 16>();
    }
}
