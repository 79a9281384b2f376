//! TQ1_0: 256 ternary weights, five (at the end four) to a byte, with one scale.
//!
//! ```text
//! byte   0 .. 47 | 48 .. 51 | 52 53
//!        qs      | qh       | d         weight[i] = d * (code[i] - 1),  code 0, 1 or 2
//!                           | f16
//! ```
//!
//! A byte is the fraction 0.c0 c1 c2 c3 c4 in base three, in units of 1/256 and rounded up: times 3^k, without what is
//! larger than 1, it begins with digit k, which is the whole part of three times that. Digit k of
//!
//! ```text
//! qs[j],      j < 32   is code  32 k + j          k < 5
//! qs[32 + j], j < 16   is code 160 + 16 k + j     k < 5
//! qh[j],      j < 4    is code 240 +  4 k + j     k < 4
//! ```

use bytemuck::{Pod, Zeroable};

use super::block::{BlockFormat, f16};
use super::tq2_0::ternary;
use super::{Scalar, Type};

/// The scalar implementation.
pub static SCALAR: Scalar = Scalar::of::<Block, 256, 1>(Type::TQ1_0);

/// 256 weights.
#[derive(Debug, Clone, Copy, Pod, Zeroable)]
#[repr(C)]
pub struct Block {
    /// Codes, five to a byte.
    pub qs: [u8; 48],
    /// Codes, four to a byte.
    pub qh: [u8; 4],
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

/// Which digit of which byte (of `qs` and `qh`, one after the other) a code is.
#[inline(always)]
fn place(i: usize) -> (usize, usize) {
    match i {
        0..160 => (i / 32, i % 32),
        160..240 => ((i - 160) / 16, 32 + i % 16),
        _ => ((i - 240) / 4, 48 + i % 4),
    }
}

const POWERS: [u8; 5] = [1, 3, 9, 27, 81];

impl BlockFormat<256, 1> for Block {
    #[inline(always)]
    fn codes(&self) -> [i8; 256] {
        std::array::from_fn(|i| {
            let (k, j) = place(i);
            let byte = if j < 48 { self.qs[j] } else { self.qh[j - 48] };
            let fraction = byte.wrapping_mul(POWERS[k]);
            ((u16::from(fraction) * 3) >> 8) as i8 - 1
        })
    }

    #[inline(always)]
    fn scales(&self) -> [f32; 1] {
        [self.d()]
    }

    /// As ggml's reference.
    fn quantize(x: &[f32; 256]) -> Self {
        let (d, ternary) = ternary(x);
        let mut sums = [0; 52]; // of digits times powers of three: fractions of 243
        for (i, digit) in ternary.into_iter().enumerate() {
            let (k, j) = place(i);
            sums[j] += u16::from(digit * POWERS[4 - k]);
        }
        let fractions = sums.map(|sum| (sum * 256).div_ceil(243) as u8);
        let [qs, qh] = [&fractions[..48], &fractions[48..]];
        Self { qs: qs.try_into().expect("48 bytes"), qh: qh.try_into().expect("4 bytes"), d }
    }
}
