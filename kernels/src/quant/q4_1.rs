//! Q4_1: 32 weights of 4 bits with one scale and one offset (the least weight).
//!
//! ```text
//! byte   0  1 | 2  3 | 4 .. 19
//!        d    | m    | qs          weight[i] = d * code[i] + m
//!        f16  | f16  | qs[j] = code[j + 16] << 4 | code[j]
//! ```

use bytemuck::{Pod, Zeroable};

use super::block::{BlockFormat, f16, pack, to_f16, unpack};
use super::search::bounds;
use super::{Scalar, Type};

/// The scalar implementation.
pub static SCALAR: Scalar = Scalar::of::<Block, 32, 1>(Type::Q4_1);

/// 32 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scale, f16.
    pub d: [u8; 2],
    /// Offset, f16.
    pub m: [u8; 2],
    /// Codes, 4 bits each.
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
        unpack::<4, 16, 32>(&self.qs).map(|code| code as i8)
    }

    #[inline(always)]
    fn scales(&self) -> [f32; 1] {
        [self.d()]
    }

    #[inline(always)]
    fn offsets(&self) -> Option<[f32; 1]> {
        Some([self.m()])
    }

    /// As ggml's reference: the least weight becomes 0, the greatest 15.
    fn quantize(x: &[f32; 32]) -> Self {
        let (min, max) = bounds(x);
        let d = (max - min) / 15.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let codes = x.map(|x| (((x - min) * inverse + 0.5) as u8).min(15));
        Self { d: to_f16(d), m: to_f16(min), qs: pack::<4, 16, 16>(&codes) }
    }
}
