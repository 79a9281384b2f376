//! The float operations, each against the same formula in f64.
//!
//! Bounds count roundings: u = 2^-24 is the largest relative error of one, and a result that n roundings lead to is off
//! by at most n u times the magnitudes that were added up. Sums run in 16 lanes or more and end with a tail of at most
//! 15 values, so that a term of a sum of n meets at most n / 16 + 24 roundings.

use super::attention;
use super::compare::{Want, same};
use super::inputs::{normal, shifted};
use super::report::Cases;
use braise_kernels::ops::{Activation, DELTA_VALUES, Xielu};
use braise_kernels::quant::q8::{self, BLOCK, SUM_BLOCK};
use braise_kernels::table::Kernels;
use fastrand::Rng;

/// The largest relative error of one rounding.
pub(super) const U: f64 = f32::EPSILON as f64 / 2.0;

/// Relative error of e^x: 2 units in the last place, of 2 u each.
pub(super) const EXP: f64 = 4.0 * U;

/// The checks of one float operation.
pub type Check = fn(Kernels, &mut Cases);

/// All float operations, by their names in the kernel table.
pub const OPS: &[(&str, Check)] = &[
    ("rms_norm", rms_norm),
    ("layer_norm", layer_norm),
    ("activate", activate),
    ("gated", gated),
    ("add", add),
    ("rope", rope),
    ("attention", attention::many),
    ("attention_span", attention::spans),
    ("attention_merge", attention::merge),
    ("delta_rule", delta_rule),
    ("state_space", state_space),
    ("quantize_q8", quantize_q8),
];

/// The most roundings of a term of a sum of n.
pub(super) fn of_sum(n: usize) -> f64 {
    (n / 16 + 24) as f64
}

pub(super) fn normals(n: usize, random: &mut Rng) -> Vec<f32> {
    (0..n).map(|_| normal(random)).collect()
}

/// What lies before and after results, and in their place.
pub(super) const SENTINEL: f32 = -1.234_567_9e33;
pub(super) const GUARD: usize = 16;

/// Runs `operation` on y between sentinels, in a place that is not aligned.
pub(super) fn guarded(
    y: &[f32],
    operation: impl FnOnce(&mut [f32]),
    what: &str,
    cases: &mut Cases,
) -> Vec<f32> {
    let mut all = vec![SENTINEL; 2 * GUARD + 1 + y.len()];
    let place = GUARD + 1..GUARD + 1 + y.len();
    all[place.clone()].copy_from_slice(y);
    operation(&mut all[place.clone()]);
    let results = all.drain(place).collect();
    cases.expect(all.iter().all(|y| *y == SENTINEL), || format!("{what}: wrote beyond the results"));
    results
}

pub(super) fn expect_all(what: &str, got: &[f32], want: impl IntoIterator<Item = Want>, cases: &mut Cases) {
    let mut count = 0;
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        cases.expect(want.accepts(*got), || format!("{what}, value {i}: {got} instead of {want:?}"));
        count += 1;
    }
    cases.expect(count == got.len(), || {
        format!("{what}: {count} of {} values have an expectation", got.len())
    });
}

/// Lengths around every multiple of the vectors' sizes, and rows of real models.
fn lengths() -> impl Iterator<Item = usize> {
    (1..70).chain([95, 96, 97, 127, 128, 576, 1000, 1536, 2048, 4096, 4099])
}

fn rms_norm(k: Kernels, cases: &mut Cases) {
    let mut random = Rng::with_seed(1);
    for n in lengths() {
        for (magnitude, eps) in [(1.0, 1e-5f32), (1e-3, 1e-6), (1e4, 1e-5), (0.0, 1e-5)] {
            let x: Vec<f32> = normals(n, &mut random).iter().map(|x| x * magnitude).collect();
            let weight = normals(n, &mut random);
            let what = format!("n {n}, magnitude {magnitude}");
            let got = guarded(&vec![SENTINEL; n], |y| k.rms_norm(&x, &weight, eps, y), &what, cases);
            let mean = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / n as f64;
            let scale = 1.0 / (mean + f64::from(eps)).sqrt();
            // the square root halves the sum's error; / n, + eps, sqrt, 1 / and two products follow
            let bound = (of_sum(n) / 2.0 + 7.0) * U;
            let want = x.iter().zip(&weight).map(|(x, w)| {
                let exact = f64::from(*x) * scale * f64::from(*w);
                Want::Within { exact, bound: bound * exact.abs() }
            });
            expect_all(&what, &got, want, cases);
        }
        let mut x = normals(n, &mut random);
        x[random.usize(..n)] = f32::NAN;
        let got = guarded(&x, |y| k.rms_norm(&x, &vec![1.0; n], 1e-5, y), "NaN", cases);
        expect_all("NaN", &got, vec![Want::NotFinite { nan: true }; n], cases);
    }
}

fn layer_norm(k: Kernels, cases: &mut Cases) {
    let mut random = Rng::with_seed(7);
    for n in lengths() {
        for (magnitude, shift, eps) in
            [(1.0, 0.0, 1e-5f32), (1e-3, 1e-3, 1e-6), (1e4, -3e4, 1e-5), (0.0, 2.0, 1e-5)]
        {
            let x: Vec<f32> = normals(n, &mut random).iter().map(|x| x * magnitude + shift).collect();
            let (weight, with_bias) = (normals(n, &mut random), normals(n, &mut random));
            for bias in [&[][..], &with_bias] {
                let what = format!("n {n}, magnitude {magnitude}, shift {shift}, bias {}", !bias.is_empty());
                let y = vec![SENTINEL; n];
                let got = guarded(&y, |y| k.layer_norm(&x, &weight, bias, eps, y), &what, cases);
                let all = || x.iter().map(|x| f64::from(*x));
                let mean = all().sum::<f64>() / n as f64;
                let square = all().map(|x| (x - mean).powi(2)).sum::<f64>();
                let scale = 1.0 / (square / n as f64 + f64::from(eps)).sqrt();
                // the mean is off by this, and every distance from it by that and one rounding more
                let off = (of_sum(n) + 1.0) * U * all().map(f64::abs).sum::<f64>() / n as f64;
                let distance = |x: f64| off + U * ((x - mean).abs() + off);
                let squares: f64 = all().map(|x| (2.0 * (x - mean).abs() + distance(x)) * distance(x)).sum();
                let relative = squares * scale * scale / n as f64 + (of_sum(n) / 2.0 + 8.0) * U;
                let want = x.iter().zip(&weight).enumerate().map(|(i, (x, w))| {
                    let (x, w, b) =
                        (f64::from(*x), f64::from(*w), bias.get(i).copied().map_or(0.0, f64::from));
                    let exact = (x - mean) * scale * w;
                    let bound = exact.abs() * relative + distance(x) * scale * w.abs() * (1.0 + relative);
                    Want::Within { exact: exact + b, bound: 1.01 * bound + U * (exact + b).abs() }
                });
                expect_all(&what, &got, want, cases);
            }
        }
        let mut x = normals(n, &mut random);
        x[random.usize(..n)] = f32::NAN;
        let got = guarded(&x, |y| k.layer_norm(&x, &vec![1.0; n], &[], 1e-5, y), "NaN", cases);
        expect_all("NaN", &got, vec![Want::NotFinite { nan: true }; n], cases);
    }
}

const XIELU: Xielu = Xielu { positive: 0.8, negative: 1.3, linear: 0.5, eps: -1e-6 };

const ACTIVATIONS: [Activation; 6] = [
    Activation::Silu,
    Activation::Gelu,
    Activation::Relu,
    Activation::ReluSquared,
    Activation::Clamped,
    Activation::Xielu(XIELU),
];

/// An activation of x, with what it is off by at most.
fn activated(activation: Activation, x: f32) -> (f64, f64) {
    let x = f64::from(x);
    // 1 +, / and what the exponent was rounded to; e^x stops at e^88.3, where the result is not yet 0
    let swish = |x: f64, z: f64, roundings: f64| {
        let exact = x / (1.0 + (-z).exp());
        let off = EXP + 3.0 * U + roundings * U * z.abs() / (1.0 + z.min(87.0).exp());
        (exact, off * exact.abs() + x.abs() * (-88.3f64).exp())
    };
    match activation {
        Activation::Silu => swish(x, x, 0.0),
        Activation::Gelu => {
            swish(x, 2.0 * (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3)), 8.0)
        }
        Activation::Relu => (x.max(0.0), 0.0),
        Activation::ReluSquared => (x.max(0.0).powi(2), U * x.powi(2)),
        Activation::Clamped => swish(x.min(7.0), 1.702 * x.min(7.0), 2.0),
        Activation::Xielu(Xielu { positive, negative, linear, eps }) => {
            let [positive, negative, linear, eps] = [positive, negative, linear, eps].map(f64::from);
            let (bent, off) = match x > 0.0 {
                true => (positive * x * x, 2.0 * U * positive * x * x),
                false => {
                    let e = x.min(eps).exp();
                    // the exponential, its difference from 1, that from x, and their product
                    let off = (EXP + U) * e + 2.0 * U * (1.0 - x + e);
                    (negative * (e - 1.0 - x), negative * (off + U * (e - 1.0 - x).abs()))
                }
            };
            let exact = bent + linear * x;
            (exact, off + U * (linear * x).abs() + U * exact.abs())
        }
    }
}

fn activate(k: Kernels, cases: &mut Cases) {
    let mut random = Rng::with_seed(8);
    for activation in ACTIVATIONS {
        for n in lengths() {
            for magnitude in [1.0f32, 20.0, 1e3] {
                let x: Vec<f32> = normals(n, &mut random).iter().map(|x| x * magnitude).collect();
                let what = format!("{activation:?}, n {n}, magnitude {magnitude}");
                let got = guarded(&x, |x| k.activate(activation, x), &what, cases);
                let want = x.iter().map(|x| {
                    let (exact, bound) = activated(activation, *x);
                    Want::Within { exact, bound: 1.01 * bound + 1e-44 }
                });
                expect_all(&what, &got, want, cases);
            }
            let mut x = vec![1.0; n];
            let at = random.usize(..n);
            x[at] = f32::NAN;
            let got = guarded(&x, |x| k.activate(activation, x), "NaN", cases);
            let (exact, bound) = activated(activation, 1.0);
            let want = |i| match i == at {
                true => Want::NotFinite { nan: true },
                false => Want::Within { exact, bound: 1.01 * bound },
            };
            expect_all("NaN", &got, (0..n).map(want), cases);
        }
    }
}

fn gated(k: Kernels, cases: &mut Cases) {
    let mut random = Rng::with_seed(2);
    for activation in ACTIVATIONS {
        for n in lengths() {
            for magnitude in [1.0f32, 20.0, 1e3] {
                let gate: Vec<f32> = normals(n, &mut random).iter().map(|x| x * magnitude).collect();
                let up: Vec<f32> = normals(n, &mut random).iter().map(|x| x * 4.0).collect();
                let what = format!("{activation:?}, n {n}, magnitude {magnitude}");
                let y = vec![SENTINEL; n];
                let got = guarded(&y, |y| k.gated(activation, &gate, &up, y), &what, cases);
                let want = gate.iter().zip(&up).map(|(g, u)| {
                    let (exact, off) = activated(activation, *g);
                    let u = f64::from(*u);
                    let u = if activation == Activation::Clamped { u.clamp(-7.0, 7.0) + 1.0 } else { u };
                    let exact = exact * u;
                    Want::Within { exact, bound: 1.01 * (off * u.abs() + 2.0 * U * exact.abs()) + 1e-44 }
                });
                expect_all(&what, &got, want, cases);
            }
            for (gate, up) in [(f32::NAN, 1.0), (1.0, f32::NAN)] {
                let mut operands = [vec![1.0; n], vec![1.0; n]];
                let at = random.usize(..n);
                (operands[0][at], operands[1][at]) = (gate, up);
                let operation = |y: &mut [f32]| k.gated(activation, &operands[0], &operands[1], y);
                let got = guarded(&vec![SENTINEL; n], operation, "special", cases);
                let (exact, bound) = activated(activation, 1.0);
                let one = if activation == Activation::Clamped { 2.0 } else { 1.0 };
                let want = |i| match i == at {
                    true => Want::NotFinite { nan: true },
                    false => Want::Within { exact: exact * one, bound: 1.01 * (bound + 2.0 * U) * one },
                };
                expect_all("special", &got, (0..n).map(want), cases);
            }
        }
    }
}

fn add(k: Kernels, cases: &mut Cases) {
    let mut random = Rng::with_seed(3);
    for n in lengths() {
        let (mut x, y) = (normals(n, &mut random), normals(n, &mut random));
        x[random.usize(..n)] = f32::NAN;
        x[random.usize(..n)] = f32::INFINITY;
        let got = guarded(&y, |y| k.add(&x, y), &format!("n {n}"), cases);
        for (i, (got, (x, y))) in got.iter().zip(x.iter().zip(&y)).enumerate() {
            cases.expect(same(*got, x + y), || format!("n {n}, value {i}: {got} instead of {}", x + y));
        }
    }
}

fn rope(k: Kernels, cases: &mut Cases) {
    let mut random = Rng::with_seed(4);
    let heads = [64, 80, 96, 128, 256].into_iter().chain(2..40);
    for (head_dim, halves) in heads.flat_map(|n| [(n, false), (n, true)]) {
        for n in [head_dim / 2, head_dim / 4, 1, 0] {
            let x = normals(head_dim, &mut random);
            let angles: Vec<f64> = (0..n).map(|_| random.f64() * 1e4).collect();
            let cos: Vec<f32> = angles.iter().map(|angle| angle.cos() as f32).collect();
            let sin: Vec<f32> = angles.iter().map(|angle| angle.sin() as f32).collect();
            let what = format!("head size {head_dim}, {n} pairs, halves {halves}");
            let got = guarded(&x, |x| k.rope(x, &cos, &sin, halves), &what, cases);
            let mut want: Vec<Want> = x.iter().map(|x| Want::Exactly(*x)).collect();
            for i in 0..n {
                let (a, b) = if halves { (i, i + n) } else { (2 * i, 2 * i + 1) };
                let [x, y, c, s] = [x[a], x[b], cos[i], sin[i]].map(f64::from);
                // each product rounds, then the sum
                let within =
                    |p: f64, q: f64| Want::Within { exact: p + q, bound: 2.0 * U * (p.abs() + q.abs()) };
                (want[a], want[b]) = (within(x * c, -y * s), within(x * s, y * c));
            }
            expect_all(&what, &got, want, cases);
        }
    }
}

/// Sums of n products run in two halves, so that n / 2 roundings and a few more meet a term.
fn delta_rule(k: Kernels, cases: &mut Cases) {
    let mut random = Rng::with_seed(9);
    for n in [2, 4, 16, 30, 64, 96, 128, 256] {
        let of_halves = (n / 2 + 2) as f64;
        for beta in [0.0, 0.3, 1.0] {
            let small = |x: &f32| x / (n as f32).sqrt();
            let [query, key] = [0, 1].map(|_| normals(n, &mut random).iter().map(small).collect::<Vec<_>>());
            let decay: Vec<f32> = (0..n).map(|_| random.f32()).collect();
            let (before, v) = (normals(n * DELTA_VALUES, &mut random), normals(DELTA_VALUES, &mut random));
            let what = format!("n {n}, beta {beta}");
            let mut got = v.clone();
            let run = |state: &mut [f32]| k.delta_rule(state, &query, &key, &decay, beta, &mut got);
            let after = guarded(&before, run, &what, cases);
            let mut states = vec![Want::Exactly(SENTINEL); before.len()];
            let mut answers = Vec::new();
            for (j, v) in v.iter().map(|v| f64::from(*v)).enumerate() {
                let column =
                    |i: usize| [before[i * DELTA_VALUES + j], key[i], decay[i], query[i]].map(f64::from);
                let beta = f64::from(beta);
                let held: f64 = (0..n).map(column).map(|[s, k, d, _]| s * k * d).sum();
                let off: f64 = (0..n).map(column).map(|[s, k, d, _]| (s * k * d).abs()).sum();
                let delta = beta * (v - held);
                let off = beta * ((of_halves + 1.0) * U * off + 2.0 * U * (v - held).abs());
                let (mut sum, mut bound) = (0.0, 0.0);
                for (i, [s, k, d, q]) in (0..n).map(column).enumerate() {
                    let exact = s * d + k * delta;
                    let within = k.abs() * off + 2.0 * U * ((s * d).abs() + (k * delta).abs());
                    states[i * DELTA_VALUES + j] = Want::Within { exact, bound: 1.01 * within };
                    sum += q * exact;
                    bound += q.abs() * (within + of_halves * U * exact.abs());
                }
                answers.push(Want::Within { exact: sum, bound: 1.01 * bound });
            }
            expect_all(&format!("{what}, state"), &after, states, cases);
            expect_all(&what, &got, answers, cases);
        }
    }
}

fn state_space(k: Kernels, cases: &mut Cases) {
    let mut random = Rng::with_seed(10);
    for n in (1..36).chain([48, 64, 100, 128, 256]) {
        for (channels, one, dt) in [(1, false, 0.7), (3, true, 0.2), (64, true, 2.0), (2, false, 0.0)] {
            let a: Vec<f32> = (0..if one { 1 } else { n }).map(|_| -2.0 * random.f32()).collect();
            let [b, c] = [0, 1].map(|_| normals(n, &mut random));
            let (before, x) = (normals(channels * n, &mut random), normals(channels, &mut random));
            let d = normal(&mut random);
            let what = format!("n {n}, {channels} channels, one decay {one}, dt {dt}");
            let mut got = x.clone();
            let run = |states: &mut [f32]| k.state_space(states, &mut got, dt, &a, &b, &c, d);
            let after = guarded(&before, run, &what, cases);
            let (mut states, mut answers) = (Vec::new(), Vec::new());
            for (x, before) in x.iter().zip(before.chunks_exact(n)) {
                let (x, d, dt) = (f64::from(*x), f64::from(d), f64::from(dt));
                let (mut sum, mut bound) = (d * x, of_sum(n) * U * (d * x).abs());
                for (i, before) in before.iter().enumerate() {
                    let [before, a, b, c] = [*before, a[if one { 0 } else { i }], b[i], c[i]].map(f64::from);
                    let (kept, taken) = ((dt * a).exp() * before, dt * x * b);
                    // the exponent is rounded, and e to it; two products are; then the sum
                    let off = kept.abs() * (EXP + U * (dt * a).abs()) + 2.0 * U * taken.abs();
                    let off = 1.01 * (off + 2.0 * U * (kept.abs() + taken.abs()));
                    states.push(Want::Within { exact: kept + taken, bound: off });
                    sum += (kept + taken) * c;
                    bound += c.abs() * (off + of_sum(n) * U * (kept + taken).abs());
                }
                answers.push(Want::Within { exact: sum, bound: 1.01 * bound });
            }
            expect_all(&format!("{what}, states"), &after, states, cases);
            expect_all(&what, &got, answers, cases);
        }
    }
}

/// The same bytes as the scalar version, whatever the input.
fn quantize_q8(k: Kernels, cases: &mut Cases) {
    let mut random = Rng::with_seed(6);
    for blocks in [1, 2, 3, 4, 7, 8, 18, 64, 128] {
        let n = blocks * BLOCK;
        for kind in 0..40 {
            let x: Vec<f32> = match kind {
                // all floats: NaN, infinities, subnormals
                0..10 => (0..n).map(|_| f32::from_bits(random.u32(..))).collect(),
                // ties, halfway between two steps
                10..20 => {
                    (0..n).map(|i| if i % 32 == 0 { 254.0 } else { random.u8(..) as f32 + 0.5 }).collect()
                }
                // all of one sign
                20..25 => normals(n, &mut random).iter().map(|x| x.abs()).collect(),
                25..30 => normals(n, &mut random).iter().map(|x| -x.abs()).collect(),
                // zeros of both signs, with a few numbers
                30..35 => (0..n).map(|_| [0.0, -0.0, -0.0, 1e-3][random.usize(..4)]).collect(),
                _ => normals(n, &mut random).iter().map(|x| x * 2f32.powi(random.i32(-140..120))).collect(),
            };
            let name = format!("{blocks} blocks, kind {kind}");
            compare_q8(&name, k, &x, cases);
            let mut poisoned = x;
            poisoned[random.usize(..n)] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 1e-41][kind % 4];
            compare_q8(&format!("{name}, poisoned"), k, &poisoned, cases);
        }
    }
}

fn compare_q8(name: &str, k: Kernels, x: &[f32], cases: &mut Cases) {
    let n = x.len();
    let (mut scalar, mut got) = (Q8Room::new(n), Q8Room::new(n));
    let (q, z, d, sum) = scalar.parts();
    q8::quantize(x, q, z, d, sum);
    let (q, z, d, sum) = got.parts();
    k.quantize_q8(&shifted(x, 1)[1..], q, z, d, sum);
    let bits = |room: &Q8Room| room.d.iter().map(|d| d.to_bits()).collect::<Vec<_>>();
    cases.expect(got.q == scalar.q, || format!("{name}: q differs"));
    cases.expect(got.z == scalar.z, || format!("{name}: z differs"));
    cases.expect(bits(&got) == bits(&scalar), || format!("{name}: d differs"));
    cases.expect(got.sum == scalar.sum, || format!("{name}: sum differs"));
    cases.expect(got.end() == Q8Room::new(n).end(), || format!("{name}: wrote beyond an array"));
}

/// Room for n quantized activations, and for more that are not to be written.
struct Q8Room {
    n: usize,
    q: Vec<i8>,
    z: Vec<i8>,
    d: Vec<f32>,
    sum: Vec<i16>,
}

impl Q8Room {
    fn new(n: usize) -> Q8Room {
        let (q, z) = (vec![99; n + GUARD], vec![99; n / BLOCK + GUARD]);
        Q8Room { n, q, z, d: vec![SENTINEL; n / BLOCK + GUARD], sum: vec![9999; n / SUM_BLOCK + GUARD] }
    }

    fn parts(&mut self) -> (&mut [i8], &mut [i8], &mut [f32], &mut [i16]) {
        let Q8Room { n, q, z, d, sum } = self;
        (&mut q[..*n], &mut z[..*n / BLOCK], &mut d[..*n / BLOCK], &mut sum[..*n / SUM_BLOCK])
    }

    fn end(&self) -> (&[i8], &[i8], &[f32], &[i16]) {
        let Q8Room { n, q, z, d, sum } = self;
        (&q[*n..], &z[n / BLOCK..], &d[n / BLOCK..], &sum[n / SUM_BLOCK..])
    }
}
