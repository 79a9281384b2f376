//! What the kernels of the formats with codebooks read of a block without vectors: signs and shifts, as bits.

use crate::quant::{iq1_m, iq1_s, iq2_s, iq2_xs, iq2_xxs, iq3_s, iq3_xxs};

/// Four fields of seven bits as bytes.
#[inline(always)]
fn sevens_as_bytes(fields: u32) -> u32 {
    let pairs = fields & 0x0000_3fff | (fields & 0x0fff_c000) << 2;
    pairs & 0x007f_007f | (pairs & 0x3f80_3f80) << 1
}

/// Bytes of seven signs, with the eighth that makes their number even.
#[inline(always)]
fn even_signs(sevens: u32) -> u32 {
    // in the lowest bit of each byte: whether its number of ones is odd
    let mut odd = sevens ^ sevens >> 4;
    odd ^= odd >> 2;
    odd ^= odd >> 1;
    sevens | (odd & 0x0101_0101) << 7
}

/// A superblock of a format with magnitudes and signs.
pub(super) trait Magnitudes {
    /// The largest magnitude.
    const MOST: u8;

    /// The signs of block `b`.
    fn signs(&self, b: usize) -> u32;
}

impl Magnitudes for iq2_xxs::Block {
    const MOST: u8 = 43;

    #[inline(always)]
    fn signs(&self, b: usize) -> u32 {
        even_signs(sevens_as_bytes(self.signs_and_scale(b)))
    }
}

impl Magnitudes for iq2_xs::Block {
    const MOST: u8 = 43;

    #[inline(always)]
    fn signs(&self, b: usize) -> u32 {
        // the upper bytes of four numbers of 16 bits
        let highs = u32::from_le_bytes(std::array::from_fn(|j| self.qs[4 * b + j][1]));
        even_signs(highs >> 1 & 0x7f7f_7f7f)
    }
}

impl Magnitudes for iq2_s::Block {
    const MOST: u8 = 43;

    #[inline(always)]
    fn signs(&self, b: usize) -> u32 {
        u32::from_le_bytes(self.signs.as_chunks().0[b])
    }
}

impl Magnitudes for iq3_xxs::Block {
    const MOST: u8 = 62;

    #[inline(always)]
    fn signs(&self, b: usize) -> u32 {
        even_signs(sevens_as_bytes(self.signs_and_scale(b)))
    }
}

impl Magnitudes for iq3_s::Block {
    const MOST: u8 = 15;

    #[inline(always)]
    fn signs(&self, b: usize) -> u32 {
        u32::from_le_bytes(self.signs.as_chunks().0[b])
    }
}

/// A superblock of IQ1: codes are those of its points plus 1, or minus 1.
pub(super) trait Shifted {
    /// The largest magnitude.
    const MOST: u8 = 9;

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
    fn shifts(&self, p: usize) -> i64 {
        i64::from(self.qh(2 * p)) | i64::from(self.qh(2 * p + 1)) << 16
    }
}

impl Shifted for iq1_m::Block {
    const DOWN: [i64; 8] = [1 << 3, 1 << 7, 1 << 11, 1 << 15, 1 << 19, 1 << 23, 1 << 27, 1 << 31];

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

    fn random_blocks<B: bytemuck::Pod>() -> Vec<B> {
        let mut random = Random::new(1);
        let mut blocks = vec![B::zeroed(); 100];
        bytemuck::cast_slice_mut(&mut blocks).fill_with(|| random.below(256) as u8);
        blocks
    }

    #[test]
    fn signs_are_those_of_the_scalar_truth() {
        fn check<B: Magnitudes + BlockFormat<256, G>, const G: usize>() {
            for block in random_blocks::<B>() {
                for (i, code) in block.codes().into_iter().enumerate() {
                    assert_eq!(block.signs(i / 32) >> (i % 32) & 1 == 1, code < 0);
                    assert!(code.unsigned_abs() <= B::MOST);
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
    fn shifts_are_those_of_the_scalar_truth() {
        fn check<B: Shifted + BlockFormat<256, G>, const G: usize>() {
            for block in random_blocks::<B>() {
                for (i, code) in block.codes().into_iter().enumerate() {
                    let down = block.shifts(i / 64) & B::DOWN[i / 8 % 8] != 0;
                    assert_eq!(down, (code + 1) % 8 == 0);
                    assert!(code.unsigned_abs() <= B::MOST);
                }
            }
        }
        check::<iq1_s::Block, 8>();
        check::<iq1_m::Block, 16>();
    }
}
