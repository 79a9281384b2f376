//! Q5_K: 256 weights of 5 bits in 8 groups of 32; each group has a 6-bit scale and a 6-bit minimum.
//!
//! ```text
//! byte   0  1 | 2  3 | 4 .. 15 | 16 .. 47 | 48 .. 175
//!        d    | dmin | scales  | qh       | qs          weight[i] = d * scale[g] * code[i] - dmin * min[g],  g = i / 32
//!        f16  | f16
//! scales: as in Q4_K
//! qh[j]: bit k = bit 4 of code[32 k + j],                                          j < 32
//! qs[32 h + j] = (code[64 h + 32 + j] & 15) << 4 | (code[64 h + j] & 15)
//! ```

use bytemuck::{Pod, Zeroable};

use super::block::{BlockFormat, f16, pack, unpack};
use super::q4_k::{pack_scales, unpack_scales};
use super::{Scalar, Type, search};

/// The scalar implementation.
pub static SCALAR: Scalar = Scalar::of::<Block, 256, 8>(Type::Q5_K);

/// 256 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Unit of the scales, f16.
    pub d: [u8; 2],
    /// Unit of the minimums, f16.
    pub dmin: [u8; 2],
    /// Scales and minimums, 6 bits each.
    pub scales: [u8; 12],
    /// The highest bit of each code.
    pub qh: [u8; 32],
    /// The lower 4 bits of each code.
    pub qs: [u8; 128],
}

impl Block {
    /// The unit of the scales.
    #[inline(always)]
    pub fn d(&self) -> f32 {
        f16(self.d)
    }

    /// The unit of the minimums.
    #[inline(always)]
    pub fn dmin(&self) -> f32 {
        f16(self.dmin)
    }
}

impl BlockFormat<256, 8> for Block {
    #[inline(always)]
    fn codes(&self) -> [i8; 256] {
        let (low, high) = (unpack::<4, 32, 256>(&self.qs), unpack::<1, 32, 256>(&self.qh));
        std::array::from_fn(|i| (high[i] << 4 | low[i]) as i8)
    }

    #[inline(always)]
    fn scales(&self) -> [f32; 8] {
        let d = self.d();
        unpack_scales(&self.scales).0.map(|scale| d * f32::from(scale))
    }

    #[inline(always)]
    fn offsets(&self) -> Option<[f32; 8]> {
        let dmin = self.dmin();
        Some(unpack_scales(&self.scales).1.map(|min| -(dmin * f32::from(min))))
    }

    /// By the search of `quant/search.rs`.
    fn quantize(x: &[f32; 256]) -> Self {
        let block = search::affine::<31, 63, 256, 8>(x);
        Self {
            d: block.d,
            dmin: block.dmin,
            scales: pack_scales(&block.scales, &block.mins),
            qh: pack::<1, 32, 32>(&block.codes.map(|code| code >> 4)),
            qs: pack::<4, 32, 128>(&block.codes),
        }
    }
}
