//! IQ3_S: 256 weights in 8 groups of 32; each group has a 4-bit scale and eight points, of four weights, of a codebook of
//! 512.
//!
//! ```text
//! byte   0  1 | 2 .. 65 | 66 .. 73 | 74 .. 105 | 106 .. 109
//!        d    | qs      | qh       | signs     | scales        weight[i] = d * (2 s[g] + 1) * code[i],  g = i / 32
//!        f16
//! qs[i]            = low 8 bits of the place of the point of codes 4 i .. 4 i + 3
//! qh[j], bit k     = its bit 8,  i = 8 j + k
//! signs[j], bit k  = sign of code 8 j + k
//! scales[j] = s[2 j + 1] << 4 | s[2 j]
//! ```

use bytemuck::{Pod, Zeroable};

use super::block::{BlockFormat, f16, pack, unpack};
use super::codebook::{self, Iq3SLevels, codes, quantize_magnitudes, signed};
use super::{Scalar, Type};

/// The scalar implementation.
pub static SCALAR: Scalar = Scalar::of::<Block, 256, 8>(Type::IQ3_S);

/// 256 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Unit of the scales, f16.
    pub d: [u8; 2],
    /// The lower 8 bits of each point's place.
    pub qs: [u8; 64],
    /// The upper bit of each point's place.
    pub qh: [u8; 8],
    /// Signs.
    pub signs: [u8; 32],
    /// Scales, 4 bits each.
    pub scales: [u8; 4],
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
        let high = usize::from(self.qh[i / 8]) << (8 - i % 8) & 0x100;
        &codebook::IQ3_S[high | usize::from(self.qs[i])]
    }
}

impl BlockFormat<256, 8> for Block {
    #[inline(always)]
    fn codes(&self) -> [i8; 256] {
        codes(|i| signed(self.point(i), self.signs[i / 2] >> (4 * (i % 2))))
    }

    #[inline(always)]
    fn scales(&self) -> [f32; 8] {
        let d = self.d();
        unpack::<4, 1, 8>(&self.scales).map(|s| d * f32::from(2 * s + 1))
    }

    /// By the search of `quant/codebook.rs`.
    fn quantize(x: &[f32; 256]) -> Self {
        let found = quantize_magnitudes::<Iq3SLevels, 4, 8>(x, &codebook::IQ3_S, 1.0, false);
        let high: [u8; 64] = std::array::from_fn(|i| (found.points[i] >> 8) as u8);
        Self {
            d: found.scales.d,
            qs: found.points.map(|point| point as u8),
            qh: pack::<1, 1, 8>(&high),
            signs: found.signs,
            scales: pack::<4, 1, 4>(&found.scales.s),
        }
    }
}
