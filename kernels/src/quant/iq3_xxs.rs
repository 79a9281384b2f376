//! IQ3_XXS: 256 weights in 8 groups of 32; each group has a 4-bit scale and eight points, of four weights, of a codebook
//! of 256.
//!
//! ```text
//! byte   0  1 | 2 .. 65 | 66 .. 97
//!        d    | qs      | signs and scales      weight[i] = d * (2 s[g] + 1) / 4 * code[i],  g = i / 32
//!        f16            | 8 LE u32
//! qs[i] = place of the point of codes 4 i .. 4 i + 3
//! signs and scale of group g:
//!     bits 7 j .. 7 j + 6 = signs of codes 32 g + 8 j .. 32 g + 8 j + 6; the eighth makes their number even,  j < 4
//!     bits 28 .. 31       = s[g]
//! ```

use bytemuck::{Pod, Zeroable};

use super::block::{BlockFormat, f16};
use super::codebook::{self, Iq3XxsLevels, codes, even_signs, quantize_magnitudes, signed};
use super::{Scalar, Type};

/// The scalar implementation.
pub static SCALAR: Scalar = Scalar::of::<Block, 256, 8>(Type::IQ3_XXS);

/// 256 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Unit of the scales, f16.
    pub d: [u8; 2],
    /// Points.
    pub qs: [u8; 64],
    /// Signs and scale of each group.
    pub signs_and_scales: [[u8; 4]; 8],
}

impl Block {
    /// The unit of the scales.
    #[inline(always)]
    pub fn d(&self) -> f32 {
        f16(self.d)
    }

    /// Point `i` of 64.
    #[inline(always)]
    pub fn point(&self, i: usize) -> &'static [i8; 4] {
        &codebook::IQ3_XXS[usize::from(self.qs[i])]
    }

    /// The signs and the scale of group `g`.
    #[inline(always)]
    pub fn signs_and_scale(&self, g: usize) -> u32 {
        u32::from_le_bytes(self.signs_and_scales[g])
    }
}

impl BlockFormat<256, 8> for Block {
    #[inline(always)]
    fn codes(&self) -> [i8; 256] {
        codes(|i| {
            let seven = self.signs_and_scale(i / 8) >> (7 * (i / 2 % 4)) & 0x7f;
            signed(self.point(i), even_signs(seven as u8) >> (4 * (i % 2)))
        })
    }

    #[inline(always)]
    fn scales(&self) -> [f32; 8] {
        let unit = self.d() / 4.0;
        std::array::from_fn(|g| unit * (2 * (self.signs_and_scale(g) >> 28) + 1) as f32)
    }

    /// By the search of `quant/codebook.rs`.
    fn quantize(x: &[f32; 256]) -> Self {
        let found = quantize_magnitudes::<Iq3XxsLevels, 4, 8>(x, &codebook::IQ3_XXS, 1.0 / 4.0, true);
        let signs_and_scales = std::array::from_fn(|g| {
            let signs = |j: usize| u32::from(found.signs[4 * g + j] & 0x7f) << (7 * j);
            (u32::from(found.scales.s[g]) << 28 | signs(0) | signs(1) | signs(2) | signs(3)).to_le_bytes()
        });
        Self { d: found.scales.d, qs: found.points.map(|point| point as u8), signs_and_scales }
    }
}
