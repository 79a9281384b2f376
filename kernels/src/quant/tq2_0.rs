//! TQ2_0: 256 ternary weights of 2 bits with one scale.
//!
//! ```text
//! byte   0 .. 63 | 64 65
//!        qs      | d         weight[i] = d * (code[i] - 1)
//!                | f16
//! qs[32 h + j] = code[c + 96] << 6 | code[c + 64] << 4 | code[c + 32] << 2 | code[c],    c = 128 h + j,  j < 32
//! ```

use bytemuck::{Pod, Zeroable};

use super::block::{BlockFormat, f16, pack, to_f16, unpack};
use super::search::peak;
use super::{Scalar, Type};

/// The scalar implementation.
pub static SCALAR: Scalar = Scalar::of::<Block, 256, 1>(Type::TQ2_0);

/// 256 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Codes, 2 bits each; 3 is not used, but means twice the scale.
    pub qs: [u8; 64],
    /// Scale, f16.
    pub d: [u8; 2],
}

impl Block {
    /// The scale.
    #[inline(always)]
    pub fn d(&self) -> f32 {
        f16(self.d)
    }
}

impl BlockFormat<256, 1> for Block {
    #[inline(always)]
    fn codes(&self) -> [i8; 256] {
        unpack::<2, 32, 256>(&self.qs).map(|code| code as i8 - 1)
    }

    #[inline(always)]
    fn scales(&self) -> [f32; 1] {
        [self.d()]
    }

    /// As ggml's reference.
    fn quantize(x: &[f32; 256]) -> Self {
        let (d, ternary) = ternary(x);
        Self { qs: pack::<2, 32, 64>(&ternary), d }
    }
}

/// The largest magnitude, and each weight as 0, 1 or 2: the nearest of minus that, zero and that; ties go away from zero.
pub(super) fn ternary(x: &[f32; 256]) -> ([u8; 2], [u8; 256]) {
    let d = peak(x).abs();
    let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
    (to_f16(d), x.map(|x| ((x * inverse).round() as i8 + 1) as u8))
}
