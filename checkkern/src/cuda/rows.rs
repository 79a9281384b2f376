//! Rows of values: embedding, normalization, activation, sums.

use braise_kernels::cuda::ops::{
    ActivateRows, AddValues, EmbedRows, Norm, NormKind, NormRows, ScaleValues, SumRows, WeighRows,
};
use braise_kernels::cuda::{Address, Error};
use braise_kernels::ops::{Activation, Xielu};
use braise_kernels::quant::Type;
use fastrand::Rng;
use half::bf16;

use super::super::compare::{Want, same};
use super::super::inputs::{Q8, exact_weights, normal};
use super::super::ops::{EXP, U, expect_all};
use super::super::report::Cases;
use super::Bench;

pub(super) fn normals(n: usize, random: &mut Rng) -> Vec<f32> {
    (0..n).map(|_| normal(random)).collect()
}

/// The arrays of blocks of quantized activations as they lie on the device: q, d, z, sum.
pub(super) fn q8_bytes(x: &Q8) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (i, q) in x.q.chunks_exact(32).enumerate() {
        bytes.extend(q.iter().map(|q| *q as u8));
        bytes.extend(x.d[i].to_le_bytes());
        bytes.extend(i32::from(x.z[i]).to_le_bytes());
        x.sum[2 * i..2 * i + 2].iter().for_each(|sum| bytes.extend(i32::from(*sum).to_le_bytes()));
    }
    bytes
}

/// Looks whether `got` are these values, quantized as the CPU does it, to the bit.
pub(super) fn expect_q8(what: &str, got: &[u8], x: &[f32], cases: &mut Cases) {
    let want = q8_bytes(&Q8::quantize(x));
    for (i, (got, want)) in got.chunks_exact(48).zip(want.chunks_exact(48)).enumerate() {
        // a poisoned block has a NaN of any payload, and its other numbers do not matter
        let scale = |block: &[u8]| f32::from_le_bytes([block[32], block[33], block[34], block[35]]);
        let ok = got == want || scale(got).is_nan() && scale(want).is_nan();
        cases.expect(ok, || format!("{what}, block {i}: {got:?} instead of {want:?}"));
    }
    cases.expect(got.len() == want.len(), || format!("{what}: {} bytes", got.len()));
}

/// Rows of a matrix, to the bit.
pub(super) fn embed_rows(bench: &mut Bench<'_>, ty: Type, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(11);
    let (rows, ids) = (5, [4_u32, 0, 4]);
    for n in [ty.block().max(7), 3 * ty.block().max(32)] {
        let mut w = exact_weights(ty, rows * n, &mut random);
        if ty.block() > 1 {
            random.fill(&mut w); // any bytes: infinities and NaN as well
        }
        let mut all = vec![0.0; rows * n];
        (ty.scalar().expect("a type with a kernel").dequantize)(&w, &mut all);
        let (w, on_device) = (bench.put(&w)?, bench.put(&ids)?);
        let before = normals(ids.len() * n, &mut random);
        for (factor, add) in [(1.0, false), (1.5, true)] {
            let what = format!("{ty}, {n} values, added {add}");
            let y = if add { bench.put(&before)? } else { bench.room(ids.len() * n)? };
            let tokens = ids.len() as u32;
            bench.run(EmbedRows { ty, w, ids: on_device, tokens, n: n as u32, factor, add, y }.launch())?;
            let got = match add {
                true => bench.get(y, ids.len() * n)?,
                false => bench.results(y, ids.len() * n, &what, cases)?,
            };
            for (i, got) in got.into_iter().enumerate() {
                let weight = all[ids[i / n] as usize * n + i % n];
                let (rounded, fused) = match add {
                    // an addition may be fused with the product
                    true => (before[i] + factor * weight, factor.mul_add(weight, before[i])),
                    false => (factor * weight, factor * weight),
                };
                cases.expect(same(got, rounded) || same(got, fused), || {
                    format!("{what}, value {i}: {got} instead of {rounded}")
                });
            }
        }
    }
    Ok(())
}

/// Normalized rows in f64, with what they may be off by.
pub(super) fn normalized(kind: NormKind, x: &[f32], weight: &[f32], bias: &[f32], eps: f32) -> Vec<Want> {
    let n = x.len() as f64;
    let mean = match kind {
        NormKind::Layer => x.iter().map(|x| f64::from(*x)).sum::<f64>() / n,
        _ => 0.0,
    };
    let square = x.iter().map(|x| (f64::from(*x) - mean).powi(2)).sum::<f64>() / n;
    let scale = 1.0 / (square + f64::from(eps)).sqrt();
    // of each thread's sum and of those over threads; the mean moves all values
    let relative = (n / 512.0 + 32.0) * U;
    let off =
        if mean == 0.0 { 0.0 } else { relative * x.iter().map(|x| f64::from(x.abs())).sum::<f64>() / n };
    let want = |(i, x): (usize, &f32)| {
        if kind == NormKind::None {
            return Want::Exactly(*x);
        }
        let w = f64::from(weight[i]);
        let (value, bias) = ((f64::from(*x) - mean) * scale * w, bias.get(i).map_or(0.0, |b| f64::from(*b)));
        let bound = relative * (value.abs() + bias.abs()) + 2.0 * off * scale * w.abs();
        Want::Within { exact: value + bias, bound }
    };
    x.iter().enumerate().map(want).collect()
}

pub(super) fn norm_rows(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(12);
    for n in [32, 96, 576, 2048, 70] {
        for kind in [NormKind::None, NormKind::Rms, NormKind::Layer] {
            let (rows, stride) = (3, n + 8);
            // so small that what is added to the mean square matters, or not
            let size = if n % 3 == 0 { 0.003 } else { 3.0 };
            let x: Vec<f32> = normals(rows * stride, &mut random).iter().map(|x| size * (x + 0.3)).collect();
            let (weight, bias) = (normals(n, &mut random), normals(n, &mut random));
            let bias = if n % 64 == 0 { bias } else { Vec::new() };
            let before = normals(rows * n, &mut random);
            let what = format!("{kind:?}, {n} values");
            let (y, sum) = (bench.room(rows * n)?, bench.put(&before)?);
            let (q8, bf) = (bench.zeros(rows * n / 32 * 48)?, bench.zeros(rows * n * 2)?);
            let q8 = if n % 32 == 0 { q8 } else { Address::NONE };
            let norm = Norm {
                kind,
                eps: 1e-5,
                weight: bench.put(&weight)?,
                bias: if bias.is_empty() { Address::NONE } else { bench.put(&bias)? },
            };
            let launch = NormRows {
                x: bench.put(&x)?,
                stride: stride as u32,
                rows: rows as u32,
                n: n as u32,
                norm,
                y,
                q8,
                bf16: bf,
                sum,
                factor: 0.5,
            };
            bench.run(launch.launch())?;
            let got = bench.results(y, rows * n, &what, cases)?;
            for (row, got) in got.chunks_exact(n).enumerate() {
                let want = normalized(kind, &x[row * stride..][..n], &weight, &bias, 1e-5);
                expect_all(&what, got, want, cases);
            }
            if n % 32 == 0 {
                expect_q8(&what, &bench.get(q8, rows * n / 32 * 48)?, &got, cases);
            }
            let halves: Vec<u16> = bench.get(bf, rows * n)?;
            let rounded = got.iter().map(|x| bf16::from_f32(*x).to_bits());
            cases.expect(halves.iter().copied().eq(rounded), || format!("{what}: other bf16"));
            let sums: Vec<f32> = bench.get(sum, rows * n)?;
            let want = before.iter().zip(&got).map(|(x, y)| {
                let exact = f64::from(*x) + 0.5 * f64::from(*y);
                Want::Within { exact, bound: 2.0 * U * exact.abs() }
            });
            expect_all(&format!("{what}, sum"), &sums, want, cases);
        }
    }
    quantized_specials(bench, &mut random, cases)
}

/// Zeros, subnormals, infinities and NaN are quantized as on the CPU.
fn quantized_specials(bench: &mut Bench<'_>, random: &mut Rng, cases: &mut Cases) -> Result<(), Error> {
    let specials = [0.0, -0.0, 1e-41, f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MIN_POSITIVE, 1e30];
    let n = 32 * 64;
    let mut x: Vec<f32> = normals(n, random).iter().map(|x| x * 2f32.powi(random.i32(-100..100))).collect();
    for (block, x) in x.chunks_exact_mut(32).enumerate() {
        match block % 4 {
            0 => x[random.usize(..32)] = specials[block / 4 % specials.len()],
            1 => x.fill(specials[block / 4 % specials.len()]),
            2 => x.iter_mut().for_each(|x| *x = x.abs()),
            _ => x.iter_mut().enumerate().for_each(|(i, x)| {
                *x = if i == 0 { 254.0 } else { f32::from(random.u8(..)) + 0.5 };
            }),
        }
    }
    let q8 = bench.zeros(n / 32 * 48)?;
    let x_at = bench.put(&x)?;
    let launch = NormRows { x: x_at, stride: n as u32, rows: 1, n: n as u32, q8, ..NormRows::default() };
    bench.run(launch.launch())?;
    let got: Vec<u8> = bench.get(q8, n / 32 * 48)?;
    expect_q8("special values", &got, &x, cases);
    Ok(())
}

pub(super) const ACTIVATIONS: [Activation; 5] =
    [Activation::Silu, Activation::Gelu, Activation::Relu, Activation::ReluSquared, Activation::Clamped];

/// What an activation of `gate`, times `up` if there is that, may be, with inputs that are off by `off` relative to
/// themselves.
pub(super) fn activated(activation: Activation, gate: f32, up: Option<f32>) -> Want {
    let x = f64::from(gate);
    let swish = |x: f64, steepness: f64| x / (1.0 + (-steepness * x).exp());
    let value = match activation {
        Activation::Silu => swish(x, 1.0),
        Activation::Gelu => swish(x, 2.0 * (2.0 / std::f64::consts::PI).sqrt() * (0.044_715 * x * x + 1.0)),
        Activation::Relu => x.max(0.0),
        Activation::ReluSquared => x.max(0.0).powi(2),
        Activation::Clamped => swish(x.min(7.0), 1.702),
        Activation::Xielu(Xielu { positive, negative, linear, eps }) => {
            let [positive, negative, linear, eps] = [positive, negative, linear, eps].map(f64::from);
            linear * x + if x > 0.0 { positive * x * x } else { negative * (x.min(eps).exp_m1() - x) }
        }
    };
    let factor = match (activation, up) {
        (_, None) => 1.0,
        (Activation::Clamped, Some(up)) => f64::from(up.clamp(-7.0, 7.0)) + 1.0,
        (_, Some(up)) => f64::from(up),
    };
    // an exponent is off by some roundings of itself, which its power multiplies
    let exponent = 4.0 * (x.abs() + x.abs().powi(3)).min(100.0);
    // the parts of xIELU, which may cancel out
    let size = if matches!(activation, Activation::Xielu(_)) { 2.0 * x.abs() + 2.0 } else { 0.0 };
    let bound = (value.abs() + size) * factor.abs() * (EXP + (exponent + 8.0) * U) + 1e-37;
    Want::Within { exact: value * factor, bound }
}

/// Rows one behind the other, and such that lie apart.
pub(super) fn activate_rows(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(13);
    let xielu = Activation::Xielu(Xielu { positive: 0.7, negative: 0.3, linear: 0.5, eps: -0.01 });
    for activation in ACTIVATIONS.into_iter().chain([xielu]) {
        for (n, gates, gap) in [(320, true, 0), (320, false, 5), (77, true, 3)] {
            let (rows, gate_stride, up_stride) = (3, n + gap, n + 2 * gap);
            let [gate, up] = [gate_stride, up_stride].map(|stride| {
                normals(rows * stride, &mut random).iter().map(|x| 4.0 * x).collect::<Vec<_>>()
            });
            let what = format!("{activation:?}, {n} values, gated {gates}");
            let (y, bf) = (bench.room(rows * n)?, bench.zeros(2 * rows * n)?);
            let q8 = if n % 32 == 0 { bench.zeros(rows * n / 32 * 48)? } else { Address::NONE };
            let up_at = bench.put(&up)?;
            let divisors: Vec<f32> =
                (0..n).map(|i| if gap == 3 { 0.5 + i as f32 / 64.0 } else { 1.0 }).collect();
            let divisors_at = bench.put(&divisors)?;
            let launch = ActivateRows {
                gate: bench.put(&gate)?,
                gate_stride: gate_stride as u32,
                up: if gates { up_at } else { Address::NONE },
                up_stride: up_stride as u32,
                rows: rows as u32,
                n: n as u32,
                activation,
                divisors: if gap == 3 { divisors_at } else { Address::NONE },
                y,
                q8,
                bf16: bf,
            };
            bench.run(launch.launch())?;
            let want = (0..rows * n).map(|i| {
                let up = up[i / n * up_stride + i % n];
                let divisor = f64::from(divisors[i % n]);
                match activated(activation, gate[i / n * gate_stride + i % n], gates.then_some(up)) {
                    Want::Within { exact, bound } => {
                        let exact = exact / divisor;
                        Want::Within { exact, bound: bound / divisor + 2.0 * U * exact.abs() }
                    }
                    want => want,
                }
            });
            expect_forms(bench, &what, (y, q8, bf), rows * n, want, cases)?;
        }
    }
    Ok(())
}

/// Results as floats, and the same quantized and as bf16.
fn expect_forms(
    bench: &mut Bench<'_>,
    what: &str,
    (y, q8, bf): (Address, Address, Address),
    n: usize,
    want: impl Iterator<Item = Want>,
    cases: &mut Cases,
) -> Result<(), Error> {
    let got = bench.results(y, n, what, cases)?;
    expect_all(what, &got, want, cases);
    if q8 != Address::NONE {
        expect_q8(what, &bench.get(q8, n / 32 * 48)?, &got, cases);
    }
    let halves: Vec<u16> = bench.get(bf, n)?;
    let rounded = got.iter().map(|x| bf16::from_f32(*x).to_bits());
    cases.expect(halves.iter().copied().eq(rounded), || format!("{what}: other bf16"));
    Ok(())
}

pub(super) fn weigh_rows(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(16);
    for (n, rows, share) in [(288, 6, 3), (33, 2, 1)] {
        let (x, weights) = (normals(rows / share * n, &mut random), normals(rows, &mut random));
        let (y, bf) = (bench.room(rows * n)?, bench.zeros(2 * rows * n)?);
        let q8 = if n % 32 == 0 { bench.zeros(rows * n / 32 * 48)? } else { Address::NONE };
        let launch = WeighRows {
            x: bench.put(&x)?,
            n: n as u32,
            rows: rows as u32,
            share: share as u32,
            weights: bench.put(&weights)?,
            y,
            q8,
            bf16: bf,
        };
        bench.run(launch.launch())?;
        let want = (0..rows * n).map(|i| Want::Exactly(weights[i / n] * x[i / n / share * n + i % n]));
        expect_forms(bench, &format!("{rows} rows of {n}"), (y, q8, bf), rows * n, want, cases)?;
    }
    Ok(())
}

pub(super) fn sum_rows(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(17);
    for (rows, n, stride) in [(1, 1, 1), (21, 200, 200), (8, 77, 90)] {
        let x = normals(rows * stride, &mut random);
        let before: Vec<f64> = normals(n, &mut random).iter().map(|x| f64::from(*x) / 3.0).collect();
        let (x_at, y) = (bench.put(&x)?, bench.put(&before)?);
        let launch = SumRows { x: x_at, stride: stride as u32, rows: rows as u32, n: n as u32, y };
        bench.run(launch.launch())?;
        let got: Vec<f64> = bench.get(y, n)?;
        for (i, (got, before)) in got.iter().zip(&before).enumerate() {
            let parts = || (0..rows).map(|row| f64::from(x[row * stride + i]));
            let want = before + parts().sum::<f64>();
            let size = before.abs() + parts().map(f64::abs).sum::<f64>();
            let ok = (got - want).abs() <= 2.0 * rows as f64 * f64::EPSILON * size;
            cases.expect(ok, || format!("{rows} rows, value {i}: {got} instead of {want}"));
        }
    }
    Ok(())
}

pub(super) fn add_and_scale(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(14);
    for n in [1, 255, 700] {
        let (x, y) = (normals(n, &mut random), normals(n, &mut random));
        let (x_at, y_at) = (bench.put(&x)?, bench.put(&y)?);
        bench.run(AddValues { x: x_at, factor: 0.75, n: n as u64, y: y_at }.launch())?;
        let want = x.iter().zip(&y).map(|(x, y)| {
            let exact = 0.75 * f64::from(*x) + f64::from(*y);
            Want::Within { exact, bound: U * (exact.abs() + f64::from(x.abs())) }
        });
        let got: Vec<f32> = bench.get(y_at, n)?;
        expect_all(&format!("add {n}"), &got, want, cases);
        for cap in [None, Some(2.5)] {
            let at = bench.put(&x)?;
            bench.run(ScaleValues { x: at, n: n as u64, factor: 3.0, cap }.launch())?;
            let want = x.iter().map(|x| {
                let scaled = 3.0 * f64::from(*x);
                let exact = cap.map_or(scaled, |cap| f64::from(cap) * (scaled / f64::from(cap)).tanh());
                Want::Within { exact, bound: cap.map_or(U * scaled.abs(), |cap| 16.0 * U * f64::from(cap)) }
            });
            let got: Vec<f32> = bench.get(at, n)?;
            expect_all(&format!("scale {n}, cap {cap:?}"), &got, want, cases);
        }
    }
    Ok(())
}
