//! Layers that remember all tokens of a sequence together, token by token in f64.
//!
//! Bounds follow each number on its way: what it may be off by before a step, times what the step multiplies it with, plus
//! the step's own roundings.

use braise_kernels::cuda::ops::{
    Convolve, DeltaGates, DeltaNet, GateHeads, Norm, NormKind, NormParts, NormRows, Runs, StateSpace,
};
use braise_kernels::cuda::{Address, Error};
use fastrand::Rng;
use half::bf16;

use super::super::compare::Want;
use super::super::ops::{EXP, U, expect_all};
use super::super::report::Cases;
use super::Bench;
use super::rows::{expect_q8, normalized, normals};

/// Sequences that the memory has a place for.
const SEQUENCES: usize = 4;

/// Runs of a batch: sequence, position of the first token, number of tokens. One is empty, one begins its sequence.
struct Batch(Vec<(usize, u32, usize)>);

impl Batch {
    fn new(lengths: [usize; 3]) -> Batch {
        Batch(vec![(2, 0, lengths[0]), (0, 5, lengths[1]), (0, 9, 0), (3, 77, lengths[2])])
    }

    fn tokens(&self) -> usize {
        self.0.iter().map(|(.., n)| n).sum()
    }

    fn put(&self, bench: &mut Bench<'_>) -> Result<Runs, Error> {
        let (mut starts, mut positions, mut sequences) = (vec![0], Vec::new(), Vec::new());
        for (sequence, first, n) in &self.0 {
            positions.extend((0..*n as u32).map(|i| first + i));
            sequences.extend(vec![*sequence as u32; *n]);
            starts.push(positions.len() as u32);
        }
        Ok(Runs {
            n: self.0.len() as u32,
            longest: self.0.iter().map(|(.., n)| *n as u32).max().unwrap_or(1),
            starts: bench.put(&starts)?,
            positions: bench.put(&positions)?,
            sequences: bench.put(&sequences)?,
        })
    }

    /// Sequence, whether it has tokens before, and the tokens of each run.
    fn runs(&self) -> impl Iterator<Item = (usize, bool, std::ops::Range<usize>)> {
        let mut start = 0;
        self.0.iter().filter(|(.., n)| *n > 0).map(move |(sequence, first, n)| {
            start += n;
            (*sequence, *first > 0, start - n..start)
        })
    }
}

/// A number, and what a computed one may be off by.
#[derive(Clone, Copy)]
struct Near {
    exact: f64,
    off: f64,
}

impl Near {
    fn new(x: f32) -> Near {
        Near { exact: f64::from(x), off: 0.0 }
    }

    fn want(self) -> Want {
        Want::Within { exact: self.exact, bound: 1.05 * self.off + 1e-37 }
    }
}

fn softplus(x: f64) -> f64 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

/// `e^(rate softplus(x))`, as a relative error of each function, and of the exponent times the exponent.
fn decay(rate: f32, x: f32, bias: f32) -> Near {
    let exponent = f64::from(rate) * softplus(f64::from(x) + f64::from(bias));
    let sum = U * (f64::from(x.abs()) + f64::from(bias.abs())) * f64::from(rate.abs());
    let exact = exponent.exp();
    Near { exact, off: exact * (EXP + 4.0 * U + 2.0 * EXP * exponent.abs() + sum) }
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// Results in the forms that products take.
struct Outputs {
    y: Address,
    q8: Address,
    bf16: Address,
    n: usize,
}

impl Outputs {
    fn new(bench: &mut Bench<'_>, n: usize, quantized: bool) -> Result<Outputs, Error> {
        let (y, bf16) = (bench.room(n)?, bench.zeros(2 * n)?);
        let q8 = if quantized { bench.zeros(n / 32 * 48)? } else { Address::NONE };
        Ok(Outputs { y, q8, bf16, n })
    }

    fn expect(
        &self,
        bench: &mut Bench<'_>,
        what: &str,
        want: Vec<Want>,
        cases: &mut Cases,
    ) -> Result<(), Error> {
        let got = bench.results(self.y, self.n, what, cases)?;
        expect_all(what, &got, want, cases);
        if self.q8 != Address::NONE {
            expect_q8(what, &bench.get(self.q8, self.n / 32 * 48)?, &got, cases);
        }
        let halves: Vec<u16> = bench.get(self.bf16, self.n)?;
        let rounded = got.iter().map(|x| bf16::from_f32(*x).to_bits());
        cases.expect(halves.iter().copied().eq(rounded), || format!("{what}: other bf16"));
        Ok(())
    }
}

pub(super) fn convolve(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(61);
    for (turn, (width, channels, lengths)) in [
        (4, 160, [3, 1, 70]),
        (3, 64, [33, 2, 1]),
        (1, 40, [1, 2, 3]),
        (7, 96, [1, 64, 5]),
        (4, 32, [1, 1, 1]),
    ]
    .into_iter()
    .enumerate()
    {
        let batch = Batch::new(lengths);
        let (tokens, stride) = (batch.tokens(), 3 * channels + 4);
        let x = normals(tokens * stride, &mut random);
        let kernel = normals(width * channels, &mut random);
        let bias = normals(channels, &mut random);
        let before = normals(SEQUENCES * (width - 1) * channels, &mut random);
        let gated = turn % 2 == 1;
        let (is_bias, activated) = (turn.is_multiple_of(3), turn % 4 != 1);
        let what = format!("{width} tokens of {channels} channels, runs of {lengths:?}, gated {gated}");
        let (x_at, bias_at) = (bench.put(&x)?, bench.put(&bias)?);
        let out = Outputs::new(bench, tokens * channels, channels.is_multiple_of(32))?;
        let past = bench.put(&before)?;
        let gate = |i: usize| if gated { x_at.offset(4 * (i * channels) as u64) } else { Address::NONE };
        let launch = Convolve {
            x: x_at,
            x_stride: stride as u32,
            gates: gate(2),
            kernel: bench.put(&kernel)?,
            width: width as u32,
            channels: channels as u32,
            bias: if is_bias { bias_at } else { Address::NONE },
            activated,
            out_gates: gate(1),
            runs: batch.put(bench)?,
            past,
            y: out.y,
            q8: out.q8,
            bf16: out.bf16,
        };
        bench.run(launch.launch())?;
        let mut after: Vec<Want> = before.iter().map(|x| Want::Exactly(*x)).collect();
        let mut want = Vec::new();
        for (sequence, continues, run) in batch.runs() {
            let old = &before[sequence * (width - 1) * channels..][..(width - 1) * channels];
            let input = |i: i64, c: usize| {
                if i < 0 {
                    let row = (i + width as i64 - 1) as usize;
                    return if continues { old[row * channels + c] } else { 0.0 };
                }
                let at = (run.start + i as usize) * stride + c;
                if gated { x[at] * x[at + 2 * channels] } else { x[at] }
            };
            for i in 0..run.len() {
                for c in 0..channels {
                    let products = (0..width).map(|j| {
                        let x = input((i + j) as i64 - (width as i64 - 1), c);
                        f64::from(x) * f64::from(kernel[j * channels + c])
                    });
                    let products: Vec<f64> = products.collect();
                    let bias = if is_bias { f64::from(bias[c]) } else { 0.0 };
                    let sum = products.iter().sum::<f64>() + bias;
                    let size = products.iter().map(|x| x.abs()).sum::<f64>() + bias.abs();
                    let off = (width + 2) as f64 * U * size;
                    let (mut exact, mut off) = match activated {
                        // no steeper than 1.1
                        true => (silu(sum), 1.1 * off + silu(sum).abs() * (EXP + (sum.abs() + 4.0) * U)),
                        false => (sum, off),
                    };
                    if gated {
                        let gate = f64::from(x[(run.start + i) * stride + channels + c]);
                        (exact, off) = (exact * gate, off * gate.abs() + 2.0 * U * (exact * gate).abs());
                    }
                    want.push(Near { exact, off }.want());
                }
            }
            for j in 0..width - 1 {
                for c in 0..channels {
                    let i = (run.len() + j) as i64 - (width as i64 - 1);
                    after[(sequence * (width - 1) + j) * channels + c] = Want::Exactly(input(i, c));
                }
            }
        }
        out.expect(bench, &what, want, cases)?;
        let got: Vec<f32> = bench.get(past, before.len())?;
        expect_all(&format!("{what}, past"), &got, after, cases);
        bench.let_go()?;
    }
    Ok(())
}

pub(super) fn state_space(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(62);
    // channels, heads, groups, values of a state
    for (turn, (channels, n_head, n_group, d_state)) in
        [(64, 64, 1, 16), (32, 32, 1, 5), (64, 2, 2, 128), (96, 6, 2, 24), (64, 1, 1, 256), (32, 4, 1, 64)]
            .into_iter()
            .enumerate()
    {
        let a_each = n_head == channels;
        let batch = Batch::new([[3, 1, 2], [1, 1, 1]][turn % 2]);
        let tokens = batch.tokens();
        let (dt_stride, bc_stride, z_stride) =
            (n_head + 3, 2 * n_group * d_state + 8, channels + 4 * (turn % 3));
        let x = normals(tokens * channels, &mut random);
        let mut dt = normals(tokens * dt_stride, &mut random);
        dt[0] = 25.0;
        let bias = normals(n_head, &mut random);
        let a: Vec<f32> =
            (0..if a_each { n_head * d_state } else { n_head }).map(|_| -2.0 * random.f32()).collect();
        let bc = normals(tokens * bc_stride, &mut random);
        let (d, z) = (normals(n_head, &mut random), normals(tokens * z_stride, &mut random));
        let before = normals(SEQUENCES * channels * d_state, &mut random);
        let is_bias = turn.is_multiple_of(2);
        let what = format!("{channels} channels, {n_head} heads, {n_group} groups, states of {d_state}");
        let out = Outputs::new(bench, tokens * channels, true)?;
        let (b_at, bias_at, states) = (bench.put(&bc)?, bench.put(&bias)?, bench.put(&before)?);
        let launch = StateSpace {
            x: bench.put(&x)?,
            dt: bench.put(&dt)?,
            dt_stride: dt_stride as u32,
            dt_bias: if is_bias { bias_at } else { Address::NONE },
            a: bench.put(&a)?,
            a_each,
            b: b_at,
            c: b_at.offset(4 * (n_group * d_state) as u64),
            bc_stride: bc_stride as u32,
            d: bench.put(&d)?,
            z: bench.put(&z)?,
            z_stride: z_stride as u32,
            channels: channels as u32,
            n_head: n_head as u32,
            n_group: n_group as u32,
            d_state: d_state as u32,
            runs: batch.put(bench)?,
            states,
            y: out.y,
            q8: out.q8,
            bf16: out.bf16,
        };
        bench.run(launch.launch())?;
        let mut after: Vec<Want> = before.iter().map(|x| Want::Exactly(*x)).collect();
        let mut want = Vec::new();
        let mut memory: Vec<Near> = before.iter().map(|x| Near::new(*x)).collect();
        for (sequence, continues, run) in batch.runs() {
            let memory = &mut memory[sequence * channels * d_state..][..channels * d_state];
            if !continues {
                memory.fill(Near::new(0.0));
            }
            for t in run {
                for (channel, memory) in memory.chunks_exact_mut(d_state).enumerate() {
                    let head = channel / (channels / n_head);
                    let group = head / (n_head / n_group) * d_state;
                    let bias = if is_bias { bias[head] } else { 0.0 };
                    let raw = dt[t * dt_stride + head];
                    let step = softplus(f64::from(raw) + f64::from(bias));
                    let step_off = EXP * step + U * f64::from(raw.abs() + bias.abs());
                    let x = f64::from(x[t * channels + channel]);
                    let skipped = f64::from(d[head]) * x;
                    let mut sum = Near { exact: skipped, off: 4.0 * U * skipped.abs() };
                    for (i, state) in memory.iter_mut().enumerate() {
                        let rate = a[if a_each { head * d_state + i } else { head }];
                        let decay = decay(rate, raw, bias);
                        let b = f64::from(bc[t * bc_stride + group + i]);
                        let c = f64::from(bc[t * bc_stride + n_group * d_state + group + i]);
                        let (kept, taken) = (state.exact * decay.exact, step * x * b);
                        let off = state.off * decay.exact + state.exact.abs() * decay.off;
                        let off = off + (step_off * x * b).abs() + 4.0 * U * (kept.abs() + taken.abs());
                        *state = Near { exact: kept + taken, off };
                        sum.exact += state.exact * c;
                        // of a lane's values, and of the lanes
                        let roundings = (d_state.div_ceil(8) + 8) as f64;
                        sum.off += c.abs() * (off + roundings * U * state.exact.abs());
                    }
                    let z = f64::from(z[t * z_stride + channel]);
                    let gate = silu(z);
                    let exact = sum.exact * gate;
                    let off = sum.off * gate.abs() + exact.abs() * (EXP + (z.abs() + 8.0) * U);
                    want.push(Near { exact, off }.want());
                }
            }
            let first = sequence * channels * d_state;
            for (after, state) in after[first..].iter_mut().zip(memory) {
                *after = state.want();
            }
        }
        out.expect(bench, &what, want, cases)?;
        let got: Vec<f32> = bench.get(states, before.len())?;
        expect_all(&format!("{what}, states"), &got, after, cases);
        bench.let_go()?;
    }
    Ok(())
}

/// A head of q or k, normalized by its root mean square.
fn key(x: &[f32], weight: &[f32], eps: f32) -> Vec<Near> {
    let square = x.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>() / x.len() as f64;
    let scale = 1.0 / (square + f64::from(eps)).sqrt();
    let number = |(x, w): (&f32, &f32)| {
        let exact = f64::from(*x) * scale * f64::from(*w);
        // half of what the mean is off by, and some
        Near { exact, off: 16.0 * U * exact.abs() }
    };
    x.iter().zip(weight).map(number).collect()
}

/// The heads of a delta net, on the host.
struct Heads {
    n_head: usize,
    n_head_k: usize,
    dim: usize,
    neighbours: bool,
    fine: bool,
    grouped: Option<(usize, usize)>,
    x: Vec<f32>,
    x_stride: usize,
    weights: [Vec<f32>; 2],
    b: Vec<f32>,
    a: Vec<f32>,
    stride: usize,
    rate: Vec<f32>,
    a_bias: Vec<f32>,
}

impl Heads {
    const EPS: f32 = 1e-6;

    fn new(turn: usize, tokens: usize, random: &mut Rng) -> Heads {
        let (n_head, n_head_k, dim) = [(4, 2, 64), (6, 3, 32), (2, 2, 128), (1, 1, 256), (2, 1, 32)][turn];
        let fine = turn == 2;
        let neighbours = turn == 0;
        // b and a of the heads of a key by turns
        let grouped = neighbours.then_some((n_head / n_head_k, 2 * n_head / n_head_k));
        let stride = if fine { n_head * dim } else { 2 * n_head + 1 };
        let x_stride = (2 * n_head_k + n_head) * dim + 8;
        Heads {
            n_head,
            n_head_k,
            dim,
            neighbours,
            fine,
            grouped,
            x: normals(tokens * x_stride, random),
            x_stride,
            weights: [(); 2].map(|()| normals(dim, random).iter().map(|x| x / (dim as f32).sqrt()).collect()),
            b: normals(tokens * stride, random),
            a: normals(tokens * stride, random),
            stride,
            rate: (0..n_head).map(|_| -random.f32()).collect(),
            a_bias: normals(if fine { n_head * dim } else { n_head }, random),
        }
    }

    /// Takes token t into the states (value, key) of a head; its results.
    fn step(&self, head: usize, t: usize, states: &mut [Near]) -> Vec<Want> {
        let Heads { n_head, n_head_k, dim, .. } = *self;
        let of_keys = if self.neighbours { head / (n_head / n_head_k) } else { head % n_head_k };
        let place = self.grouped.map_or(head, |(per, distance)| head / per * distance + head % per);
        let part = |head: usize| &self.x[t * self.x_stride + head * dim..][..dim];
        let q = key(part(of_keys), &self.weights[0], Heads::EPS);
        let k = key(part(n_head_k + of_keys), &self.weights[1], Heads::EPS);
        let beta = 1.0 / (1.0 + (-f64::from(self.b[t * self.stride + place])).exp());
        let decays: Vec<Near> = (0..dim)
            .map(|i| {
                let (a, bias) = if self.fine { (head * dim + i, head * dim + i) } else { (place, head) };
                decay(self.rate[head], self.a[t * self.stride + a], self.a_bias[bias])
            })
            .collect();
        let roundings = (dim / 32 + 8) as f64;
        let values = part(2 * n_head_k + head).iter().zip(states.chunks_exact_mut(dim));
        values
            .map(|(v, states)| {
                let mut held = Near::new(0.0);
                for ((state, decay), k) in states.iter_mut().zip(&decays).zip(&k) {
                    let exact = state.exact * decay.exact;
                    let off = state.off * decay.exact + state.exact.abs() * decay.off + U * exact.abs();
                    *state = Near { exact, off };
                    held.exact += exact * k.exact;
                    held.off += off * k.exact.abs() + exact.abs() * (k.off + roundings * U * k.exact.abs());
                }
                let delta = beta * (f64::from(*v) - held.exact);
                let delta_off =
                    beta * held.off + (EXP + 8.0 * U) * delta.abs() + 2.0 * U * f64::from(v.abs());
                let mut sum = Near::new(0.0);
                for ((state, k), q) in states.iter_mut().zip(&k).zip(&q) {
                    let change = k.exact * delta;
                    let exact = state.exact + change;
                    let off = state.off + delta_off * k.exact.abs() + k.off * delta.abs();
                    *state = Near { exact, off: off + 2.0 * U * (exact.abs() + change.abs()) };
                    sum.exact += exact * q.exact;
                    sum.off +=
                        state.off * q.exact.abs() + exact.abs() * (q.off + roundings * U * q.exact.abs());
                }
                sum.want()
            })
            .collect()
    }
}

pub(super) fn delta_net(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(63);
    for turn in 0..5 {
        let batch = Batch::new([[3, 1, 2], [1, 1, 1]][turn % 2]);
        let tokens = batch.tokens();
        let heads = Heads::new(turn, tokens, &mut random);
        let Heads { n_head, n_head_k, dim, neighbours, fine, grouped, x_stride, stride, .. } = heads;
        let of_sequence = n_head * dim * dim;
        let before = normals(SEQUENCES * of_sequence, &mut random);
        let what = format!("{n_head} heads of {dim}, {n_head_k} keys, neighbours {neighbours}, fine {fine}");
        let (y, states) = (bench.room(tokens * n_head * dim)?, bench.put(&before)?);
        let [q_norm, k_norm] = [0, 1].map(|i| {
            let weight = bench.put(&heads.weights[i])?;
            Ok::<_, Error>(Norm { kind: NormKind::Rms, eps: Heads::EPS, weight, bias: Address::NONE })
        });
        let launch = DeltaNet {
            x: bench.put(&heads.x)?,
            x_stride: x_stride as u32,
            n_head: n_head as u32,
            n_head_k: n_head_k as u32,
            head_dim: dim as u32,
            neighbours,
            q_norm: q_norm?,
            k_norm: k_norm?,
            b: DeltaGates { at: bench.put(&heads.b)?, stride: stride as u32 },
            a: DeltaGates { at: bench.put(&heads.a)?, stride: stride as u32 },
            grouped: grouped.map(|(per, distance)| (per as u32, distance as u32)),
            fine,
            rate: bench.put(&heads.rate)?,
            a_bias: bench.put(&heads.a_bias)?,
            runs: batch.put(bench)?,
            states,
            y,
        };
        bench.run(launch.launch())?;
        let mut after: Vec<Want> = before.iter().map(|x| Want::Exactly(*x)).collect();
        let mut want = Vec::new();
        for (sequence, continues, run) in batch.runs() {
            let first = sequence * of_sequence;
            let old = &before[first..][..of_sequence];
            let mut memory: Vec<Near> =
                old.iter().map(|x| Near::new(if continues { *x } else { 0.0 })).collect();
            for t in run {
                for (head, states) in memory.chunks_exact_mut(dim * dim).enumerate() {
                    want.extend(heads.step(head, t, states));
                }
            }
            for (after, state) in after[first..].iter_mut().zip(memory) {
                *after = state.want();
            }
        }
        let got = bench.results(y, tokens * n_head * dim, &what, cases)?;
        expect_all(&what, &got, want, cases);
        let got: Vec<f32> = bench.get(states, before.len())?;
        expect_all(&format!("{what}, states"), &got, after, cases);
        bench.let_go()?;
    }
    Ok(())
}

pub(super) fn gate_heads(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(64);
    for (tokens, n_head, dim) in [(3, 2, 128), (1, 3, 32), (5, 1, 40)] {
        for by_sigmoid in [false, true] {
            let z_stride = n_head * dim + 4;
            let (x, z) =
                (normals(tokens * n_head * dim, &mut random), normals(tokens * z_stride, &mut random));
            let weight = normals(dim, &mut random);
            let what = format!("{n_head} heads of {dim}, by sigmoid {by_sigmoid}");
            let out = Outputs::new(bench, x.len(), dim.is_multiple_of(32))?;
            let weight_at = bench.put(&weight)?;
            let norm = Norm { kind: NormKind::Rms, eps: 1e-5, weight: weight_at, bias: Address::NONE };
            let launch = GateHeads {
                x: bench.put(&x)?,
                tokens: tokens as u32,
                n_head: n_head as u32,
                head_dim: dim as u32,
                norm,
                z: bench.put(&z)?,
                z_stride: z_stride as u32,
                by_sigmoid,
                y: out.y,
                q8: out.q8,
                bf16: out.bf16,
            };
            bench.run(launch.launch())?;
            let mut want = Vec::new();
            for (i, head) in x.chunks_exact(dim).enumerate() {
                let z = &z[i / n_head * z_stride + i % n_head * dim..][..dim];
                for (x, z) in key(head, &weight, 1e-5).into_iter().zip(z) {
                    let z = f64::from(*z);
                    let gate = if by_sigmoid { 1.0 / (1.0 + (-z).exp()) } else { silu(z) };
                    let exact = x.exact * gate;
                    let off = x.off * gate.abs() + exact.abs() * (EXP + (z.abs() + 8.0) * U);
                    want.push(Near { exact, off }.want());
                }
            }
            out.expect(bench, &what, want, cases)?;
        }
    }
    Ok(())
}

/// Parts of rows, each with weights of its own.
pub(super) fn norm_parts(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(65);
    let (rows, parts, n) = (3, 4, 96);
    let stride = parts * n + 8;
    for kind in [NormKind::Rms, NormKind::Layer] {
        let x = normals(rows * stride, &mut random);
        let (weight, bias) = (normals(parts * n, &mut random), normals(parts * n, &mut random));
        let out = Outputs::new(bench, rows * parts * n, true)?;
        let norm = Norm { kind, eps: 1e-5, weight: bench.put(&weight)?, bias: bench.put(&bias)? };
        let of_rows = NormRows {
            x: bench.put(&x)?,
            stride: stride as u32,
            rows: rows as u32,
            n: n as u32,
            norm,
            y: out.y,
            q8: out.q8,
            bf16: out.bf16,
            ..NormRows::default()
        };
        bench.run(NormParts { rows: of_rows, parts: parts as u32 }.launch())?;
        let mut want = Vec::new();
        for row in x.chunks_exact(stride) {
            for part in 0..parts {
                let at = part * n..(part + 1) * n;
                want.extend(normalized(kind, &row[at.clone()], &weight[at.clone()], &bias[at], 1e-5));
            }
        }
        out.expect(bench, &format!("{kind:?}"), want, cases)?;
    }
    Ok(())
}
