//! Causal attention of some tokens, for the query heads that share one key/value head.
//!
//! Keys lie in blocks of sixteen positions, transposed, so that sixteen scores grow side by side and no vector is ever
//! summed up across its lanes:
//!
//! ```text
//! keys     (n_kv / 16, head_dim, 16)     values   (n_kv, head_dim_v)
//! ```
//!
//! 1. Up to [`ROWS`] queries (of heads, then of tokens) meet each block of keys while it is in registers.
//! 2. Each of them turns its own scores into probabilities; what the causal mask hides gets 0.
//! 3. All of them meet each row of values, 32 columns at a time.
//!
//! A query's result does not depend on which others it shares the work with, to the bit.

use super::{Lanes, exp};
use half::f16;

/// Positions in a block of keys.
pub const KEY_BLOCK: usize = 16;

/// Queries that meet a key or value while it is in registers.
pub const ROWS: usize = 8;

/// Columns of values whose sums are kept in registers.
const COLUMNS: usize = 32;

/// The operands of [`attention`].
#[derive(Debug)]
pub struct Attention<'a> {
    /// Queries: those of token t are the `group * head_dim` values at `t * q_stride`.
    pub q: &'a [f32],
    /// Distance of the queries of a token from those of the next.
    pub q_stride: usize,
    /// Keys, in blocks (see the module's documentation): those that the last token sees, the last block whole.
    pub k: &'a [f16],
    /// Values that the last token sees, (n_kv, head_dim_v).
    pub v: &'a [f16],
    /// Tokens; the last sees all `n_kv` positions, the one before it one fewer, and so on.
    pub n_tokens: usize,
    /// Query heads that share the keys and values.
    pub group: usize,
    /// Values in a key.
    pub head_dim: usize,
    /// Values in a value.
    pub head_dim_v: usize,
    /// What scores are multiplied with, usually 1 / sqrt(head_dim).
    pub scale: f32,
    /// Room for `ROWS` times n_kv scores, n_kv rounded up to whole blocks.
    pub scores: &'a mut [f32],
    /// Results: those of token t are the `group * head_dim_v` values at `t * out_stride`.
    pub out: &'a mut [f32],
    /// Distance of the results of a token from those of the next.
    pub out_stride: usize,
}

/// Writes the key of one position (head_dim values) into a head's blocks of keys.
pub fn store_key(keys: &mut [f16], position: usize, key: &[f32]) {
    let block = &mut keys[position / KEY_BLOCK * KEY_BLOCK * key.len()..][..KEY_BLOCK * key.len()];
    for (lanes, x) in block.as_chunks_mut::<KEY_BLOCK>().0.iter_mut().zip(key) {
        lanes[position % KEY_BLOCK] = f16::from_f32(*x);
    }
}

/// `out = softmax(scale * q k^T + mask) v` (Vaswani et al. 2017, arXiv 1706.03762).
#[inline(always)]
pub fn attention<L: Lanes>(mut a: Attention<'_>) {
    let n_kv = a.v.len() / a.head_dim_v;
    assert!(a.v.len() == n_kv * a.head_dim_v && n_kv >= a.n_tokens);
    assert!(a.k.len() == n_kv.div_ceil(KEY_BLOCK) * KEY_BLOCK * a.head_dim);
    let rows = a.n_tokens * a.group;
    let mut row = 0;
    while row < rows {
        match rows - row {
            ROWS.. => group::<L, ROWS>(&mut a, row, n_kv),
            4.. => group::<L, 4>(&mut a, row, n_kv),
            3 => group::<L, 3>(&mut a, row, n_kv),
            2 => group::<L, 2>(&mut a, row, n_kv),
            _ => group::<L, 1>(&mut a, row, n_kv),
        }
        row += match rows - row {
            ROWS.. => ROWS,
            4.. => 4,
            n => n,
        };
    }
}

/// Queries `first..first + N`, counted over heads and then tokens, of which the last token sees `n_kv` positions.
#[inline(always)]
fn group<L: Lanes, const N: usize>(a: &mut Attention<'_>, first: usize, n_kv: usize) {
    let place = |r: usize| ((first + r) / a.group, (first + r) % a.group);
    let visible: [usize; N] = std::array::from_fn(|r| n_kv - (a.n_tokens - 1 - place(r).0));
    let q: [&[f32]; N] = std::array::from_fn(|r| {
        let (token, head) = place(r);
        &a.q[token * a.q_stride + head * a.head_dim..][..a.head_dim]
    });
    let n = visible[N - 1];
    let stride = n.next_multiple_of(KEY_BLOCK);
    let scores = &mut a.scores[..N * stride];
    for (block, k) in a.k.chunks_exact(KEY_BLOCK * a.head_dim).take(stride / KEY_BLOCK).enumerate() {
        for (r, dots) in scores_of_block::<L, N>(q, k).into_iter().enumerate() {
            scores[r * stride + block * KEY_BLOCK..][..KEY_BLOCK].copy_from_slice(&dots.map(|s| s * a.scale));
        }
    }
    for (scores, visible) in scores.chunks_exact_mut(stride).zip(visible) {
        softmax::<L>(&mut scores[..visible]);
        scores[visible..].fill(0.0);
    }
    for column in (0..a.head_dim_v).step_by(COLUMNS) {
        let width = COLUMNS.min(a.head_dim_v - column);
        let sums = weighted_sums::<L, N>(scores, &a.v[..n * a.head_dim_v], a.head_dim_v, column);
        for (r, sums) in sums.iter().enumerate() {
            let (token, head) = place(r);
            let at = token * a.out_stride + head * a.head_dim_v + column;
            a.out[at..at + width].copy_from_slice(&sums.as_flattened()[..width]);
        }
    }
}

/// Dot products of N queries with the sixteen keys of a block.
#[inline(always)]
fn scores_of_block<L: Lanes, const N: usize>(q: [&[f32]; N], k: &[f16]) -> [[f32; KEY_BLOCK]; N] {
    let mut sums = [[0.0; KEY_BLOCK]; N];
    for (d, k) in k.as_chunks::<KEY_BLOCK>().0.iter().enumerate() {
        let k = L::widen(k);
        for r in 0..N {
            let q = q[r][d];
            for i in 0..KEY_BLOCK {
                sums[r][i] = L::mul_add(q, k[i], sums[r][i]);
            }
        }
    }
    sums
}

/// Turns scores into probabilities. A NaN among the scores makes all of them NaN.
#[inline(always)]
fn softmax<L: Lanes>(scores: &mut [f32]) {
    let mut max = [f32::NEG_INFINITY; 16];
    let (chunks, rest) = scores.as_chunks::<16>();
    for chunk in chunks {
        for i in 0..16 {
            max[i] = if chunk[i] > max[i] { chunk[i] } else { max[i] };
        }
    }
    let max = max.iter().chain(rest).fold(f32::NEG_INFINITY, |m, s| m.max(*s));
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

/// `sum over j of p[r, j] v[j]` for columns `column..column + 32` of v; of those that v does not have, 0.
#[inline(always)]
fn weighted_sums<L: Lanes, const N: usize>(
    p: &[f32],
    v: &[f16],
    v_dim: usize,
    column: usize,
) -> [[[f32; 16]; COLUMNS / 16]; N] {
    let stride = p.len() / N;
    let p: [&[f32]; N] = std::array::from_fn(|r| &p[r * stride..(r + 1) * stride]);
    let mut sums = [[[0.0; 16]; COLUMNS / 16]; N];
    for (j, v) in v.chunks_exact(v_dim).enumerate() {
        let mut narrow = [f16::ZERO; COLUMNS];
        let v = v[column..].first_chunk::<COLUMNS>().unwrap_or_else(|| {
            narrow[..v_dim - column].copy_from_slice(&v[column..]);
            &narrow
        });
        let v: [[f32; 16]; COLUMNS / 16] = std::array::from_fn(|h| L::widen(&v.as_chunks::<16>().0[h]));
        for r in 0..N {
            let weight = p[r][j];
            for h in 0..COLUMNS / 16 {
                for i in 0..16 {
                    sums[r][h][i] = L::mul_add(weight, v[h][i], sums[r][h][i]);
                }
            }
        }
    }
    sums
}
