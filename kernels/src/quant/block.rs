//! What the block formats share. In every one of them a block holds `N` weights in `G` groups of equal size, and
//!
//! ```text
//! weight[i] = scale[g] * code[i] + offset[g]        g = i / (N / G), codes are whole numbers in i8
//! ```
//!
//! (without `offset` in the symmetric formats). A format says how its bits become codes, scales and offsets, and how a
//! block is made; dequantization and dot product follow from that, once, here.

use bytemuck::Pod;

use super::float::f16_to_f32;
use super::q8::{self, Q8Row};

/// One block of a format, as it lies in the file.
pub trait BlockFormat<const N: usize, const G: usize>: Pod {
    /// The `N` codes: for the formats with a table, the table's entries.
    fn codes(&self) -> [i8; N];

    /// The scale of each group.
    fn scales(&self) -> [f32; G];

    /// The offset of each group; `None` in symmetric formats.
    #[inline(always)]
    fn offsets(&self) -> Option<[f32; G]> {
        None
    }

    /// The block that stands for `x`. The values must be finite: what others become is unspecified.
    fn quantize(x: &[f32; N]) -> Self;
}

/// `Scalar::dequantize` of a block format: w (n / N blocks) -> out (n).
pub(super) fn dequantize<B: BlockFormat<N, G>, const N: usize, const G: usize>(w: &[u8], out: &mut [f32]) {
    let w: &[B] = bytemuck::cast_slice(w);
    let (out, rest) = out.as_chunks_mut::<N>();
    assert!(
        rest.is_empty() && out.len() == w.len(),
        "the output must hold exactly the weights of the blocks"
    );
    for (block, out) in w.iter().zip(out) {
        let (codes, scales, offsets) = (block.codes(), block.scales(), block.offsets());
        for i in 0..N {
            let scaled = scales[i * G / N] * f32::from(codes[i]);
            out[i] = offsets.map_or(scaled, |offset| scaled + offset[i * G / N]);
        }
    }
}

/// `Scalar::quantize` of a block format: x (n) -> w (n / N blocks).
pub(super) fn quantize<B: BlockFormat<N, G>, const N: usize, const G: usize>(x: &[f32], w: &mut [u8]) {
    let w: &mut [B] = bytemuck::cast_slice_mut(w);
    let (x, rest) = x.as_chunks::<N>();
    assert!(rest.is_empty() && x.len() == w.len(), "the blocks must hold exactly the weights given");
    for (x, block) in x.iter().zip(w) {
        *block = B::quantize(x);
    }
}

/// `Scalar::dot` of a block format: w (n / N blocks) times x (n).
///
/// Where weights and activations both have one scale, codes are summed as integers, so exactly; these sums are scaled
/// and added in order, in f32.
pub(super) fn dot<B: BlockFormat<N, G>, const N: usize, const G: usize>(w: &[u8], x: Q8Row<'_>) -> f32 {
    let w: &[B] = bytemuck::cast_slice(w);
    assert_eq!(w.len() * N, x.q.len(), "weights and activations must have the same length");
    x.assert_lengths();
    let run = (N / G).min(q8::BLOCK); // weights that share both scales
    let mut total = 0.0;
    for (b, block) in w.iter().enumerate() {
        let (codes, scales, offsets) = (block.codes(), block.scales(), block.offsets());
        for start in (0..N).step_by(run) {
            let at = b * N + start; // in the row
            let codes = &codes[start..start + run];
            let z = i32::from(x.z[at / q8::BLOCK]);
            let sum = sum_products(codes, &x.q[at..at + run]) + z * sum_codes(codes);
            let mut value = scales[start * G / N] * sum as f32;
            if let Some(offset) = offsets {
                value += offset[start * G / N] * x.sum_of(at, run) as f32;
            }
            total += x.d[at / q8::BLOCK] * value;
        }
    }
    total
}

/// The sum of products of codes, a multiple of 16 of them: of fixed length, so that the inner loop becomes SIMD.
#[inline(always)]
fn sum_products(a: &[i8], b: &[i8]) -> i32 {
    let mut sum = 0;
    for (a, b) in a.as_chunks::<16>().0.iter().zip(b.as_chunks::<16>().0) {
        for i in 0..16 {
            sum += i32::from(a[i]) * i32::from(b[i]);
        }
    }
    sum
}

#[inline(always)]
fn sum_codes(codes: &[i8]) -> i32 {
    codes.iter().map(|&code| i32::from(code)).sum()
}

/// An f16 as it lies in a block.
#[inline(always)]
pub(super) fn f16(bytes: [u8; 2]) -> f32 {
    f16_to_f32(u16::from_le_bytes(bytes))
}

/// The nearest f16, ties to even, as it lies in a block.
pub(super) fn to_f16(x: f32) -> [u8; 2] {
    half::f16::from_f32(x).to_le_bytes()
}

/// Takes apart fields of `BITS` bits. All formats store them in the same pattern: of each run of `RUN` bytes, first
/// the lowest fields of all bytes, then the next higher fields of all, and so on.
///
/// ```text
/// BITS = 4, RUN = 16:   byte i = high field: weight i + 16 | low field: weight i
/// ```
#[inline(always)]
pub(super) fn unpack<const BITS: usize, const RUN: usize, const N: usize>(packed: &[u8]) -> [u8; N] {
    assert_eq!(packed.len() * 8, N * BITS);
    let mut fields = [0; N];
    for (run, bytes) in fields.chunks_exact_mut(RUN * 8 / BITS).zip(packed.chunks_exact(RUN)) {
        for (plane, fields) in run.chunks_exact_mut(RUN).enumerate() {
            for (field, byte) in fields.iter_mut().zip(bytes) {
                *field = byte >> (plane * BITS) & ((1 << BITS) - 1);
            }
        }
    }
    fields
}

/// The inverse of [`unpack`]; of each field only the low `BITS` bits count.
pub(super) fn pack<const BITS: usize, const RUN: usize, const BYTES: usize>(fields: &[u8]) -> [u8; BYTES] {
    assert_eq!(BYTES * 8, fields.len() * BITS);
    let mut packed = [0; BYTES];
    for (run, bytes) in fields.chunks_exact(RUN * 8 / BITS).zip(packed.chunks_exact_mut(RUN)) {
        for (plane, fields) in run.chunks_exact(RUN).enumerate() {
            for (field, byte) in fields.iter().zip(bytes.iter_mut()) {
                *byte |= (field & ((1 << BITS) - 1)) << (plane * BITS);
            }
        }
    }
    packed
}
