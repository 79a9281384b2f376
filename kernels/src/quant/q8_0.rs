//! Q8_0: 32 weights of 8 bits with one scale, symmetric.
//!
//! ```text
//! byte   0  1 | 2 .. 33
//!        d    | qs          weight[i] = d * qs[i]
//!        f16  | i8 each
//! ```

use bytemuck::{Pod, Zeroable};

use super::block::{BlockFormat, f16, to_f16};
use super::search::peak;
use super::{Scalar, Type};

/// The scalar implementation.
pub static SCALAR: Scalar = Scalar::of::<Block, 32, 1>(Type::Q8_0);

/// 32 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scale, f16.
    pub d: [u8; 2],
    /// Codes.
    pub qs: [i8; 32],
}

impl Block {
    /// The scale.
    #[inline(always)]
    pub fn d(&self) -> f32 {
        f16(self.d)
    }
}

impl BlockFormat<32, 1> for Block {
    #[inline(always)]
    fn codes(&self) -> [i8; 32] {
        self.qs
    }

    #[inline(always)]
    fn scales(&self) -> [f32; 1] {
        [self.d()]
    }

    /// As ggml's reference: the weight of largest magnitude becomes 127 or -127; ties go away from zero.
    fn quantize(x: &[f32; 32]) -> Self {
        let d = peak(x).abs() / 127.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        Self { d: to_f16(d), qs: x.map(|x| (x * inverse).round() as i8) }
    }
}
