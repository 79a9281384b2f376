//! NVFP4: 64 weights in the 4-bit floating-point format E2M1, in 4 groups of 16, each with a scale in E4M3.
//!
//! ```text
//! byte   0 .. 3    | 4 .. 35
//!        d         | qs          weight[i] = e4m3(d[g]) / 2 * TABLE[code[i]],  g = i / 16
//!        E4M3 each | qs[8 g + j] = code[16 g + 8 + j] << 4 | code[16 g + j],   j < 8
//! ```
//!
//! TABLE holds twice the values of E2M1, as in MXFP4. A file has one more scale for the whole tensor, beside it. As in
//! ggml, the sign of a scale is not read, and its NaN is 0 (or 480, with the sign bit set).

use bytemuck::{Pod, Zeroable};

use super::block::{BlockFormat, pack};
use super::float::f16_to_f32;
use super::mxfp4::TABLE;
use super::search::peak;
use super::{Scalar, Type};

/// The scalar implementation.
pub static SCALAR: Scalar = Scalar::of::<Block, 64, 4>(Type::NVFP4);

/// 64 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// The scale of each group, E4M3.
    pub d: [u8; 4],
    /// Codes, 4 bits each.
    pub qs: [u8; 32],
}

/// The scale of the table's entries: half of the number of this format, which has 4 bits of exponent and 3 of mantissa.
#[inline(always)]
pub fn half_e4m3(bits: u8) -> f32 {
    if bits == 0x7f {
        return 0.0;
    }
    // The same fields of an f16 are 2^8 times smaller.
    f16_to_f32(u16::from(bits & 0x7f) << 7) * 128.0
}

impl BlockFormat<64, 4> for Block {
    #[inline(always)]
    fn codes(&self) -> [i8; 64] {
        std::array::from_fn(|i| {
            let (g, j) = (i / 16, i % 16);
            let code = self.qs[8 * g + j % 8] >> (4 * (j / 8)) & 15;
            TABLE[usize::from(code)]
        })
    }

    #[inline(always)]
    fn scales(&self) -> [f32; 4] {
        self.d.map(half_e4m3)
    }

    /// As ggml's reference: a group's largest magnitude becomes 6, the largest of E2M1, times the nearest scale, and each
    /// weight the nearest entry, the first of two.
    fn quantize(x: &[f32; 64]) -> Self {
        let mut block = Self { d: [0; 4], qs: [0; 32] };
        for (g, x) in x.as_chunks::<16>().0.iter().enumerate() {
            let fit = peak(x).abs() / 12.0;
            let distance = |bits: u8| (half_e4m3(bits) - fit).abs();
            block.d[g] =
                (1..0x7f).fold(0, |best, bits| if distance(bits) <= distance(best) { bits } else { best });
            let d = half_e4m3(block.d[g]);
            let codes = x.map(|x| {
                let distance = |code: u8| (d * f32::from(TABLE[usize::from(code)]) - x).abs();
                (1..16).fold(0, |best, code| if distance(code) < distance(best) { code } else { best })
            });
            block.qs[8 * g..8 * g + 8].copy_from_slice(&pack::<4, 8, 8>(&codes));
        }
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scales_of_known_bits() {
        let cases =
            [(0x00, 0.0), (0x01, 0.001_953_125), (0x08, 0.015_625), (0x38, 1.0), (0x7e, 448.0), (0xb8, 1.0)];
        for (bits, scale) in cases {
            assert_eq!(half_e4m3(bits), scale / 2.0, "{bits:#x}");
        }
        assert_eq!([0x7f, 0xff].map(half_e4m3), [0.0, 240.0]);
    }
}
