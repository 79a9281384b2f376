//! The float operations, each against the same formula in f64.
//!
//! Bounds count roundings: u = 2^-24 is the largest relative error of one, and a result that n roundings lead to is off
//! by at most n u times the magnitudes that were added up. Sums run in 16 lanes or more and end with a tail of at most
//! 15 values, so that a term of a sum of n meets at most n / 16 + 24 roundings.

use super::compare::{Want, same};
use super::inputs::{normal, shifted};
use super::report::Cases;
use braise_kernels::ops::{Attention, KEY_BLOCK, ROWS, store_key};
use braise_kernels::quant::q8::{self, BLOCK, SUM_BLOCK};
use braise_kernels::table::Kernels;
use fastrand::Rng;
use half::f16;

/// The largest relative error of one rounding.
const U: f64 = f32::EPSILON as f64 / 2.0;

/// Relative error of e^x: 2 units in the last place, of 2 u each.
const EXP: f64 = 4.0 * U;

/// The checks of one float operation.
pub type Check = fn(Kernels, &mut Cases);

/// All float operations, by their names in the kernel table.
pub const OPS: &[(&str, Check)] = &[
    ("rms_norm", rms_norm),
    ("swiglu", swiglu),
    ("add", add),
    ("rope", rope),
    ("attention", attention),
    ("quantize_q8", quantize_q8),
];

/// The most roundings of a term of a sum of n.
fn of_sum(n: usize) -> f64 {
    (n / 16 + 24) as f64
}

fn normals(n: usize, random: &mut Rng) -> Vec<f32> {
    (0..n).map(|_| normal(random)).collect()
}

/// What lies before and after results, and in their place.
const SENTINEL: f32 = -1.234_567_9e33;
const GUARD: usize = 16;

/// Runs `operation` on y between sentinels, in a place that is not aligned.
fn guarded(y: &[f32], operation: impl FnOnce(&mut [f32]), what: &str, cases: &mut Cases) -> Vec<f32> {
    let mut all = vec![SENTINEL; 2 * GUARD + 1 + y.len()];
    let place = GUARD + 1..GUARD + 1 + y.len();
    all[place.clone()].copy_from_slice(y);
    operation(&mut all[place.clone()]);
    let results = all.drain(place).collect();
    cases.expect(all.iter().all(|y| *y == SENTINEL), || format!("{what}: wrote beyond the results"));
    results
}

fn expect_all(what: &str, got: &[f32], want: impl IntoIterator<Item = Want>, cases: &mut Cases) {
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

fn swiglu(k: Kernels, cases: &mut Cases) {
    let mut random = Rng::with_seed(2);
    for n in lengths() {
        for magnitude in [1.0f32, 20.0, 1e3] {
            let gate: Vec<f32> = normals(n, &mut random).iter().map(|x| x * magnitude).collect();
            let up = normals(n, &mut random);
            let what = format!("n {n}, magnitude {magnitude}");
            let got = guarded(&vec![SENTINEL; n], |y| k.swiglu(&gate, &up, y), &what, cases);
            let want = gate.iter().zip(&up).map(|(g, u)| {
                let (g, u) = (f64::from(*g), f64::from(*u));
                let exact = g / (1.0 + (-g).exp()) * u;
                // 1 +, / and * round once each; e^x stops at e^88.3, where the result is not yet 0
                let bound = (EXP + 3.0 * U) * exact.abs() + (g * u).abs() * (-88.3f64).exp() + 1e-44;
                Want::Within { exact, bound }
            });
            expect_all(&what, &got, want, cases);
        }
        for (gate, up) in [(f32::NAN, 1.0), (1.0, f32::NAN), (f32::INFINITY, 1.0), (-1.0, f32::INFINITY)] {
            let mut operands = [vec![1.0; n], vec![1.0; n]];
            let at = random.usize(..n);
            (operands[0][at], operands[1][at]) = (gate, up);
            let got =
                guarded(&vec![SENTINEL; n], |y| k.swiglu(&operands[0], &operands[1], y), "special", cases);
            let one = 1.0 / (1.0 + (-1f64).exp());
            let want = (0..n).map(|i| {
                if i == at {
                    Want::NotFinite { nan: gate.is_nan() || up.is_nan() }
                } else {
                    Want::Within { exact: one, bound: (EXP + 3.0 * U) * one }
                }
            });
            expect_all("special", &got, want, cases);
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

/// One call of attention.
struct Heads {
    n_tokens: usize,
    /// Queries of a token.
    group: usize,
    n_kv: usize,
    head_dim: usize,
    /// Size of a value.
    v_dim: usize,
    /// (n_tokens, group, head_dim)
    q: Vec<f32>,
    /// (n_kv, head_dim): not yet in blocks.
    k: Vec<f32>,
    v: Vec<f16>,
}

fn attention(k: Kernels, cases: &mut Cases) {
    let mut random = Rng::with_seed(5);
    for dims in [
        (64, 64),
        (80, 80),
        (96, 96),
        (128, 128),
        (256, 256),
        (1, 1),
        (7, 9),
        (24, 24),
        (100, 33),
        (192, 128),
    ] {
        for group in 1..=9 {
            for n_kv in [1, 2, 3, 15, 16, 17, 31, 33, 64, 100, 255, 300] {
                Heads::new((1, group), n_kv, dims, &mut random).check(k, cases);
            }
        }
    }
    for n_kv in 1..=300 {
        Heads::new((1, 1 + n_kv % 5), n_kv, (16, 16), &mut random).check(k, cases);
    }
    for (n_tokens, group) in [(2, 1), (3, 1), (16, 1), (17, 1), (5, 2), (16, 3), (7, 4), (4, 8), (3, 9)] {
        for n_kv in [n_tokens, n_tokens + 1, n_tokens + 15, n_tokens + 40] {
            Heads::new((n_tokens, group), n_kv, (24, 40), &mut random).check(k, cases);
            Heads::new((n_tokens, group), n_kv, (64, 64), &mut random).check_grouping(k, cases);
        }
    }
    for at in 0..40 {
        let mut heads = Heads::new((1, 5), 40, (24, 24), &mut random);
        heads.k[at * 24 + at % 24] = f32::NAN;
        let got = heads.call(k, 1.0, cases);
        expect_all("a key is NaN", &got, vec![Want::NotFinite { nan: true }; got.len()], cases);
    }
}

impl Heads {
    fn new(
        (n_tokens, group): (usize, usize),
        n_kv: usize,
        (head_dim, v_dim): (usize, usize),
        random: &mut Rng,
    ) -> Heads {
        let q = normals(n_tokens * group * head_dim, random);
        let k = normals(n_kv * head_dim, random).into_iter().map(|k| f16::from_f32(k).to_f32()).collect();
        let v = (0..n_kv * v_dim).map(|_| f16::from_f32(normal(random))).collect();
        Heads { n_tokens, group, n_kv, head_dim, v_dim, q, k, v }
    }

    /// The results, (n_tokens, group, v_dim), computed with other heads' queries and results between those of the
    /// tokens, and with what must not be seen in the keys' last block.
    fn call(&self, kernels: Kernels, scale: f32, cases: &mut Cases) -> Vec<f32> {
        let what = self.what(scale);
        let mut keys = vec![f16::from_f32(60_000.0); self.n_kv.next_multiple_of(KEY_BLOCK) * self.head_dim];
        for (position, key) in self.k.chunks_exact(self.head_dim).enumerate() {
            store_key(&mut keys, position, key);
        }
        let spread = |rows: &[f32], len: usize| -> Vec<f32> {
            rows.chunks_exact(len).flat_map(|row| row.iter().copied().chain([SENTINEL; 5])).collect()
        };
        let (q_len, out_len) = (self.group * self.head_dim, self.group * self.v_dim);
        let q = shifted(&spread(&self.q, q_len), 1);
        let (k, v) = (shifted(&keys, 1), shifted(&self.v, 1));
        let n = ROWS * self.n_kv.next_multiple_of(KEY_BLOCK);
        let mut scores = vec![SENTINEL; n + GUARD];
        let out = vec![SENTINEL; self.n_tokens * (out_len + 5)];
        let got = guarded(
            &out,
            |out| {
                kernels.attention(Attention {
                    q: &q[1..],
                    q_stride: q_len + 5,
                    k: &k[1..],
                    v: &v[1..],
                    n_tokens: self.n_tokens,
                    group: self.group,
                    head_dim: self.head_dim,
                    head_dim_v: self.v_dim,
                    scale,
                    scores: &mut scores[..n],
                    out,
                    out_stride: out_len + 5,
                });
            },
            &what,
            cases,
        );
        cases.expect(scores[n..].iter().all(|s| *s == SENTINEL), || {
            format!("{what}: wrote beyond the scores")
        });
        let (results, between): (Vec<_>, Vec<_>) =
            got.chunks_exact(out_len + 5).map(|row| row.split_at(out_len)).unzip();
        cases.expect(between.concat().iter().all(|y| *y == SENTINEL), || {
            format!("{what}: wrote results of other heads")
        });
        results.concat()
    }

    /// Each token by itself gives the same bits as all of them together.
    fn check_grouping(&self, kernels: Kernels, cases: &mut Cases) {
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        let together = self.call(kernels, scale, cases);
        let one_by_one = (0..self.n_tokens).flat_map(|t| {
            let n_kv = self.n_kv - (self.n_tokens - 1 - t);
            let q = self.q[t * self.group * self.head_dim..][..self.group * self.head_dim].to_vec();
            let (k, v) = (self.k[..n_kv * self.head_dim].to_vec(), self.v[..n_kv * self.v_dim].to_vec());
            Heads { n_tokens: 1, n_kv, q, k, v, ..*self }.call(kernels, scale, cases)
        });
        let one_by_one: Vec<f32> = one_by_one.collect();
        cases.expect(together.iter().map(|y| y.to_bits()).eq(one_by_one.iter().map(|y| y.to_bits())), || {
            format!("{}: tokens by themselves give other bits", self.what(scale))
        });
    }

    fn what(&self, scale: f32) -> String {
        let Heads { n_tokens, group, n_kv, head_dim, v_dim, .. } = self;
        format!(
            "{n_tokens} tokens, {group} queries each, {n_kv} keys of {head_dim}, values of {v_dim}, scale {scale}"
        )
    }

    fn check(&self, kernels: Kernels, cases: &mut Cases) {
        // as models do it, and so large that one position takes nearly all
        for scale in [1.0 / (self.head_dim as f32).sqrt(), 4.0] {
            let got = self.call(kernels, scale, cases);
            let want: Vec<Want> = (self.q.chunks_exact(self.head_dim).enumerate())
                .flat_map(|(i, q)| self.want(q, self.n_kv - (self.n_tokens - 1 - i / self.group), scale))
                .collect();
            expect_all(&self.what(scale), &got, want, cases);
        }
    }

    /// `softmax(scale q k^T) v` over the first `n_kv` positions, in f64. A score, a sum of head_dim products in order, is
    /// off by at most delta = (head_dim + scale) u sum |q k| scale,
    /// and by the rounding of its distance from the largest; e^x turns that into a relative error of a probability, in
    /// the numerator and in the sum. A probability that e^x cuts off at e^-87.3 is off by that.
    fn want(&self, q: &[f32], n_kv: usize, scale: f32) -> Vec<Want> {
        let mut delta: f64 = 0.0;
        let keys = self.k.chunks_exact(self.head_dim).take(n_kv);
        let scores: Vec<f64> = keys
            .map(|k| {
                let products = || q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k));
                let size = products().map(f64::abs).sum::<f64>() * f64::from(scale);
                delta = delta.max((self.head_dim + 2) as f64 * U * size);
                products().sum::<f64>() * f64::from(scale)
            })
            .collect();
        let max = scores.iter().fold(f64::NEG_INFINITY, |max, s| max.max(*s));
        let min = scores.iter().fold(f64::INFINITY, |min, s| min.min(*s));
        let p: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let sum: f64 = p.iter().sum();
        // the largest score moves all of them alike, so that it cancels; 1 / sum and p / sum round, then the sum over v
        let relative = 2.0 * (delta + (max - min) * U + EXP) + (of_sum(n_kv) + 2.0 + n_kv as f64 + 1.0) * U;
        let (mut exact, mut size, mut cut) =
            (vec![0.0; self.v_dim], vec![0.0; self.v_dim], vec![0.0; self.v_dim]);
        for (p, v) in p.iter().zip(self.v.chunks_exact(self.v_dim)) {
            for (i, v) in v.iter().map(|v| v.to_f64()).enumerate() {
                exact[i] += p / sum * v;
                size[i] += (p / sum * v).abs();
                cut[i] += (-87.3f64).exp() * v.abs();
            }
        }
        let columns = exact.into_iter().zip(size).zip(cut);
        columns
            .map(|((exact, size), cut)| Want::Within { exact, bound: 1.01 * relative * size + cut })
            .collect()
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
