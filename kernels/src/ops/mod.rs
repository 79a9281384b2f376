//! Float operations. Each is written once, as loops over fixed-size arrays that the compiler turns into vectors, and
//! compiled once for every ISA level ([`Lanes`]); only what the compiler cannot find (f16 conversion, fused
//! multiply-add, sums that stay in registers) is named per level.

mod attention;
mod delta;
mod elementwise;
mod float_matmul;
mod kv;
mod lines;
mod state_space;

pub use attention::{
    Attention, BLOCK, Numbers, SPAN, Scores, Scratch, Total, Window, attention, attention_span, merge, spans,
};
pub(crate) use attention::{FloatBlock, LOWEST};
pub use delta::{DELTA_VALUES, delta_rule};
pub use elementwise::{Activation, Xielu, activate, add, gated, layer_norm, rms_norm, rope};
pub use float_matmul::{matmul_bf16, matmul_f16, matmul_f32};
pub use kv::{Cached, KEY_BLOCK, KvType, PAGE, row_of, store_key, store_value};
pub(crate) use lines::{Aligned, Lines};
pub use state_space::state_space;

/// What differs between ISA levels for the operations of this module.
pub trait Lanes {
    /// Whether there are registers for sixteen sums of sixteen floats, and not only for half of them.
    const MANY_REGISTERS: bool;
    /// `a * b + c`, in one rounding where the level has that instruction.
    fn mul_add(a: f32, b: f32, c: f32) -> f32;
    /// Sixteen floats in registers, for loops whose sums the compiler would not keep there.
    type Vector: Copy;
    /// `a` in registers.
    fn load(a: &[f32; 16]) -> Self::Vector;
    /// Sixteen half-precision numbers, little-endian, as floats in registers.
    fn load_halves(h: &[u8; 32]) -> Self::Vector;
    /// Sixteen bf16 numbers, little-endian, as floats in registers.
    fn load_bf16(h: &[u8; 32]) -> Self::Vector;
    /// Sixteen 8-bit integers as floats in registers.
    fn load_codes(codes: &[u8; 16]) -> Self::Vector;
    /// `x` in memory.
    fn store(a: &mut [f32; 16], x: Self::Vector);
    /// Sixteen times `x`.
    fn splat(x: f32) -> Self::Vector;
    /// Sixteen times a half-precision number, little-endian.
    fn splat_half(h: [u8; 2]) -> Self::Vector;
    /// `a * b`
    fn mul_16(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// `a * b + c` as [`Lanes::mul_add`] computes it.
    fn mul_add_16(a: Self::Vector, b: Self::Vector, c: Self::Vector) -> Self::Vector;
    /// `a + b`
    fn add_16(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The larger of each two; `b` where one is NaN.
    fn max_16(a: Self::Vector, b: Self::Vector) -> Self::Vector;
    /// The sum of all sixteen: the upper half is added to the lower one, and so on.
    fn sum(a: Self::Vector) -> f32;
    /// The largest of all sixteen, of which none is NaN.
    fn largest(a: Self::Vector) -> f32;
    /// Asks for the memory that follows `bytes`, where that pays.
    fn prefetch_after(_bytes: &[u8]) {}
    /// Asks for the memory that comes some blocks after `at` in a long run of it, where that pays.
    fn prefetch_ahead(_at: *const u8) {}
}

/// Whatever the build target has.
#[derive(Debug)]
pub enum Portable {}

impl Lanes for Portable {
    const MANY_REGISTERS: bool = false;

    #[inline(always)]
    fn mul_add(a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }

    type Vector = [f32; 16];

    #[inline(always)]
    fn load(a: &[f32; 16]) -> [f32; 16] {
        *a
    }

    #[inline(always)]
    fn load_halves(h: &[u8; 32]) -> [f32; 16] {
        let mut floats = [0.0; 16];
        for (x, h) in floats.iter_mut().zip(h.as_chunks().0) {
            *x = crate::quant::f16_to_f32(u16::from_le_bytes(*h));
        }
        floats
    }

    #[inline(always)]
    fn load_bf16(h: &[u8; 32]) -> [f32; 16] {
        let mut floats = [0.0; 16];
        for (x, h) in floats.iter_mut().zip(h.as_chunks().0) {
            *x = f32::from_bits(u32::from(u16::from_le_bytes(*h)) << 16);
        }
        floats
    }

    #[inline(always)]
    fn load_codes(codes: &[u8; 16]) -> [f32; 16] {
        codes.map(|code| f32::from(code as i8))
    }

    #[inline(always)]
    fn store(a: &mut [f32; 16], x: [f32; 16]) {
        *a = x;
    }

    #[inline(always)]
    fn splat(x: f32) -> [f32; 16] {
        [x; 16]
    }

    #[inline(always)]
    fn splat_half(h: [u8; 2]) -> [f32; 16] {
        [crate::quant::f16_to_f32(u16::from_le_bytes(h)); 16]
    }

    #[inline(always)]
    fn mul_16(mut a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        for i in 0..16 {
            a[i] *= b[i];
        }
        a
    }

    #[inline(always)]
    fn add_16(mut a: [f32; 16], b: [f32; 16]) -> [f32; 16] {
        for i in 0..16 {
            a[i] += b[i];
        }
        a
    }

    #[inline(always)]
    fn max_16(a: [f32; 16], mut b: [f32; 16]) -> [f32; 16] {
        for i in 0..16 {
            b[i] = if a[i] > b[i] { a[i] } else { b[i] };
        }
        b
    }

    #[inline(always)]
    fn sum(a: [f32; 16]) -> f32 {
        reduce(a)
    }

    #[inline(always)]
    fn largest(a: [f32; 16]) -> f32 {
        a.into_iter().fold(f32::MIN, f32::max)
    }

    #[inline(always)]
    fn mul_add_16(a: [f32; 16], b: [f32; 16], mut c: [f32; 16]) -> [f32; 16] {
        for i in 0..16 {
            c[i] = Self::mul_add(a[i], b[i], c[i]);
        }
        c
    }
}

/// Sum of sixteen partial sums, in a fixed order.
#[inline(always)]
fn reduce(mut a: [f32; 16]) -> f32 {
    for half in [8, 4, 2, 1] {
        for i in 0..half {
            a[i] += a[i + half];
        }
    }
    a[0]
}

/// e^x to within 2 units in the last place; NaN stays NaN. Below -87.3 the result stays at the smallest normal float,
/// and from 88.4 on it is infinite, a little early.
///
/// Cody-Waite reduction x = n ln 2 + r, then the Taylor polynomial of degree 7 on |r| <= ln 2 / 2.
#[inline(always)]
fn exp<L: Lanes>(x: f32) -> f32 {
    const SHIFT: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer, held in the low bits
    const LN2_HI: f32 = 0.693_359_4; // 9 bits: n * LN2_HI is exact
    const LN2_LO: f32 = -2.121_944_4e-4;
    let x = x.clamp(-87.3, 89.0);
    let shifted = L::mul_add(x, std::f32::consts::LOG2_E, SHIFT);
    let n = shifted - SHIFT;
    let r = L::mul_add(n, -LN2_LO, L::mul_add(n, -LN2_HI, x));
    let mut p = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = L::mul_add(p, r, c);
    }
    p * f32::from_bits(shifted.to_bits().wrapping_sub(SHIFT.to_bits()).wrapping_add(127) << 23)
}

/// The hyperbolic tangent, to within 4 u of 1 (u = 2^-24); NaN stays NaN.
#[inline(always)]
fn tanh<L: Lanes>(x: f32) -> f32 {
    1.0 - 2.0 / (1.0 + exp::<L>(2.0 * x))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tanh_is_close_and_keeps_nan() {
        for i in -60_000..60_000 {
            let x = i as f32 * 1e-3;
            let error = (f64::from(tanh::<Portable>(x)) - f64::from(x).tanh()).abs();
            assert!(error <= 4.0 * f64::from(f32::EPSILON / 2.0), "tanh({x}): error {error:e}");
        }
        assert!(tanh::<Portable>(f32::NAN).is_nan());
        assert_eq!((tanh::<Portable>(-1e30), tanh::<Portable>(1e30)), (-1.0, 1.0));
    }

    #[test]
    fn exp_is_close_and_keeps_nan() {
        for i in -87_000..88_000 {
            let x = i as f32 * 1e-3;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp::<Portable>(x)) - exact).abs() / exact;
            assert!(error <= 2.0 * f64::from(f32::EPSILON), "exp({x}): relative error {error:e}");
        }
        assert!(exp::<Portable>(f32::NAN).is_nan());
        assert!(exp::<Portable>(-1e30) < 1.3e-38 && exp::<Portable>(1e30) == f32::INFINITY);
    }
}
