//! Q3_K: 256 weights of 3 bits in 16 groups of 16; each group has a 6-bit scale; symmetric.
//!
//! ```text
//! byte   0 .. 31 | 32 .. 95 | 96 .. 107 | 108 109
//!        hmask   | qs       | scales    | d         weight[i] = d * (scale[g] - 32) * (code[i] - 4),  g = i / 16
//!                                       | f16
//! hmask[j]: bit k = bit 2 of code[32 k + j]
//! qs[32 h + j]: bits 2 k and 2 k + 1 = bits 0 and 1 of code[128 h + 32 k + j],    j < 32
//! scales[j]     = (scale[j + 8] & 15) << 4 | (scale[j] & 15),                      j < 8
//! scales[8 + j] = bits 4 and 5 of scale[j + 12] | scale[j + 8] | scale[j + 4] | scale[j],    j < 4
//! ```

use bytemuck::{Pod, Zeroable};

use super::block::{BlockFormat, f16, pack, unpack};
use super::search::{self, Int};
use super::{Scalar, Type};

/// The scalar implementation.
pub static SCALAR: Scalar = Scalar::of::<Block, 256, 16>(Type::Q3_K);

/// 256 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// The highest bit of each code.
    pub hmask: [u8; 32],
    /// The lower 2 bits of each code.
    pub qs: [u8; 64],
    /// Scales, 6 bits each.
    pub scales: [u8; 12],
    /// Unit of the scales, f16.
    pub d: [u8; 2],
}

impl Block {
    /// The unit of the scales.
    #[inline(always)]
    pub fn d(&self) -> f32 {
        f16(self.d)
    }

    /// The scale of each group in units of `d`, -32..=31.
    #[inline(always)]
    pub fn unpack_scales(&self) -> [i8; 16] {
        let (low, high) = (unpack::<4, 8, 16>(&self.scales[..8]), unpack::<2, 4, 16>(&self.scales[8..]));
        std::array::from_fn(|g| (high[g] << 4 | low[g]) as i8 - 32)
    }
}

impl BlockFormat<256, 16> for Block {
    #[inline(always)]
    fn codes(&self) -> [i8; 256] {
        let (low, high) = (unpack::<2, 32, 256>(&self.qs), unpack::<1, 32, 256>(&self.hmask));
        std::array::from_fn(|i| (high[i] << 2 | low[i]) as i8 - 4)
    }

    #[inline(always)]
    fn scales(&self) -> [f32; 16] {
        let d = self.d();
        self.unpack_scales().map(|scale| d * f32::from(scale))
    }

    /// By the search of `quant/search.rs`.
    fn quantize(x: &[f32; 256]) -> Self {
        let block = search::symmetric::<Int<-4, 3>, Int<-32, 31>, 256, 16>(x);
        let codes = block.codes.map(|code| (code + 4) as u8);
        let scales = block.scales.map(|scale| (scale + 32) as u8);
        let mut packed = [0; 12];
        packed[..8].copy_from_slice(&pack::<4, 8, 8>(&scales));
        packed[8..].copy_from_slice(&pack::<2, 4, 4>(&scales.map(|scale| scale >> 4)));
        Self {
            hmask: pack::<1, 32, 32>(&codes.map(|code| code >> 2)),
            qs: pack::<2, 32, 64>(&codes),
            scales: packed,
            d: block.d,
        }
    }
}
