//! IQ4_NL: 32 weights of 4 bits with one scale; the codes are places in a table that is denser around zero, where most
//! weights are.
//!
//! ```text
//! byte   0  1 | 2 .. 17
//!        d    | qs          weight[i] = d * TABLE[code[i]]
//!        f16  | qs[j] = code[j + 16] << 4 | code[j]
//! ```

use bytemuck::{Pod, Zeroable};

use super::block::{BlockFormat, f16, pack, to_f16, unpack};
use super::search::{Codes, fit_scale, importance};
use super::{Scalar, Type};

/// The scalar implementation.
pub static SCALAR: Scalar = Scalar::of::<Block, 32, 1>(Type::IQ4_NL);

/// What the codes stand for, in IQ4_XS too: `kvalues_iq4nl` of the ggml project.
pub const TABLE: [i8; 16] = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113];

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
        unpack::<4, 16, 32>(&self.qs).map(|code| TABLE[usize::from(code)])
    }

    #[inline(always)]
    fn scales(&self) -> [f32; 1] {
        [self.d()]
    }

    /// By the search of `quant/search.rs`.
    fn quantize(x: &[f32; 32]) -> Self {
        let d = to_f16(fit_scale::<Table>(x, &importance(x)));
        let inverse = if f16(d) == 0.0 { 0.0 } else { 1.0 / f16(d) };
        Self { d, qs: pack::<4, 16, 16>(&x.map(|x| nearest_code(x * inverse))) }
    }
}

/// The values of [`TABLE`], as the search takes them.
pub(super) struct Table;

impl Codes for Table {
    const ENDS: &[f32] = &[TABLE[0] as f32, TABLE[15] as f32]; // not symmetric: both signs of the scale are tried
    const REACH: f32 = 24.0;

    #[inline(always)]
    fn nearest(x: f32) -> f32 {
        TABLE[usize::from(nearest_code(x))].into()
    }
}

/// The place in [`TABLE`] of the value nearest to `x`.
#[inline(always)]
pub(super) fn nearest_code(x: f32) -> u8 {
    NEAREST[((2.0 * x + 254.0) as usize).min(NEAREST.len() - 1)]
}

/// The nearest codes of all halves from -127 to 113: a tie of two values is at one of them.
const NEAREST: [u8; 481] = {
    let mut nearest = [0; 481];
    let mut code = 0;
    let mut i = 0;
    while i < nearest.len() {
        let twice_x = i as i32 - 254;
        if code < 15 && twice_x >= TABLE[code] as i32 + TABLE[code + 1] as i32 {
            code += 1;
        }
        nearest[i] = code as u8;
        i += 1;
    }
    nearest
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_code_finds_the_nearest_value() {
        for i in -1600..=1600 {
            let x = i as f32 / 8.0;
            let distance = |value: i8| (f32::from(value) - x).abs();
            let least = TABLE.map(distance).into_iter().fold(f32::INFINITY, f32::min);
            assert_eq!(distance(TABLE[usize::from(nearest_code(x))]), least, "{x}");
        }
        assert_eq!([f32::NEG_INFINITY, f32::INFINITY].map(nearest_code), [0, 15]);
    }
}
