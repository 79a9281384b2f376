//! IQ2_XS: 256 weights in 16 groups of 16; each group has a 4-bit scale and two points of a codebook of 512.
//!
//! ```text
//! byte   0  1 | 2 .. 65        | 66 .. 73
//!        d    | qs             | scales      weight[i] = d * (2 s[g] + 1) / 8 * code[i],  g = i / 16
//!        f16  | 32 LE u16
//! qs[i]: bits 0 .. 8  = place of the point of codes 8 i .. 8 i + 7
//!        bits 9 .. 15 = signs of the first seven; the eighth makes their number even
//! scales[j] = s[2 j + 1] << 4 | s[2 j]
//! ```

use bytemuck::{Pod, Zeroable};

use super::block::{BlockFormat, f16, pack, unpack};
use super::codebook::{self, Iq2Levels, codes, even_signs, quantize_magnitudes, signed};
use super::{Scalar, Type};

/// The scalar implementation.
pub static SCALAR: Scalar = Scalar::of::<Block, 256, 16>(Type::IQ2_XS);

/// 256 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Unit of the scales, f16.
    pub d: [u8; 2],
    /// Points and signs.
    pub qs: [[u8; 2]; 32],
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
        &codebook::IQ2_XS[usize::from(u16::from_le_bytes(self.qs[i]) & 0x1ff)]
    }
}

/// Scales of IQ2_XS and IQ2_S.
#[inline(always)]
pub(super) fn scales(d: f32, packed: &[u8; 8]) -> [f32; 16] {
    let unit = d / 8.0;
    unpack::<4, 1, 16>(packed).map(|s| unit * f32::from(2 * s + 1))
}

impl BlockFormat<256, 16> for Block {
    #[inline(always)]
    fn codes(&self) -> [i8; 256] {
        codes(|i| signed(self.point(i), even_signs(self.qs[i][1] >> 1)))
    }

    #[inline(always)]
    fn scales(&self) -> [f32; 16] {
        scales(self.d(), &self.scales)
    }

    /// By the search of `quant/codebook.rs`.
    fn quantize(x: &[f32; 256]) -> Self {
        let found = quantize_magnitudes::<Iq2Levels, 8, 16>(x, &codebook::IQ2_XS, 1.0 / 8.0, true);
        let qs = std::array::from_fn(|i| {
            (found.points[i] as u16 | u16::from(found.signs[i] & 0x7f) << 9).to_le_bytes()
        });
        Self { d: found.scales.d, qs, scales: pack::<4, 1, 8>(&found.scales.s) }
    }
}
