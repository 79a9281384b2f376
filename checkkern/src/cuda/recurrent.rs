//! Layers that remember all tokens of a sequence together, token by token in f64.
//!
//! Bounds follow each number on its way: what it may be off by before a step, times what the step multiplies it with, plus
//! the step's own roundings.

use braise_kernels::cuda::ops::{Convolve, Norm, NormKind, NormParts, NormRows, Runs, StateSpace};
use braise_kernels::cuda::{Address, Error};
use fastrand::Rng;
use half::bf16;

use super::super::compare::Want;
use super::super::ops::{EXP, U, expect_all};
use super::super::report::Cases;
use super::Bench;
use super::rows::{expect_q8, normalized, normals};

/// Sequences that the memory has a place for.
pub(super) const SEQUENCES: usize = 4;

/// Runs of a batch: sequence, position of the first token, number of tokens. One is empty, one begins its sequence.
pub(super) struct Batch(Vec<(usize, u32, usize)>);

impl Batch {
    pub(super) fn new(lengths: [usize; 3]) -> Batch {
        Batch(vec![(2, 0, lengths[0]), (0, 5, lengths[1]), (0, 9, 0), (3, 77, lengths[2])])
    }

    pub(super) fn tokens(&self) -> usize {
        self.0.iter().map(|(.., n)| n).sum()
    }

    pub(super) fn put(&self, bench: &mut Bench<'_>) -> Result<Runs, Error> {
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

    /// Takes each token into its sequence's part of the memory, which `before` was; what its results and the memory may be.
    pub(super) fn go_through(
        &self,
        before: &[f32],
        mut take: impl FnMut(usize, &mut [Near]) -> Vec<Want>,
    ) -> (Vec<Want>, Vec<Want>) {
        let of_sequence = before.len() / SEQUENCES;
        let mut after: Vec<Want> = before.iter().map(|x| Want::Exactly(*x)).collect();
        let mut want = Vec::new();
        for (sequence, continues, run) in self.runs() {
            let part = sequence * of_sequence..(sequence + 1) * of_sequence;
            let old = |x: &f32| Near::new(if continues { *x } else { 0.0 });
            let mut memory: Vec<Near> = before[part.clone()].iter().map(old).collect();
            for t in run {
                want.extend(take(t, &mut memory));
            }
            for (after, state) in after[part].iter_mut().zip(memory) {
                *after = state.want();
            }
        }
        (want, after)
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
pub(super) struct Near {
    pub(super) exact: f64,
    pub(super) off: f64,
}

impl Near {
    pub(super) fn new(x: f32) -> Near {
        Near { exact: f64::from(x), off: 0.0 }
    }

    pub(super) fn want(self) -> Want {
        Want::Within { exact: self.exact, bound: 1.05 * self.off + 1e-37 }
    }
}

fn softplus(x: f64) -> f64 {
    if x > 20.0 { x } else { x.exp().ln_1p() }
}

/// `e^(rate softplus(x))`, as a relative error of each function, and of the exponent times the exponent.
pub(super) fn decay(rate: f32, x: f32, bias: f32) -> Near {
    let exponent = f64::from(rate) * softplus(f64::from(x) + f64::from(bias));
    let sum = U * (f64::from(x.abs()) + f64::from(bias.abs())) * f64::from(rate.abs());
    let exact = exponent.exp();
    Near { exact, off: exact * (EXP + 4.0 * U + 2.0 * EXP * exponent.abs() + sum) }
}

pub(super) fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

/// Results in the forms that products take.
pub(super) struct Outputs {
    pub(super) y: Address,
    pub(super) q8: Address,
    pub(super) bf16: Address,
    n: usize,
}

impl Outputs {
    pub(super) fn new(bench: &mut Bench<'_>, n: usize, quantized: bool) -> Result<Outputs, Error> {
        let (y, bf16) = (bench.room(n)?, bench.zeros(2 * n)?);
        let q8 = if quantized { bench.zeros(n / 32 * 48)? } else { Address::NONE };
        Ok(Outputs { y, q8, bf16, n })
    }

    pub(super) fn expect(
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

/// Compares what is remembered at `at`, and frees what is held.
pub(super) fn expect_memory(
    bench: &mut Bench<'_>,
    what: &str,
    at: Address,
    want: Vec<Want>,
    cases: &mut Cases,
) -> Result<(), Error> {
    let got: Vec<f32> = bench.get(at, want.len())?;
    expect_all(&format!("{what}, what is remembered"), &got, want, cases);
    bench.let_go()
}

/// A convolution, on the host.
struct Filter {
    width: usize,
    channels: usize,
    x: Vec<f32>,
    stride: usize,
    kernel: Vec<f32>,
    /// Empty: none.
    bias: Vec<f32>,
    activated: bool,
    gated: bool,
}

impl Filter {
    fn new(turn: usize, (width, channels): (usize, usize), tokens: usize, random: &mut Rng) -> Filter {
        let stride = 3 * channels + 4;
        let bias = normals(channels, random);
        Filter {
            width,
            channels,
            x: normals(tokens * stride, random),
            stride,
            kernel: normals(width * channels, random),
            bias: if turn.is_multiple_of(3) { bias } else { Vec::new() },
            activated: turn % 4 != 1,
            gated: turn % 2 == 1,
        }
    }

    /// What a channel takes in from token i of the run that begins at `start`; `past` are the inputs before it, if any.
    fn input(&self, start: usize, past: Option<&[f32]>, i: i64, channel: usize) -> f32 {
        if i < 0 {
            let row = (i + self.width as i64 - 1) as usize;
            return past.map_or(0.0, |past| past[row * self.channels + channel]);
        }
        let at = (start + i as usize) * self.stride + channel;
        if self.gated { self.x[at] * self.x[at + 2 * self.channels] } else { self.x[at] }
    }

    /// The result of token i of that run.
    fn result(&self, start: usize, past: Option<&[f32]>, i: usize, channel: usize) -> Want {
        let products = (0..self.width).map(|j| {
            let x = self.input(start, past, (i + j) as i64 - (self.width as i64 - 1), channel);
            f64::from(x) * f64::from(self.kernel[j * self.channels + channel])
        });
        let products: Vec<f64> =
            products.chain(self.bias.get(channel).map(|bias| f64::from(*bias))).collect();
        let sum: f64 = products.iter().sum();
        let off = (self.width + 2) as f64 * U * products.iter().map(|x| x.abs()).sum::<f64>();
        let (mut exact, mut off) = match self.activated {
            // no steeper than 1.1
            true => (silu(sum), 1.1 * off + silu(sum).abs() * (EXP + (sum.abs() + 4.0) * U)),
            false => (sum, off),
        };
        if self.gated {
            let gate = f64::from(self.x[(start + i) * self.stride + self.channels + channel]);
            (exact, off) = (exact * gate, off * gate.abs() + 2.0 * U * (exact * gate).abs());
        }
        Near { exact, off }.want()
    }
}

pub(super) fn convolve(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(61);
    let sizes = [(4, 160), (3, 64), (1, 40), (7, 96), (4, 32)];
    let runs = [[3, 1, 70], [33, 2, 1], [1, 2, 3], [1, 64, 5], [1, 1, 1]];
    for (turn, ((width, channels), lengths)) in sizes.into_iter().zip(runs).enumerate() {
        let batch = Batch::new(lengths);
        let tokens = batch.tokens();
        let filter = Filter::new(turn, (width, channels), tokens, &mut random);
        let of_sequence = (width - 1) * channels;
        let before = normals(SEQUENCES * of_sequence, &mut random);
        let what =
            format!("{width} tokens of {channels} channels, runs of {lengths:?}, gated {}", filter.gated);
        let (x, bias) = (bench.put(&filter.x)?, bench.put(&filter.bias)?);
        let out = Outputs::new(bench, tokens * channels, channels.is_multiple_of(32))?;
        let past = bench.put(&before)?;
        let gate = |i: usize| if filter.gated { x.offset(4 * (i * channels) as u64) } else { Address::NONE };
        let launch = Convolve {
            x,
            x_stride: filter.stride as u32,
            gates: gate(2),
            kernel: bench.put(&filter.kernel)?,
            width: width as u32,
            channels: channels as u32,
            bias: if filter.bias.is_empty() { Address::NONE } else { bias },
            activated: filter.activated,
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
            let first = sequence * of_sequence;
            let old = continues.then_some(&before[first..][..of_sequence]);
            for i in 0..run.len() {
                want.extend((0..channels).map(|c| filter.result(run.start, old, i, c)));
            }
            for (at, after) in after[first..][..of_sequence].iter_mut().enumerate() {
                let i = (run.len() + at / channels) as i64 - (width as i64 - 1);
                *after = Want::Exactly(filter.input(run.start, old, i, at % channels));
            }
        }
        out.expect(bench, &what, want, cases)?;
        expect_memory(bench, &what, past, after, cases)?;
    }
    Ok(())
}

/// A state space, on the host.
struct Space {
    channels: usize,
    n_head: usize,
    n_group: usize,
    d_state: usize,
    x: Vec<f32>,
    dt: Vec<f32>,
    /// Empty: none.
    dt_bias: Vec<f32>,
    a: Vec<f32>,
    /// B, then C, of all groups.
    bc: Vec<f32>,
    d: Vec<f32>,
    z: Vec<f32>,
    /// Of dt, B and C, z.
    strides: [usize; 3],
}

impl Space {
    fn new(turn: usize, tokens: usize, random: &mut Rng) -> Space {
        let (channels, n_head, n_group, d_state) = [
            (64, 64, 1, 16),
            (32, 32, 1, 5),
            (64, 2, 2, 128),
            (96, 6, 2, 24),
            (64, 1, 1, 256),
            (32, 4, 1, 64),
        ][turn];
        let strides = [n_head + 3, 2 * n_group * d_state + 8, channels + 4 * (turn % 3)];
        let n_a = if n_head == channels { n_head * d_state } else { n_head };
        let mut dt = normals(tokens * strides[0], random);
        dt[0] = 25.0; // nothing is left of a logarithm
        Space {
            channels,
            n_head,
            n_group,
            d_state,
            x: normals(tokens * channels, random),
            dt,
            dt_bias: if turn.is_multiple_of(2) { normals(n_head, random) } else { Vec::new() },
            a: (0..n_a).map(|_| -2.0 * random.f32()).collect(),
            bc: normals(tokens * strides[1], random),
            d: normals(n_head, random),
            z: normals(tokens * strides[2], random),
            strides,
        }
    }

    /// Takes token t into the state of a channel; its result.
    fn step(&self, t: usize, channel: usize, states: &mut [Near]) -> Want {
        let Space { channels, n_head, n_group, d_state, strides, .. } = *self;
        let head = channel / (channels / n_head);
        let group = t * strides[1] + head / (n_head / n_group) * d_state;
        let (raw, bias) = (self.dt[t * strides[0] + head], self.dt_bias.get(head).copied().unwrap_or(0.0));
        let dt = softplus(f64::from(raw) + f64::from(bias));
        let dt_off = EXP * dt + U * f64::from(raw.abs() + bias.abs());
        let x = f64::from(self.x[t * channels + channel]);
        let skipped = f64::from(self.d[head]) * x;
        let mut sum = Near { exact: skipped, off: 4.0 * U * skipped.abs() };
        // of a lane's values, and of the lanes
        let roundings = (d_state.div_ceil(8) + 8) as f64;
        for (i, state) in states.iter_mut().enumerate() {
            let rate = self.a[if n_head == channels { head * d_state + i } else { head }];
            let decay = decay(rate, raw, bias);
            let [b, c] = [0, n_group * d_state].map(|part| f64::from(self.bc[group + part + i]));
            let (kept, taken) = (state.exact * decay.exact, dt * x * b);
            let off = state.off * decay.exact + state.exact.abs() * decay.off;
            let off = off + (dt_off * x * b).abs() + 4.0 * U * (kept.abs() + taken.abs());
            *state = Near { exact: kept + taken, off };
            sum.exact += state.exact * c;
            sum.off += c.abs() * (off + roundings * U * state.exact.abs());
        }
        let z = f64::from(self.z[t * strides[2] + channel]);
        let exact = sum.exact * silu(z);
        let off = sum.off * silu(z).abs() + exact.abs() * (EXP + (z.abs() + 8.0) * U);
        Near { exact, off }.want()
    }
}

pub(super) fn state_space(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(62);
    for turn in 0..6 {
        let batch = Batch::new([[3, 1, 2], [1, 1, 1]][turn % 2]);
        let tokens = batch.tokens();
        let space = Space::new(turn, tokens, &mut random);
        let Space { channels, n_head, n_group, d_state, strides, .. } = space;
        let of_sequence = channels * d_state;
        let before = normals(SEQUENCES * of_sequence, &mut random);
        let what = format!("{channels} channels, {n_head} heads, {n_group} groups, states of {d_state}");
        let out = Outputs::new(bench, tokens * channels, true)?;
        let (b, dt_bias, states) = (bench.put(&space.bc)?, bench.put(&space.dt_bias)?, bench.put(&before)?);
        let launch = StateSpace {
            x: bench.put(&space.x)?,
            dt: bench.put(&space.dt)?,
            dt_stride: strides[0] as u32,
            dt_bias: if space.dt_bias.is_empty() { Address::NONE } else { dt_bias },
            a: bench.put(&space.a)?,
            a_each: n_head == channels,
            b,
            c: b.offset(4 * (n_group * d_state) as u64),
            bc_stride: strides[1] as u32,
            d: bench.put(&space.d)?,
            z: bench.put(&space.z)?,
            z_stride: strides[2] as u32,
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
        let (want, after) = batch.go_through(&before, |t, memory| {
            let channels = memory.chunks_exact_mut(d_state).enumerate();
            channels.map(|(channel, state)| space.step(t, channel, state)).collect()
        });
        out.expect(bench, &what, want, cases)?;
        expect_memory(bench, &what, states, after, cases)?;
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
