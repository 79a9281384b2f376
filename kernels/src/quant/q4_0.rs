//! Q4_0: 32 weights of 4 bits with one scale, symmetric.
//!
//! ```text
//! byte   0  1 | 2 .. 17
//!        d    | qs          weight[i] = d * (code[i] - 8)
//!        f16  | qs[j] = code[j + 16] << 4 | code[j]
//! ```

use bytemuck::{Pod, Zeroable};

use super::block::{BlockFormat, f16, pack, to_f16, unpack};
use super::search::peak;
use super::{Scalar, Type};

/// The scalar implementation.
pub static SCALAR: Scalar = Scalar::of::<Block, 32, 1>(Type::Q4_0);

/// 32 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scale, f16.
    pub d: [u8; 2],
    /// Codes, 4 bits each.
    pub qs: [u8; 16],
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
        unpack::<4, 16, 32>(&self.qs).map(|code| code as i8 - 8)
    }

    #[inline(always)]
    fn scales(&self) -> [f32; 1] {
        [self.d()]
    }

    /// As ggml's reference: the weight of largest magnitude becomes exactly -8.
    fn quantize(x: &[f32; 32]) -> Self {
        let d = peak(x) / -8.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let codes = x.map(|x| ((x * inverse + 8.5) as u8).min(15));
        Self { d: to_f16(d), qs: pack::<4, 16, 16>(&codes) }
    }
}
