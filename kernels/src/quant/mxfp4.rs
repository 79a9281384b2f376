//! MXFP4: 32 weights in the 4-bit floating-point format E2M1 with a power of two as their scale.
//!
//! ```text
//! byte   0    | 1 .. 16
//!        e    | qs          weight[i] = 2^(e - 128) * TABLE[code[i]]
//!        E8M0 | qs[j] = code[j + 16] << 4 | code[j]
//! ```
//!
//! From the OCP Microscaling Formats (MX) Specification v1.0. TABLE holds twice the values of E2M1, which are then
//! whole numbers, and the scale is half of E8M0's. As in ggml, e = 255 is a power of two like the others, not NaN.

use bytemuck::{Pod, Zeroable};

use super::block::{BlockFormat, pack, unpack};
use super::search::peak;
use super::{Scalar, Type};

/// The scalar implementation.
pub static SCALAR: Scalar = Scalar::of::<Block, 32, 1>(Type::MXFP4);

/// Twice the values of E2M1: sign 1 | exponent 2 | mantissa 1.
pub const TABLE: [i8; 16] = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12];

/// 32 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Exponent of the scale.
    pub e: u8,
    /// Codes, 4 bits each.
    pub qs: [u8; 16],
}

impl Block {
    /// The scale of the table's entries, 2^(e - 128).
    #[inline(always)]
    pub fn d(&self) -> f32 {
        // e = 0 and 1 are subnormal in f32.
        f32::from_bits(if self.e < 2 { 0x0020_0000 << self.e } else { u32::from(self.e - 1) << 23 })
    }
}

impl BlockFormat<32, 1> for Block {
    #[inline(always)]
    fn codes(&self) -> [i8; 32] {
        unpack::<4, 16, 32>(&self.qs).map(|code| TABLE[usize::from(code)])
    }

    #[inline(always)]
    fn scales(&self) -> [f32; 1] {
        [self.d()]
    }

    /// As the specification and ggml's reference: the largest magnitude gets the largest exponent of E2M1 (so that
    /// magnitudes above 6 times a power of two are cut to that), and each weight the nearest entry, the first of two.
    fn quantize(x: &[f32; 32]) -> Self {
        let exponent = (peak(x).abs().to_bits() >> 23) as u8; // floor(log2) + 127; 0 if zero or subnormal
        let mut block = Self { e: exponent.saturating_sub(2), qs: [0; 16] };
        let d = block.d();
        let codes = x.map(|x| {
            let distance = |code: u8| (d * f32::from(TABLE[usize::from(code)]) - x).abs();
            (1..16).fold(0, |best, code| if distance(code) < distance(best) { code } else { best })
        });
        block.qs = pack::<4, 16, 16>(&codes);
        block
    }
}
