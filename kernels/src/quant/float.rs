//! F32, F16, BF16: weights stored as plain floating-point numbers, little-endian, one to a block.
//!
//! ```text
//! F32    sign 1 | exponent 8 | mantissa 23
//! F16    sign 1 | exponent 5 | mantissa 10
//! BF16   sign 1 | exponent 8 | mantissa 7      (the upper half of an F32)
//! ```

use bytemuck::{Pod, Zeroable};

use super::{Dot, Scalar};

/// Single precision.
pub static F32: Scalar = scalar::<Single>();
/// Half precision.
pub static F16: Scalar = scalar::<Half>();
/// Brain float.
pub static BF16: Scalar = scalar::<Brain>();

const fn scalar<E: Element>() -> Scalar {
    Scalar { dequantize: dequantize::<E>, quantize: Some(quantize::<E>), dot: Dot::F32(dot::<E>) }
}

/// One weight as it lies in the file. Arrays of bytes, because a row may start at any address.
trait Element: Pod {
    fn to_f32(self) -> f32;
    /// The nearest number of this type, ties to even; beyond the largest it is infinite.
    fn from_f32(x: f32) -> Self;
}

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(transparent)]
struct Single([u8; 4]);

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(transparent)]
struct Half([u8; 2]);

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(transparent)]
struct Brain([u8; 2]);

impl Element for Single {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_le_bytes(self.0)
    }

    fn from_f32(x: f32) -> Self {
        Self(x.to_le_bytes())
    }
}

impl Element for Half {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f16_to_f32(u16::from_le_bytes(self.0))
    }

    fn from_f32(x: f32) -> Self {
        Self(half::f16::from_f32(x).to_le_bytes())
    }
}

impl Element for Brain {
    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(u16::from_le_bytes(self.0)) << 16)
    }

    fn from_f32(x: f32) -> Self {
        Self(half::bf16::from_f32(x).to_le_bytes())
    }
}

fn dequantize<E: Element>(w: &[u8], out: &mut [f32]) {
    let w: &[E] = bytemuck::cast_slice(w);
    assert_eq!(w.len(), out.len(), "the output must hold exactly the weights");
    for (w, out) in w.iter().zip(out) {
        *out = w.to_f32();
    }
}

fn quantize<E: Element>(x: &[f32], w: &mut [u8]) {
    let w: &mut [E] = bytemuck::cast_slice_mut(w);
    assert_eq!(w.len(), x.len(), "the weights given must be exactly those to store");
    for (x, w) in x.iter().zip(w) {
        *w = E::from_f32(*x);
    }
}

/// Partial sums of a dot product: they keep the rounding error at n / LANES additions, and fill SIMD registers.
const LANES: usize = 16;

fn dot<E: Element>(w: &[u8], x: &[f32]) -> f32 {
    let w: &[E] = bytemuck::cast_slice(w);
    assert_eq!(w.len(), x.len(), "weights and activations must have the same length");
    let (w, w_rest) = w.as_chunks::<LANES>();
    let (x, x_rest) = x.as_chunks::<LANES>();
    let mut lanes = [0.0; LANES];
    for (w, x) in w.iter().zip(x) {
        for lane in 0..LANES {
            lanes[lane] += w[lane].to_f32() * x[lane];
        }
    }
    for (lane, (w, x)) in lanes.iter_mut().zip(w_rest.iter().zip(x_rest)) {
        *lane += w.to_f32() * x;
    }
    let mut width = LANES;
    while width > 1 {
        width /= 2;
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
    }
    lanes[0]
}

/// The exact value of an f16. Three integer ranges and no call: the conversion of the `half` crate looks up the CPU's
/// features each time, which costs more than the conversion.
#[inline(always)]
pub fn f16_to_f32(bits: u16) -> f32 {
    let magnitude = u32::from(bits & 0x7fff);
    let value = if magnitude < 0x0400 {
        (magnitude as f32 * f32::from_bits((127 - 24) << 23)).to_bits() // subnormal: multiples of 2^-24
    } else if magnitude < 0x7c00 {
        (magnitude << 13) + ((127 - 15) << 23) // the exponents' biases are 15 and 127
    } else {
        (magnitude << 13) | 0x7f80_0000 // infinity and NaN
    };
    f32::from_bits(value | u32::from(bits & 0x8000) << 16)
}

/// 1.5 * 2^23: adding it rounds to an integer, which is then in the low bits.
pub(crate) const MAGIC: f32 = 12_582_912.0;

/// The nearest whole number, ties to even, for |x| < 2^22.
///
/// `f32::round_ties_even` is a library call on x86-64 without SSE4.1; this is two additions: numbers near 1.5 * 2^23
/// have no fractional bits.
#[inline(always)]
pub(super) fn round(x: f32) -> f32 {
    (x + MAGIC) - MAGIC
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f16_to_f32_agrees_with_half_on_every_input() {
        for bits in 0..=u16::MAX {
            let (ours, theirs) = (f16_to_f32(bits), half::f16::from_bits(bits).to_f32());
            assert!(
                ours.to_bits() == theirs.to_bits() || ours.is_nan() && theirs.is_nan(),
                "{bits:#06x}: {ours} instead of {theirs}"
            );
        }
    }

    #[test]
    fn dot_takes_rows_of_any_length() {
        for n in 0..3 * LANES {
            let x: Vec<f32> = (1..=n).map(|i| i as f32).collect();
            let mut w = vec![0; 4 * n];
            quantize::<Single>(&x, &mut w);
            assert_eq!(dot::<Single>(&w, &x), (n * (n + 1) * (2 * n + 1) / 6) as f32, "n = {n}");
        }
    }

    #[test]
    fn round_agrees_with_the_library() {
        for quarter in -100_000..=100_000_i32 {
            let x = quarter as f32 / 4.0;
            for x in [x, x.next_up(), x.next_down()] {
                assert_eq!(round(x), x.round_ties_even(), "{x}");
            }
        }
    }
}
