//! Delta nets and the gates of their heads, token by token in f64; bounds as in [`super::recurrent`].

use braise_kernels::cuda::ops::{DeltaGates, DeltaNet, GateHeads, Norm, NormKind};
use braise_kernels::cuda::{Address, Error};
use fastrand::Rng;

use super::super::compare::Want;
use super::super::ops::{EXP, U, expect_all};
use super::super::report::Cases;
use super::Bench;
use super::recurrent::{Batch, Near, Outputs, SEQUENCES, decay, expect_memory, silu};
use super::rows::normals;

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

/// Numbers of heads, of those of keys, and sizes: all that there are kernels for.
const TURNS: [(usize, usize, usize); 9] = [
    (4, 2, 64),
    (6, 3, 32),
    (2, 2, 128),
    (1, 1, 256),
    (2, 1, 32),
    (2, 1, 96),
    (1, 1, 160),
    (2, 2, 192),
    (1, 1, 224),
];

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
        let (n_head, n_head_k, dim) = TURNS[turn];
        let fine = matches!(turn, 2 | 7);
        let neighbours = matches!(turn, 0 | 5);
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
    for turn in 0..TURNS.len() {
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
        let (want, after) = batch.go_through(&before, |t, memory| {
            let states = memory.chunks_exact_mut(dim * dim).enumerate();
            states.flat_map(|(head, states)| heads.step(head, t, states)).collect()
        });
        let got = bench.results(y, tokens * n_head * dim, &what, cases)?;
        expect_all(&what, &got, want, cases);
        expect_memory(bench, &what, states, after, cases)?;
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
