//! Weights and activations to check a matrix product with.

use super::formats::Format;
use braise_kernels::quant::q8::{self, BLOCK, Q8Mat, Q8Row, SUM_BLOCK};
use braise_kernels::quant::{Dot, Type};
use braise_kernels::table::{Acts, F32Mat};
use fastrand::Rng;
use std::ops::Range;

/// A standard normal number (Box-Muller).
pub fn normal(random: &mut Rng) -> f32 {
    let (u, v) = (1.0 - random.f64(), random.f64());
    ((-2.0 * u.ln()).sqrt() * (std::f64::consts::TAU * v).cos()) as f32
}

/// Activations that are owned, whole columns one after the other.
#[derive(Debug, Clone)]
pub enum Activations {
    /// For float weights.
    F32(Vec<f32>),
    /// For quantized weights.
    Q8(Q8),
}

/// The arrays of [`Q8Row`].
#[derive(Debug, Clone)]
#[allow(missing_docs, reason = "the names are those of Q8Row")]
pub struct Q8 {
    pub q: Vec<i8>,
    pub z: Vec<i8>,
    pub d: Vec<f32>,
    pub sum: Vec<i16>,
}

impl Q8 {
    /// From the integers `t = q + z`, their zero points and their scales.
    pub fn new(t: &[i32], z: Vec<i8>, d: Vec<f32>) -> Q8 {
        let q = t.iter().enumerate().map(|(i, t)| {
            let q = t - i32::from(z[i / BLOCK]);
            assert!((-127..=127).contains(&q), "{t} is out of reach with a zero point of {}", z[i / BLOCK]);
            q as i8
        });
        let sum = t.chunks_exact(SUM_BLOCK).map(|t| t.iter().sum::<i32>() as i16);
        Q8 { q: q.collect(), sum: sum.collect(), z, d }
    }

    /// As the engine quantizes them.
    pub fn quantize(x: &[f32]) -> Q8 {
        let n = x.len();
        let (mut q, mut z, mut d) = (vec![0; n], vec![0; n / BLOCK], vec![0.0; n / BLOCK]);
        let mut sum = vec![0; n / SUM_BLOCK];
        q8::quantize(x, &mut q, &mut z, &mut d, &mut sum);
        Q8 { q, z, d, sum }
    }
}

/// `v` after `by` other values, so that it is not aligned.
pub fn shifted<T: Copy + Default>(v: &[T], by: usize) -> Vec<T> {
    let mut all = vec![T::default(); by];
    all.extend_from_slice(v);
    all
}

impl Activations {
    /// The same columns, each array after `by` other values.
    pub fn shifted(&self, by: usize) -> Activations {
        match self {
            Activations::F32(x) => Activations::F32(shifted(x, by)),
            Activations::Q8(Q8 { q, z, d, sum }) => Activations::Q8(Q8 {
                q: shifted(q, by),
                z: shifted(z, by),
                d: shifted(d, by),
                sum: shifted(sum, by),
            }),
        }
    }

    /// These columns of k values, of arrays that were shifted `by` values.
    pub fn columns(&self, k: usize, columns: Range<usize>, by: usize) -> Acts<'_> {
        let part = |unit: usize| columns.start * k / unit + by..columns.end * k / unit + by;
        match self {
            Activations::F32(x) => Acts::F32(F32Mat { row_len: k, all: &x[part(1)] }),
            Activations::Q8(x) => {
                let all = Q8Row {
                    q: &x.q[part(1)],
                    z: &x.z[part(BLOCK)],
                    d: &x.d[part(BLOCK)],
                    sum: &x.sum[part(SUM_BLOCK)],
                };
                Acts::Q8(Q8Mat { row_len: k, all })
            }
        }
    }

    /// The values that they stand for.
    pub fn values(&self) -> Vec<f64> {
        match self {
            Activations::F32(x) => x.iter().map(|x| f64::from(*x)).collect(),
            Activations::Q8(x) => {
                let value =
                    |i: usize| f64::from(x.d[i / BLOCK]) * (f64::from(x.q[i]) + f64::from(x.z[i / BLOCK]));
                (0..x.q.len()).map(value).collect()
            }
        }
    }
}

/// Whether weights of this type take quantized activations.
pub fn takes_q8(ty: Type) -> bool {
    matches!(ty.scalar().expect("a type with a kernel").dot, Dot::Q8(_))
}

fn pick<T: Copy>(random: &mut Rng, from: &[T]) -> T {
    from[random.usize(..from.len())]
}

/// The steps in which values of the exact tier are counted: a weight is a multiple of 1 or 1/2, and so is an activation.
pub const EXACT_UNIT: f64 = 0.25;

/// Weights whose scales are powers of two.
pub fn exact_weights(ty: Type, n: usize, random: &mut Rng) -> Vec<u8> {
    let scale = |random: &mut Rng| pick(random, &[1.0, -1.0, 0.5, -0.5]);
    match Format::find(ty) {
        Some(format) => random_blocks(ty, n, random, |random| scale(random) / format.unit),
        None => {
            let x: Vec<f32> = (0..n).map(|_| scale(random) * f32::from(random.i8(-128..=127))).collect();
            quantize(ty, &x)
        }
    }
}

/// Activations whose scales are powers of two, and whose products with weights of at most `size`, over a row of k, add
/// up to less than 2^24 units; `parts` is how many times the size of a weight its parts can have.
pub fn exact_activations(
    ty: Type,
    k: usize,
    columns: usize,
    size: f64,
    parts: f64,
    random: &mut Rng,
) -> Activations {
    let budget = (f64::from(1 << 24) * EXACT_UNIT / (parts * size)) as usize;
    // as large as possible, and where that is less than 1, in a few places
    let largest = (budget / k).clamp(1, 100) as i32;
    let n = columns * k;
    let mut t = vec![0; n];
    for column in t.chunks_exact_mut(k) {
        for _ in 0..budget.min(k) {
            column[random.usize(..k)] = random.i32(-largest..=largest);
        }
    }
    let d: Vec<f32> = (0..n.div_ceil(BLOCK)).map(|_| pick(random, &[1.0, 0.5])).collect();
    if takes_q8(ty) {
        let z = (0..n / BLOCK).map(|_| random.i32(largest - 127..=127 - largest) as i8).collect();
        Activations::Q8(Q8::new(&t, z, d))
    } else {
        Activations::F32(t.iter().enumerate().map(|(i, t)| d[i / BLOCK] * *t as f32).collect())
    }
}

/// Blocks of random bits; `scale` gives their floating-point fields.
pub fn random_blocks(ty: Type, n: usize, random: &mut Rng, scale: impl Fn(&mut Rng) -> f32) -> Vec<u8> {
    let format = Format::find(ty).expect("a block format");
    let mut w = vec![0; n / ty.block() * ty.bytes()];
    random.fill(&mut w);
    for block in w.chunks_exact_mut(ty.bytes()) {
        format.scales.iter().for_each(|field| field.set(block, scale(random)));
    }
    w
}

/// Weights as the format's own quantizer makes them.
pub fn quantize(ty: Type, x: &[f32]) -> Vec<u8> {
    let mut w = vec![0; ty.row_bytes(x.len()).expect("whole blocks")];
    ty.scalar().and_then(|scalar| scalar.quantize).expect("a type that can be made")(x, &mut w);
    w
}

/// Weights of a trained model's distribution: normal, with a standard deviation that differs between blocks.
pub fn realistic_weights(ty: Type, n: usize, random: &mut Rng) -> Vec<u8> {
    let x: Vec<f32> = (0..n).map(|i| normal(random) * 0.02 * (1.0 + (i / 64 % 5) as f32)).collect();
    quantize(ty, &x)
}

/// Activations of a model's distribution: normal, and one in a hundred is thirty times larger.
pub fn realistic_activations(ty: Type, n: usize, random: &mut Rng) -> Activations {
    let x: Vec<f32> = (0..n).map(|_| normal(random) * if random.u8(..) < 3 { 30.0 } else { 1.0 }).collect();
    if takes_q8(ty) { Activations::Q8(Q8::quantize(&x)) } else { Activations::F32(x) }
}
