//! Attention of the query heads that share one key/value head, for one token.

use super::{Lanes, exp};
use half::f16;

/// The operands of [`attention`].
#[derive(Debug)]
pub struct Attention<'a> {
    /// Queries, (n_query, head_dim): the heads that share the keys and values.
    pub q: &'a [f32],
    /// Keys of the visible positions, (n_kv, head_dim).
    pub k: &'a [f16],
    /// Values of the visible positions, (n_kv, head_dim_v).
    pub v: &'a [f16],
    /// Values in a key.
    pub head_dim: usize,
    /// What scores are multiplied with, usually 1 / sqrt(head_dim).
    pub scale: f32,
    /// Room for n_query * n_kv scores.
    pub scores: &'a mut [f32],
    /// Results, (n_query, head_dim_v).
    pub out: &'a mut [f32],
}

/// Query heads whose sums are kept in registers while a key or value is read.
const GROUP: usize = 4;

/// `out = softmax(scale * q k^T) v`: keys and values are read once for all queries of a group.
#[inline(always)]
pub fn attention<L: Lanes>(a: Attention<'_>) {
    let n_query = a.q.len() / a.head_dim;
    let n_kv = a.k.len() / a.head_dim;
    let v_dim = a.out.len() / n_query;
    assert!(a.v.len() == n_kv * v_dim && a.scores.len() >= n_query * n_kv && n_kv > 0);
    let queries = a.q.chunks(GROUP * a.head_dim).zip(a.out.chunks_mut(GROUP * v_dim));
    for ((q, out), scores) in queries.zip(a.scores.chunks_mut(GROUP * n_kv)) {
        match q.len() / a.head_dim {
            4 => group::<L, 4>(q, a.k, a.v, a.head_dim, a.scale, scores, out),
            3 => group::<L, 3>(q, a.k, a.v, a.head_dim, a.scale, scores, out),
            2 => group::<L, 2>(q, a.k, a.v, a.head_dim, a.scale, scores, out),
            _ => group::<L, 1>(q, a.k, a.v, a.head_dim, a.scale, scores, out),
        }
    }
}

#[inline(always)]
fn group<L: Lanes, const N: usize>(
    q: &[f32],
    k: &[f16],
    v: &[f16],
    head_dim: usize,
    scale: f32,
    scores: &mut [f32],
    out: &mut [f32],
) {
    let n_kv = k.len() / head_dim;
    for (j, k) in k.chunks_exact(head_dim).enumerate() {
        let dots = dots::<L, N>(q, k);
        for (i, dot) in dots.iter().enumerate() {
            scores[i * n_kv + j] = dot * scale;
        }
    }
    for scores in scores.chunks_exact_mut(n_kv).take(N) {
        softmax::<L>(scores);
    }
    weighted_sums::<L, N>(&scores[..N * n_kv], v, out);
}

/// Dot products of N queries with one key.
#[inline(always)]
fn dots<L: Lanes, const N: usize>(q: &[f32], k: &[f16]) -> [f32; N] {
    let mut sums = [[0.0; 16]; N];
    let (k_chunks, k_rest) = k.as_chunks::<16>();
    for (c, k16) in k_chunks.iter().enumerate() {
        let k16 = L::widen(k16);
        for (i, sums) in sums.iter_mut().enumerate() {
            let q16 = q[i * k.len() + 16 * c..].first_chunk::<16>().expect("a query is as long as a key");
            for ((s, q), k) in sums.iter_mut().zip(q16).zip(&k16) {
                *s = L::mul_add(*q, *k, *s);
            }
        }
    }
    let rest = k.len() - k_rest.len();
    std::array::from_fn(|i| {
        let tail: f32 = k_rest.iter().zip(&q[i * k.len() + rest..]).map(|(k, q)| k.to_f32() * q).sum();
        super::reduce(sums[i]) + tail
    })
}

/// Turns scores into probabilities. A NaN among the scores makes all of them NaN.
#[inline(always)]
fn softmax<L: Lanes>(scores: &mut [f32]) {
    let max = scores.iter().fold(f32::NEG_INFINITY, |m, s| m.max(*s));
    let mut sums = [0.0; 16];
    let (chunks, rest) = scores.as_chunks_mut::<16>();
    for chunk in chunks {
        for (s, sum) in chunk.iter_mut().zip(&mut sums) {
            *s = exp::<L>(*s - max);
            *sum += *s;
        }
    }
    for (s, sum) in rest.iter_mut().zip(&mut sums) {
        *s = exp::<L>(*s - max);
        *sum += *s;
    }
    let inverse = 1.0 / super::reduce(sums);
    for s in scores {
        *s *= inverse;
    }
}

/// `out[i] = sum over j of p[i, j] v[j]`, (N, v_dim), sixteen columns of v at a time.
#[inline(always)]
fn weighted_sums<L: Lanes, const N: usize>(p: &[f32], v: &[f16], out: &mut [f32]) {
    let v_dim = out.len() / N;
    let n_kv = p.len() / N;
    for column in (0..v_dim / 16 * 16).step_by(16) {
        let mut sums = [[0.0; 16]; N];
        for (j, v) in v.chunks_exact(v_dim).enumerate() {
            let v16 = L::widen(v[column..].first_chunk::<16>().expect("a column of sixteen"));
            for (i, sums) in sums.iter_mut().enumerate() {
                let weight = p[i * n_kv + j];
                for (s, v) in sums.iter_mut().zip(&v16) {
                    *s = L::mul_add(weight, *v, *s);
                }
            }
        }
        for (out, sums) in out.chunks_exact_mut(v_dim).zip(&sums) {
            out[column..column + 16].copy_from_slice(sums);
        }
    }
    for column in v_dim / 16 * 16..v_dim {
        for (out, p) in out.chunks_exact_mut(v_dim).zip(p.chunks_exact(n_kv)) {
            out[column] = p.iter().zip(v.chunks_exact(v_dim)).map(|(p, v)| p * v[column].to_f32()).sum();
        }
    }
}
