//! Q5_1: 32 weights of 5 bits with one scale and one offset (the least weight).
//!
//! ```text
//! byte   0  1 | 2  3 | 4 .. 7 | 8 .. 23
//!        d    | m    | qh     | qs          weight[i] = d * code[i] + m
//!        f16  | f16  | qh: bit i of the little-endian u32 = bit 4 of code[i]
//!                    | qs[j] = (code[j + 16] & 15) << 4 | (code[j] & 15)
//! ```

use bytemuck::{Pod, Zeroable};

use super::block::{BlockFormat, f16, to_f16};
use super::q5_0::{pack_codes, unpack_codes};
use super::search::bounds;
use super::{Scalar, Type};

/// The scalar implementation.
pub static SCALAR: Scalar = Scalar::of::<Block, 32, 1>(Type::Q5_1);

/// 32 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scale, f16.
    pub d: [u8; 2],
    /// Offset, f16.
    pub m: [u8; 2],
    /// The highest bit of each code.
    pub qh: [u8; 4],
    /// The lower 4 bits of each code.
    pub qs: [u8; 16],
}

impl Block {
    /// The scale.
    #[inline(always)]
    pub fn d(&self) -> f32 {
        f16(self.d)
    }

    /// The offset.
    #[inline(always)]
    pub fn m(&self) -> f32 {
        f16(self.m)
    }
}

impl BlockFormat<32, 1> for Block {
    #[inline(always)]
    fn codes(&self) -> [i8; 32] {
        unpack_codes(&self.qh, &self.qs).map(|code| code as i8)
    }

    #[inline(always)]
    fn scales(&self) -> [f32; 1] {
        [self.d()]
    }

    #[inline(always)]
    fn offsets(&self) -> Option<[f32; 1]> {
        Some([self.m()])
    }

    /// As ggml's reference: the least weight becomes 0, the greatest 31.
    fn quantize(x: &[f32; 32]) -> Self {
        let (min, max) = bounds(x);
        let d = (max - min) / 31.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let (qh, qs) = pack_codes(&x.map(|x| (((x - min) * inverse + 0.5) as u8).min(31)));
        Self { d: to_f16(d), m: to_f16(min), qh, qs }
    }
}
