//! IQ2_XXS: 256 weights in 8 groups of 32; each group has a 4-bit scale and four points of a codebook of 256.
//!
//! ```text
//! byte   0  1 | 2 .. 65
//!        d    | qs          weight[i] = d * (2 s[g] + 1) / 8 * code[i],  g = i / 32
//!        f16  | 8 bytes for each group
//! qs[8 g + j] = place of the point of codes 32 g + 8 j .. 32 g + 8 j + 7,     j < 4
//! qs[8 g + 4 .. 8 g + 8], a little-endian u32:
//!     bits 7 j .. 7 j + 6 = signs of the first seven codes of point j; the eighth makes their number even
//!     bits 28 .. 31       = s[g]
//! ```

use bytemuck::{Pod, Zeroable};

use super::block::{BlockFormat, f16};
use super::codebook::{self, Iq2Levels, codes, even_signs, quantize_magnitudes, signed};
use super::{Scalar, Type};

/// The scalar implementation.
pub static SCALAR: Scalar = Scalar::of::<Block, 256, 8>(Type::IQ2_XXS);

/// 256 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Unit of the scales, f16.
    pub d: [u8; 2],
    /// Points, signs and scale of each group.
    pub qs: [[u8; 8]; 8],
}

impl Block {
    /// The unit of the scales.
    #[inline(always)]
    pub fn d(&self) -> f32 {
        f16(self.d)
    }

    /// Point `i` of 32.
    #[inline(always)]
    pub fn point(&self, i: usize) -> &'static [i8; 8] {
        &codebook::IQ2_XXS[usize::from(self.qs[i / 4][i % 4])]
    }

    /// The signs and the scale of group `g`.
    #[inline(always)]
    pub fn signs_and_scale(&self, g: usize) -> u32 {
        let [_, _, _, _, a, b, c, d] = self.qs[g];
        u32::from_le_bytes([a, b, c, d])
    }
}

impl BlockFormat<256, 8> for Block {
    #[inline(always)]
    fn codes(&self) -> [i8; 256] {
        codes(|i| {
            let seven = self.signs_and_scale(i / 4) >> (7 * (i % 4)) & 0x7f;
            signed(self.point(i), even_signs(seven as u8))
        })
    }

    #[inline(always)]
    fn scales(&self) -> [f32; 8] {
        let unit = self.d() / 8.0;
        std::array::from_fn(|g| unit * (2 * (self.signs_and_scale(g) >> 28) + 1) as f32)
    }

    /// By the search of `quant/codebook.rs`.
    fn quantize(x: &[f32; 256]) -> Self {
        let found = quantize_magnitudes::<Iq2Levels, 8, 8>(x, &codebook::IQ2_XXS, 1.0 / 8.0, true);
        let qs = std::array::from_fn(|g| {
            let mut packed = u64::from(found.scales.s[g]) << 60;
            for j in 0..4 {
                packed |= (found.points[4 * g + j] as u64) << (8 * j);
                packed |= u64::from(found.signs[4 * g + j] & 0x7f) << (32 + 7 * j);
            }
            packed.to_le_bytes()
        });
        Self { d: found.scales.d, qs }
    }
}
