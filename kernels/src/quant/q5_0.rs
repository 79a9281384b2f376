//! Q5_0: 32 weights of 5 bits with one scale, symmetric.
//!
//! ```text
//! byte   0  1 | 2 .. 5 | 6 .. 21
//!        d    | qh     | qs          weight[i] = d * (code[i] - 16)
//!        f16  | qh: bit i of the little-endian u32 = bit 4 of code[i]
//!             | qs[j] = (code[j + 16] & 15) << 4 | (code[j] & 15)
//! ```

use bytemuck::{Pod, Zeroable};

use super::block::{BlockFormat, f16, pack, to_f16, unpack};
use super::search::peak;
use super::{Scalar, Type};

/// The scalar implementation.
pub static SCALAR: Scalar = Scalar::of::<Block, 32, 1>(Type::Q5_0);

/// 32 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Scale, f16.
    pub d: [u8; 2],
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
}

impl BlockFormat<32, 1> for Block {
    #[inline(always)]
    fn codes(&self) -> [i8; 32] {
        unpack_codes(&self.qh, &self.qs).map(|code| code as i8 - 16)
    }

    #[inline(always)]
    fn scales(&self) -> [f32; 1] {
        [self.d()]
    }

    /// As ggml's reference: the weight of largest magnitude becomes exactly -16.
    fn quantize(x: &[f32; 32]) -> Self {
        let d = peak(x) / -16.0;
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let (qh, qs) = pack_codes(&x.map(|x| ((x * inverse + 16.5) as u8).min(31)));
        Self { d: to_f16(d), qh, qs }
    }
}

/// Codes of 5 bits from their highest and their lower bits; Q5_1 has them too.
#[inline(always)]
pub(super) fn unpack_codes(qh: &[u8; 4], qs: &[u8; 16]) -> [u8; 32] {
    let (low, high) = (unpack::<4, 16, 32>(qs), unpack::<1, 1, 32>(qh));
    std::array::from_fn(|i| high[i] << 4 | low[i])
}

/// The inverse of [`unpack_codes`].
pub(super) fn pack_codes(codes: &[u8; 32]) -> ([u8; 4], [u8; 16]) {
    (pack::<1, 1, 4>(&codes.map(|code| code >> 4)), pack::<4, 16, 16>(codes))
}
