//! Q2_K: 256 weights of 2 bits in 16 groups of 16; each group has a 4-bit scale and a 4-bit minimum.
//!
//! ```text
//! byte   0 .. 15 | 16 .. 79 | 80 81 | 82 83
//!        scales  | qs       | d     | dmin      weight[i] = d * scale[g] * code[i] - dmin * min[g],  g = i / 16
//!                           | f16   | f16
//! scales[g] = min[g] << 4 | scale[g]
//! qs[32 h + j] = code[c + 96] << 6 | code[c + 64] << 4 | code[c + 32] << 2 | code[c],    c = 128 h + j,  j < 32
//! ```

use bytemuck::{Pod, Zeroable};

use super::block::{BlockFormat, f16, pack, unpack};
use super::{Scalar, Type, search};

/// The scalar implementation.
pub static SCALAR: Scalar = Scalar::of::<Block, 256, 16>(Type::Q2_K);

/// 256 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scale (low) and minimum (high) of each group, 4 bits each.
    pub scales: [u8; 16],
    /// Codes, 2 bits each.
    pub qs: [u8; 64],
    /// Unit of the scales, f16.
    pub d: [u8; 2],
    /// Unit of the minimums, f16.
    pub dmin: [u8; 2],
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

impl BlockFormat<256, 16> for Block {
    #[inline(always)]
    fn codes(&self) -> [i8; 256] {
        unpack::<2, 32, 256>(&self.qs).map(|code| code as i8)
    }

    #[inline(always)]
    fn scales(&self) -> [f32; 16] {
        let d = self.d();
        self.scales.map(|scale| d * f32::from(scale & 15))
    }

    #[inline(always)]
    fn offsets(&self) -> Option<[f32; 16]> {
        let dmin = self.dmin();
        Some(self.scales.map(|scale| -(dmin * f32::from(scale >> 4))))
    }

    /// By the search of `quant/search.rs`.
    fn quantize(x: &[f32; 256]) -> Self {
        let block = search::affine::<3, 15, 256, 16>(x);
        Self {
            scales: std::array::from_fn(|g| block.mins[g] << 4 | block.scales[g]),
            qs: pack::<2, 32, 64>(&block.codes),
            d: block.d,
            dmin: block.dmin,
        }
    }
}
