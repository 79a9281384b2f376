//! Q6_K: 256 weights of 6 bits in 16 groups of 16; each group has an 8-bit scale; symmetric.
//!
//! ```text
//! byte   0 .. 127 | 128 .. 191 | 192 .. 207 | 208 209
//!        ql       | qh         | scales     | d         weight[i] = d * scales[g] * (code[i] - 32),  g = i / 16
//!                              | i8 each    | f16
//! ql[64 h + j] = (code[128 h + 64 + j] & 15) << 4 | (code[128 h + j] & 15),        j < 64
//! qh[32 h + j]: bits 2 k and 2 k + 1 = bits 4 and 5 of code[128 h + 32 k + j],     j < 32
//! ```

use bytemuck::{Pod, Zeroable};

use super::block::{BlockFormat, f16, pack, unpack};
use super::search::{self, Int};
use super::{Scalar, Type};

/// The scalar implementation.
pub static SCALAR: Scalar = Scalar::of::<Block, 256, 16>(Type::Q6_K);

/// 256 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// The lower 4 bits of each code.
    pub ql: [u8; 128],
    /// The upper 2 bits of each code.
    pub qh: [u8; 64],
    /// The scale of each group, in units of `d`.
    pub scales: [i8; 16],
    /// Unit of the scales, f16.
    pub d: [u8; 2],
}

impl Block {
    /// The unit of the scales.
    #[inline(always)]
    pub fn d(&self) -> f32 {
        f16(self.d)
    }
}

impl BlockFormat<256, 16> for Block {
    #[inline(always)]
    fn codes(&self) -> [i8; 256] {
        let (low, high) = (unpack::<4, 64, 256>(&self.ql), unpack::<2, 32, 256>(&self.qh));
        std::array::from_fn(|i| (high[i] << 4 | low[i]) as i8 - 32)
    }

    #[inline(always)]
    fn scales(&self) -> [f32; 16] {
        let d = self.d();
        self.scales.map(|scale| d * f32::from(scale))
    }

    /// By the search of `quant/search.rs`.
    fn quantize(x: &[f32; 256]) -> Self {
        let block = search::symmetric::<Int<-32, 31>, Int<-128, 127>, 256, 16>(x);
        let codes = block.codes.map(|code| (code + 32) as u8);
        Self {
            ql: pack::<4, 64, 128>(&codes),
            qh: pack::<2, 32, 64>(&codes.map(|code| code >> 4)),
            scales: block.scales,
            d: block.d,
        }
    }
}
