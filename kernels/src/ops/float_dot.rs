//! Dot products of float weights with float activations.

use super::Lanes;
use half::f16;

/// Independent vectors of partial sums: enough to hide the latency of an addition.
const VECTORS: usize = 4;

/// Sum of `w[i] * x[i]`, for weights of `BYTES` bytes: sixteen of them are `WIDE` bytes, which `widen` makes floats.
#[inline(always)]
fn dot<L: Lanes, const BYTES: usize, const WIDE: usize>(
    w: &[u8],
    x: &[f32],
    widen: impl Fn(&[u8; WIDE]) -> [f32; 16],
) -> f32 {
    assert!(w.len() == BYTES * x.len() && WIDE == 16 * BYTES);
    let mut sums = [[0.0; 16]; VECTORS];
    let (w_chunks, w_rest) = w.as_chunks::<WIDE>();
    let (x_chunks, x_rest) = x.as_chunks::<16>();
    let (w_groups, w_last) = w_chunks.as_chunks::<VECTORS>();
    let (x_groups, x_last) = x_chunks.as_chunks::<VECTORS>();
    for (w, x) in w_groups.iter().zip(x_groups) {
        for v in 0..VECTORS {
            sums[v] = add_products::<L>(widen(&w[v]), &x[v], sums[v]);
        }
    }
    for (w, x) in w_last.iter().zip(x_last) {
        sums[0] = add_products::<L>(widen(w), x, sums[0]);
    }
    let (mut w, mut x) = ([0; WIDE], [0.0; 16]);
    w[..w_rest.len()].copy_from_slice(w_rest);
    x[..x_rest.len()].copy_from_slice(x_rest);
    sums[1] = add_products::<L>(widen(&w), &x, sums[1]);
    let mut total = sums[0];
    for sum in &sums[1..] {
        for i in 0..16 {
            total[i] += sum[i];
        }
    }
    super::reduce(total)
}

#[inline(always)]
fn add_products<L: Lanes>(w: [f32; 16], x: &[f32; 16], mut sums: [f32; 16]) -> [f32; 16] {
    for i in 0..16 {
        sums[i] = L::mul_add(w[i], x[i], sums[i]);
    }
    sums
}

/// A row of F32 weights (little-endian bytes) times activations.
#[inline(always)]
pub fn dot_f32<L: Lanes>(w: &[u8], x: &[f32]) -> f32 {
    dot::<L, 4, 64>(w, x, |w| {
        bytemuck::cast::<[u8; 64], [u32; 16]>(*w).map(|w| f32::from_bits(u32::from_le(w)))
    })
}

/// A row of F16 weights times activations.
#[inline(always)]
pub fn dot_f16<L: Lanes>(w: &[u8], x: &[f32]) -> f32 {
    dot::<L, 2, 32>(w, x, |w| {
        L::widen(&bytemuck::cast::<[u8; 32], [u16; 16]>(*w).map(|w| f16::from_bits(u16::from_le(w))))
    })
}

/// A row of BF16 weights times activations.
#[inline(always)]
pub fn dot_bf16<L: Lanes>(w: &[u8], x: &[f32]) -> f32 {
    dot::<L, 2, 32>(w, x, |w| {
        bytemuck::cast::<[u8; 32], [u16; 16]>(*w).map(|w| f32::from_bits(u32::from(u16::from_le(w)) << 16))
    })
}
