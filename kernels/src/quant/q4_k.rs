//! Q4_K: 256 weights of 4 bits in 8 groups of 32; each group has a 6-bit scale and a 6-bit minimum.
//!
//! ```text
//! byte   0  1 | 2  3 | 4 .. 15 | 16 .. 143
//!        d    | dmin | scales  | qs          weight[i] = d * scale[g] * code[i] - dmin * min[g],  g = i / 32
//!        f16  | f16
//! scales[j]     = (scale[j + 4] >> 4) << 6 | scale[j],               j < 4
//! scales[4 + j] = (min[j + 4] >> 4) << 6 | min[j]
//! scales[8 + j] = (min[j + 4] & 15) << 4 | (scale[j + 4] & 15)
//! qs[32 h + j] = code[64 h + 32 + j] << 4 | code[64 h + j],          j < 32
//! ```

use bytemuck::{Pod, Zeroable};

use super::block::{BlockFormat, f16, pack, unpack};
use super::{Scalar, Type, search};

/// The scalar implementation.
pub static SCALAR: Scalar = Scalar::of::<Block, 256, 8>(Type::Q4_K);

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
    /// Codes, 4 bits each.
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
        unpack::<4, 32, 256>(&self.qs).map(|code| code as i8)
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
        let block = search::affine::<15, 63, 256, 8>(x);
        Self {
            d: block.d,
            dmin: block.dmin,
            scales: pack_scales(&block.scales, &block.mins),
            qs: pack::<4, 32, 128>(&block.codes),
        }
    }
}

/// The scales and the minimums of the 8 groups, 0..=63; Q5_K has them too.
#[inline(always)]
pub fn unpack_scales(packed: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut mins) = ([0; 8], [0; 8]);
    for j in 0..4 {
        let (scale, min, low) = (packed[j], packed[4 + j], packed[8 + j]);
        scales[j] = scale & 63;
        mins[j] = min & 63;
        scales[4 + j] = scale >> 6 << 4 | low & 15;
        mins[4 + j] = min >> 6 << 4 | low >> 4;
    }
    (scales, mins)
}

/// The inverse of [`unpack_scales`].
pub(super) fn pack_scales(scales: &[u8; 8], mins: &[u8; 8]) -> [u8; 12] {
    let mut packed = [0; 12];
    for j in 0..4 {
        packed[j] = scales[4 + j] >> 4 << 6 | scales[j];
        packed[4 + j] = mins[4 + j] >> 4 << 6 | mins[j];
        packed[8 + j] = (mins[4 + j] & 15) << 4 | scales[4 + j] & 15;
    }
    packed
}
