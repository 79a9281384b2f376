//! IQ4_XS: 256 weights of 4 bits in 8 groups of 32; each group has a 6-bit scale; the table of IQ4_NL.
//!
//! ```text
//! byte   0  1 | 2 3      | 4 .. 7   | 8 .. 135
//!        d    | scales_h | scales_l | qs          weight[i] = d * (scale[g] - 32) * TABLE[code[i]],  g = i / 32
//!        f16
//! scales_h: bits 2 g and 2 g + 1 of the little-endian u16 = bits 4 and 5 of scale[g]
//! scales_l[j] = (scale[2 j + 1] & 15) << 4 | (scale[2 j] & 15)
//! qs[16 g + j] = code[32 g + 16 + j] << 4 | code[32 g + j],      j < 16
//! ```

use bytemuck::{Pod, Zeroable};

use super::block::{BlockFormat, f16, pack, unpack};
use super::iq4_nl::{TABLE, Table, nearest_code};
use super::search::{self, Int};
use super::{Scalar, Type};

/// The scalar implementation.
pub static SCALAR: Scalar = Scalar::of::<Block, 256, 8>(Type::IQ4_XS);

/// 256 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Unit of the scales, f16.
    pub d: [u8; 2],
    /// The upper 2 bits of each scale.
    pub scales_h: [u8; 2],
    /// The lower 4 bits of each scale.
    pub scales_l: [u8; 4],
    /// Codes, 4 bits each.
    pub qs: [u8; 128],
}

impl Block {
    /// The unit of the scales.
    #[inline(always)]
    pub fn d(&self) -> f32 {
        f16(self.d)
    }

    /// The scale of each group in units of `d`, -32..=31.
    #[inline(always)]
    pub fn unpack_scales(&self) -> [i8; 8] {
        let (low, high) = (unpack::<4, 1, 8>(&self.scales_l), unpack::<2, 1, 8>(&self.scales_h));
        std::array::from_fn(|g| (high[g] << 4 | low[g]) as i8 - 32)
    }
}

impl BlockFormat<256, 8> for Block {
    #[inline(always)]
    fn codes(&self) -> [i8; 256] {
        unpack::<4, 16, 256>(&self.qs).map(|code| TABLE[usize::from(code)])
    }

    #[inline(always)]
    fn scales(&self) -> [f32; 8] {
        let d = self.d();
        self.unpack_scales().map(|scale| d * f32::from(scale))
    }

    /// By the search of `quant/search.rs`.
    fn quantize(x: &[f32; 256]) -> Self {
        let block = search::symmetric::<Table, Int<-32, 31>, 256, 8>(x);
        let scales = block.scales.map(|scale| (scale + 32) as u8);
        Self {
            d: block.d,
            scales_h: pack::<2, 1, 2>(&scales.map(|scale| scale >> 4)),
            scales_l: pack::<4, 1, 4>(&scales),
            qs: pack::<4, 16, 128>(&block.codes.map(|code| nearest_code(code.into()))),
        }
    }
}
