//! IQ2_S: 256 weights in 16 groups of 16; each group has a 4-bit scale and two points of a codebook of 1024.
//!
//! ```text
//! byte   0  1 | 2 .. 33 | 34 .. 65 | 66 .. 73 | 74 .. 81
//!        d    | qs      | signs    | qh       | scales      weight[i] = d * (2 s[g] + 1) / 8 * code[i],  g = i / 16
//!        f16
//! qs[i]                              = low 8 bits of the place of the point of codes 8 i .. 8 i + 7
//! qh[j], bits 2 k and 2 k + 1        = its bits 8 and 9,  i = 4 j + k
//! signs[i], bit k                    = sign of code 8 i + k
//! scales[j] = s[2 j + 1] << 4 | s[2 j]
//! ```

use bytemuck::{Pod, Zeroable};

use super::block::{BlockFormat, f16, pack};
use super::codebook::{self, Iq2Levels, codes, quantize_magnitudes, signed};
use super::{Scalar, Type, iq2_xs};

/// The scalar implementation.
pub static SCALAR: Scalar = Scalar::of::<Block, 256, 16>(Type::IQ2_S);

/// 256 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Unit of the scales, f16.
    pub d: [u8; 2],
    /// The lower 8 bits of each point's place.
    pub qs: [u8; 32],
    /// Signs.
    pub signs: [u8; 32],
    /// The upper 2 bits of each point's place.
    pub qh: [u8; 8],
    /// Scales, 4 bits each.
    pub scales: [u8; 8],
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
        let high = usize::from(self.qh[i / 4]) << (8 - 2 * (i % 4)) & 0x300;
        &codebook::IQ2_S[high | usize::from(self.qs[i])]
    }
}

impl BlockFormat<256, 16> for Block {
    #[inline(always)]
    fn codes(&self) -> [i8; 256] {
        codes(|i| signed(self.point(i), self.signs[i]))
    }

    #[inline(always)]
    fn scales(&self) -> [f32; 16] {
        iq2_xs::scales(self.d(), &self.scales)
    }

    /// By the search of `quant/codebook.rs`.
    fn quantize(x: &[f32; 256]) -> Self {
        let found = quantize_magnitudes::<Iq2Levels, 8, 16>(x, &codebook::IQ2_S, 1.0 / 8.0, false);
        let high: [u8; 32] = std::array::from_fn(|i| (found.points[i] >> 8) as u8);
        Self {
            d: found.scales.d,
            qs: std::array::from_fn(|i| found.points[i] as u8),
            signs: found.signs,
            qh: pack::<2, 1, 8>(&high),
            scales: pack::<4, 1, 8>(&found.scales.s),
        }
    }
}
