//! Attention against the same formula in f64, over keys and values as the cache's formats round them.

use super::compare::Want;
use super::inputs::shifted;
use super::ops::{EXP, SENTINEL, U, expect_all, guarded, normals, of_sum};
use super::report::Cases;
use braise_kernels::ops::Window::{self, Chunk, Sliding};
use braise_kernels::ops::{
    self, Attention, BLOCK, Cached, KvType, Numbers, PAGE, SPAN, Scores, Scratch, Total, row_of, store_key,
    store_value,
};
use braise_kernels::quant::block::BlockFormat;
use braise_kernels::quant::q8_0;
use braise_kernels::table::Kernels;
use fastrand::Rng;
use half::f16;
use std::ops::Range;

/// Which kernel computes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum By {
    /// That for many tokens.
    Many,
    /// That for a span of positions, and the merging of spans.
    Spans,
}

/// Attention of many tokens.
pub(super) fn many(kernels: Kernels, cases: &mut Cases) {
    check(kernels, By::Many, cases);
}

/// Attention over spans of positions.
pub(super) fn spans(kernels: Kernels, cases: &mut Cases) {
    check(kernels, By::Spans, cases);
}

const DIMS: &[(usize, usize)] =
    &[(64, 64), (80, 80), (96, 96), (128, 128), (256, 256), (1, 1), (7, 9), (24, 24), (100, 33), (192, 128)];

/// Formats of keys and values.
const TYPES: [(KvType, KvType); 4] = [
    (KvType::F16, KvType::F16),
    (KvType::Q8_0, KvType::Q8_0),
    (KvType::F16, KvType::Q8_0),
    (KvType::Q8_0, KvType::F16),
];

fn check(k: Kernels, by: By, cases: &mut Cases) {
    let mut random = Rng::with_seed(5);
    let mut turn = 0;
    let mut types = || {
        turn += 1;
        TYPES[turn % TYPES.len()]
    };
    for dims in DIMS {
        for group in 1..=9 {
            for n_kv in [1, 2, 3, 15, 16, 17, 31, 33, 64, 65, 100, 255, 300] {
                Heads::new((1, group), n_kv, *dims, types(), None, &mut random).check(k, by, cases);
            }
        }
    }
    for n_kv in (1..=300).chain([SPAN - 1, SPAN, SPAN + 1, 2 * SPAN + 77]) {
        Heads::new((1, 1 + n_kv % 5), n_kv, (16, 16), types(), None, &mut random).check(k, by, cases);
    }
    for (n_tokens, group) in
        [(2, 1), (3, 1), (16, 1), (17, 1), (5, 2), (16, 3), (7, 4), (4, 8), (3, 9), (70, 1)]
    {
        for more in [0, 1, 15, 40, SPAN - 5] {
            for window in [None, Some(Chunk(17)), Some(Chunk(BLOCK)), Some(Chunk(200))]
                .into_iter()
                .chain([1, 2, 17, BLOCK, 200].map(|n| Some(Sliding(n))))
            {
                let n_kv = n_tokens + more;
                Heads::new((n_tokens, group), n_kv, (24, 40), types(), window, &mut random)
                    .check(k, by, cases);
                let heads = Heads::new((n_tokens, group), n_kv, (64, 64), types(), window, &mut random);
                heads.check_grouping(k, by, cases);
            }
        }
    }
    for (n_tokens, group) in [(1, 4), (3, 1), (17, 3), (40, 1), (130, 1)] {
        for (before, behind) in [(0, 0), (0, 50), (70, 0), (130, 170), (SPAN - 5, 9)] {
            for window in [None, Some(Sliding(1)), Some(Sliding(2)), Some(Sliding(17)), Some(Sliding(200))] {
                let n_kv = before + n_tokens + behind;
                let mut heads = Heads::new((n_tokens, group), n_kv, (64, 40), types(), window, &mut random);
                heads.behind = Some(behind);
                heads.check(k, by, cases);
                if n_tokens < 40 {
                    heads.check_grouping(k, by, cases);
                }
            }
        }
    }
    for (n_tokens, group) in [(1, 4), (3, 1), (17, 3), (40, 8)] {
        for more in [0, 40, SPAN + 5] {
            for window in [None, Some(Sliding(17)), Some(Chunk(200))] {
                for (softcap, slopes, sinks) in
                    [(true, false, false), (false, true, false), (false, false, true), (true, true, true)]
                {
                    let mut heads = Heads::new(
                        (n_tokens, group),
                        n_tokens + more,
                        (24, 40),
                        types(),
                        window,
                        &mut random,
                    );
                    heads.softcap = softcap.then_some(2.5);
                    let numbers = |is: bool| if is { normals(group, &mut random) } else { Vec::new() };
                    [heads.slopes, heads.sinks] = [slopes, sinks].map(numbers);
                    heads.check(k, by, cases);
                }
            }
        }
    }
    let f16 = (KvType::F16, KvType::F16);
    for (n_tokens, n_kv) in [(1, 700), (9, 700), (40, 2 * SPAN + 40)] {
        // scores that grow by 128 every 50 positions, and by 64 for one of them: the largest take all
        let mut heads = Heads::new((n_tokens, 3), n_kv, (24, 24), f16, None, &mut random);
        let score =
            |position: usize| (position / 50) as f32 * 128.0 + if position % 50 == 7 { 64.0 } else { 0.0 };
        heads.q.chunks_exact_mut(24).for_each(|q| q.copy_from_slice(&FIRST));
        for (position, key) in heads.k.chunks_exact_mut(24).enumerate() {
            key.copy_from_slice(&FIRST.map(|x| x * score(position)));
        }
        let got = heads.call(k, by, 1.0, cases);
        let want = (0..n_tokens * 3 * 24).map(|i| {
            let seen = heads.seen(i / 72);
            let largest = seen.clone().map(score).fold(f32::MIN, f32::max);
            let values: Vec<f64> = (seen.filter(|at| score(*at) == largest))
                .map(|at| f64::from(heads.v[at * 24 + i % 24]))
                .collect();
            let mean = |f: fn(f64) -> f64| values.iter().map(|v| f(*v)).sum::<f64>() / values.len() as f64;
            // in integers, half a step of 13 bits of numbers below 8
            Want::Within { exact: mean(|v| v), bound: mean(f64::abs) / 64.0 + 2f64.powi(-11) }
        });
        expect_all("scores grow", &got, want.collect::<Vec<_>>(), cases);
        // large numbers, whose products are 0
        let mut heads = Heads::new((n_tokens, 3), n_kv, (24, 24), f16, None, &mut random);
        for q in heads.q.chunks_exact_mut(24) {
            (q[5], q[20]) = (1e7, 0.0);
        }
        for key in heads.k.chunks_exact_mut(24) {
            (key[5], key[20]) = (0.0, 6e4);
        }
        heads.check(k, by, cases);
    }
    for at in 0..140 {
        let heads = Heads::new((3, 5), 140, (24, 24), f16, None, &mut random);
        let finite = heads.call(k, by, 1.0, cases);
        for (what, key, value) in [
            ("a key is NaN", Some(f32::NAN), None),
            ("a value is NaN", None, Some(f32::NAN)),
            ("a value is infinite", None, Some(f32::INFINITY)),
        ] {
            let mut heads = heads.clone();
            let number = at * 24 + at % 24;
            (heads.k[number], heads.v[number]) =
                (key.unwrap_or(heads.k[number]), value.unwrap_or(heads.v[number]));
            let got = heads.call(k, by, 1.0, cases);
            // tokens at the positions 137, 138 and 139
            let seeing = finite.len() / 3 * at.saturating_sub(137);
            // in floats, 0 times a value that a token does not see yet counts as well
            let floats = by == By::Spans || heads.exact || k.attends_in() == Numbers::Floats;
            if value.is_none() || !floats {
                let unchanged = finite[..seeing].iter().map(|y| Want::Exactly(*y));
                expect_all(&format!("later {what}"), &got[..seeing], unchanged, cases);
            }
            // a value spoils its column, and may spoil the others
            let spoiled = (seeing..got.len()).filter(|i| value.is_none() || i % 24 == at % 24);
            let spoiled: Vec<f32> = spoiled.map(|i| got[i]).collect();
            let want = Want::NotFinite { nan: value != Some(f32::INFINITY) };
            expect_all(what, &spoiled, vec![want; spoiled.len()], cases);
        }
        let (mut heads, query) = (heads, at % 15 * 24);
        heads.q[query + at % 24] = f32::NAN;
        let got = heads.call(k, by, 1.0, cases);
        let of_query = &got[query..query + 24];
        expect_all("a query is NaN", of_query, vec![Want::NotFinite { nan: true }; 24], cases);
    }
}

/// The first of 24 directions.
const FIRST: [f32; 24] = {
    let mut first = [0.0; 24];
    first[0] = 1.0;
    first
};

/// One call of attention.
#[derive(Debug, Clone)]
struct Heads {
    n_tokens: usize,
    /// Queries of a token.
    group: usize,
    n_kv: usize,
    window: Option<Window>,
    /// Positions after the last token, which are seen too; `None`: tokens see none after themselves.
    behind: Option<usize>,
    head_dim: usize,
    /// Size of a value.
    v_dim: usize,
    types: (KvType, KvType),
    /// (n_tokens, group, head_dim)
    q: Vec<f32>,
    /// (n_kv, head_dim): not yet in blocks; as the format rounds them.
    k: Vec<f32>,
    v: Vec<f32>,
    /// See [`Scores`].
    softcap: Option<f32>,
    slopes: Vec<f32>,
    sinks: Vec<f32>,
    exact: bool,
}

/// Rows of `dim` numbers, as `ty` rounds them.
fn rounded(ty: KvType, dim: usize, mut rows: Vec<f32>) -> Vec<f32> {
    match ty {
        KvType::F16 => rows.iter_mut().for_each(|x| *x = f16::from_f32(*x).to_f32()),
        KvType::Q8_0 => {
            for group in rows.chunks_mut(dim).flat_map(|row| row.chunks_mut(32)) {
                let mut block = [0.0; 32];
                block[..group.len()].copy_from_slice(group);
                let block = q8_0::Block::quantize(&block);
                for (x, code) in group.iter_mut().zip(block.codes()) {
                    *x = f32::from(code) * block.d();
                }
            }
        }
    }
    rows
}

impl Heads {
    fn new(
        (n_tokens, group): (usize, usize),
        n_kv: usize,
        (head_dim, v_dim): (usize, usize),
        types: (KvType, KvType),
        window: Option<Window>,
        random: &mut Rng,
    ) -> Heads {
        let q = normals(n_tokens * group * head_dim, random);
        let k = rounded(types.0, head_dim, normals(n_kv * head_dim, random));
        let v = rounded(types.1, v_dim, normals(n_kv * v_dim, random));
        let (softcap, slopes, sinks) = (None, Vec::new(), Vec::new());
        let exact = n_kv % 4 == 3;
        Heads {
            n_tokens,
            group,
            n_kv,
            window,
            behind: None,
            head_dim,
            v_dim,
            types,
            q,
            k,
            v,
            softcap,
            slopes,
            sinks,
            exact,
        }
    }

    /// Position of a token.
    fn position(&self, token: usize) -> usize {
        self.n_kv - self.behind.unwrap_or(0) - self.n_tokens + token
    }

    /// The positions that a token sees.
    fn seen(&self, token: usize) -> Range<usize> {
        let position = self.position(token);
        let seen = |other: &usize| match (self.behind, self.window) {
            (None, None) => *other <= position,
            (None, Some(Sliding(n))) => *other <= position && position - other < n,
            (None, Some(Chunk(n))) => *other <= position && other / n == position / n,
            (Some(_), None) => true,
            (Some(_), Some(window)) => position.abs_diff(*other) <= window.size() / 2,
        };
        let all: Vec<usize> = (0..self.n_kv).filter(seen).collect();
        all[0]..all[all.len() - 1] + 1
    }

    /// The results, (n_tokens, group, v_dim), computed with other heads' queries and results between those of the
    /// tokens, and with what must not be seen in the keys' last block and behind the values.
    fn call(&self, kernels: Kernels, by: By, scale: f32, cases: &mut Cases) -> Vec<f32> {
        let what = self.what(by, scale);
        // pages in any order, between those of others; what nobody sees is nowhere
        let n_pages = self.n_kv.div_ceil(PAGE);
        let pages: Vec<u32> = (0..n_pages).rev().map(|i| (i * 2 + 1) as u32).collect();
        let seen = self.seen(0).start..self.seen(self.n_tokens - 1).end;
        let unseen = |i: usize| (i + 1) * PAGE <= seen.start || i * PAGE >= seen.end;
        let table: Vec<u32> = (0..n_pages).map(|i| if unseen(i) { u32::MAX } else { pages[i] }).collect();
        let room = 2 * n_pages * PAGE;
        let cache = |ty: KvType, dim: usize| {
            let row = ty.row_bytes(dim).expect("few bytes");
            // 60,000 in f16 where that is what the bytes mean, and large in any case
            [0x53, 0x7b].repeat((room * row).div_ceil(2))
        };
        let (mut keys, mut values) = (cache(self.types.0, self.head_dim), cache(self.types.1, self.v_dim));
        for (position, key) in self.k.chunks_exact(self.head_dim).enumerate() {
            store_key(self.types.0, &mut keys, row_of(&pages, position), key);
        }
        for (position, value) in self.v.chunks_exact(self.v_dim).enumerate() {
            store_value(self.types.1, &mut values, row_of(&pages, position), value);
        }
        let (q_len, out_len) = (self.group * self.head_dim, self.group * self.v_dim);
        let rows = self.q.chunks_exact(q_len);
        let spread: Vec<f32> = rows.flat_map(|row| row.iter().copied().chain([SENTINEL; 5])).collect();
        let (q, keys, values) = (shifted(&spread, 1), shifted(&keys, 1), shifted(&values, 1));
        let a = Attention {
            q: &q[1..],
            q_stride: q_len + 5,
            k: Cached { ty: self.types.0, dim: self.head_dim, data: &keys[1..], pages: &table },
            v: Cached { ty: self.types.1, dim: self.v_dim, data: &values[1..], pages: &table },
            first: self.position(0),
            n_tokens: self.n_tokens,
            window: self.window,
            both_ways: self.behind.map(|_| self.n_kv),
            group: self.group,
            scale,
            scores: Scores {
                softcap: self.softcap,
                slopes: &self.slopes,
                sinks: &self.sinks,
                exact: self.exact,
            },
        };
        if by == By::Spans {
            return spans_merged(kernels, &a, &what, cases);
        }
        let out = vec![SENTINEL; self.n_tokens * (out_len + 5)];
        let mut scratch = Scratch::default();
        let got = guarded(&out, |out| kernels.attention(&a, &mut scratch, out, out_len + 5), &what, cases);
        let (results, between): (Vec<_>, Vec<_>) =
            got.chunks_exact(out_len + 5).map(|row| row.split_at(out_len)).unzip();
        cases.expect(between.concat().iter().all(|y| *y == SENTINEL), || {
            format!("{what}: wrote results of other heads")
        });
        results.concat()
    }

    /// Each token by itself gives the same bits as all of them together; so does each way to compute it, where both are
    /// in floats.
    fn check_grouping(&self, kernels: Kernels, by: By, cases: &mut Cases) {
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        let together = self.call(kernels, by, scale, cases);
        let mut same_bits = |other: Vec<f32>, how: &str| {
            let same = together.iter().map(|y| y.to_bits()).eq(other.iter().map(|y| y.to_bits()));
            cases.expect(same, || format!("{}: {how} gives other bits", self.what(by, scale)));
        };
        let mut unheard = Cases::default();
        let one_by_one = (0..self.n_tokens).flat_map(|t| {
            let after = self.n_tokens - 1 - t;
            let n_kv = if self.behind.is_some() { self.n_kv } else { self.n_kv - after };
            let behind = self.behind.map(|behind| behind + after);
            let q = self.q[t * self.group * self.head_dim..][..self.group * self.head_dim].to_vec();
            let (k, v) = (self.k[..n_kv * self.head_dim].to_vec(), self.v[..n_kv * self.v_dim].to_vec());
            Heads { n_tokens: 1, n_kv, behind, q, k, v, ..self.clone() }.call(
                kernels,
                by,
                scale,
                &mut unheard,
            )
        });
        same_bits(one_by_one.collect(), "tokens by themselves");
        if by == By::Spans && (self.exact || kernels.attends_in() == Numbers::Floats) {
            same_bits(self.call(kernels, By::Many, scale, &mut unheard), "the kernel for many tokens");
        }
    }

    fn what(&self, by: By, scale: f32) -> String {
        let Heads { n_tokens, group, n_kv, window, behind, head_dim, v_dim, types: (k, v), .. } = self;
        let (softcap, slopes, sinks, exact) = (self.softcap, &self.slopes, &self.sinks, self.exact);
        format!(
            "{by:?}: {n_tokens} tokens, {group} queries each, {n_kv} {k} keys of {head_dim}, {v} values of {v_dim}, \
             window {window:?}, behind {behind:?}, scale {scale}, softcap {softcap:?}, slopes {slopes:?}, sinks {sinks:?}, exact {exact}"
        )
    }

    fn check(&self, kernels: Kernels, by: By, cases: &mut Cases) {
        let plain = self.softcap.is_none() && self.slopes.is_empty() && self.sinks.is_empty();
        let numbers =
            if by == By::Many && plain && !self.exact { kernels.attends_in() } else { Numbers::Floats };
        // as models do it, and so large that one position takes nearly all
        for scale in [1.0 / (self.head_dim as f32).sqrt(), 4.0] {
            let got = self.call(kernels, by, scale, cases);
            let want: Vec<Want> = (self.q.chunks_exact(self.head_dim).enumerate())
                .flat_map(|(i, q)| self.want(q, i % self.group, self.seen(i / self.group), scale, numbers))
                .collect();
            expect_all(&self.what(by, scale), &got, want, cases);
        }
    }

    /// `softmax(scale q k^T) v` over the positions `seen`, in f64.
    ///
    /// A score, a sum of head_dim products in order, is off by at most delta = (head_dim + 2) u sum |q k| scale, and by
    /// the rounding of its distance from the largest; e^x turns that into a relative error of a probability, in the
    /// numerator and in the sum. Each block scales what was there by another e^x, whose arguments add up to the same
    /// distance. A probability that e^x cuts off, at e^-86.6 or less, is off by that.
    ///
    /// In integers, queries and keys are off by half a step of a `limit`-th of the largest of each, and 2^x by 2^-18. A
    /// value is off by half a step of its power of two, and its weight by half of a 4095th of the largest weight of the
    /// block, each with the power of two of its value.
    ///
    /// In bf16, queries, keys and values are each off by up to 2^-8 of them, and weights by up to 2^-7 of what they are
    /// beside each other: the table that makes them has 64 entries. Those below 2^-65 of the largest may be 0.
    ///
    /// A soft cap adds the error of tanh, which is that of e^x and of some roundings, times the cap, and passes on what
    /// there was; a slope adds the rounding of its product and of the sum.
    fn want(&self, q: &[f32], head: usize, seen: Range<usize>, scale: f32, numbers: Numbers) -> Vec<Want> {
        const BF16: f64 = 1.0 / 256.0;
        let integers = numbers == Numbers::Integers;
        let mut delta: f64 = 0.0;
        let largest = |x: &[f32]| x.iter().fold(0.0, |max, x| f64::from(x.abs()).max(max));
        let limit = (f64::from(i32::MAX) / self.head_dim as f64).sqrt().floor().min(f64::from(i16::MAX));
        let keys = self.k.chunks_exact(self.head_dim).take(seen.end).skip(seen.start);
        let scores: Vec<f64> = (seen.clone().zip(keys))
            .map(|(position, k)| {
                let products = || q.iter().zip(k).map(|(q, k)| f64::from(*q) * f64::from(*k));
                let mut off = (self.head_dim + 2) as f64 * U * products().map(f64::abs).sum::<f64>();
                if numbers == Numbers::Tiles {
                    off += (2.0 * BF16 + BF16 * BF16) * products().map(f64::abs).sum::<f64>();
                }
                if integers {
                    let (half_q, half_k) = (largest(q) / limit / 2.0, largest(k) / limit / 2.0);
                    let sum = |x: &[f32]| x.iter().map(|x| f64::from(x.abs())).sum::<f64>();
                    // 1.001: dividing by the largest and multiplying round too
                    off +=
                        1.001 * (sum(q) * half_k + sum(k) * half_q + self.head_dim as f64 * half_q * half_k);
                }
                let mut score = products().sum::<f64>() * f64::from(scale);
                off *= f64::from(scale);
                if let Some(cap) = self.softcap.map(f64::from) {
                    score = cap * (score / cap).tanh();
                    off += cap * (4.0 * U + 4.0 * U) + score.abs() * U;
                }
                if let Some(slope) = self.slopes.get(head) {
                    let gain = f64::from(*slope) * position as f64;
                    score += gain;
                    off += U * (gain.abs() + score.abs());
                }
                delta = delta.max(off);
                score
            })
            .collect();
        let sink = self.sinks.get(head).map(|sink| f64::from(*sink));
        let max = scores.iter().chain(&sink).fold(f64::NEG_INFINITY, |max, s| max.max(*s));
        let min = scores.iter().chain(&sink).fold(f64::INFINITY, |min, s| min.min(*s));
        let p: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
        let sum = p.iter().sum::<f64>() + sink.map_or(0.0, |sink| (sink - max).exp());
        let (n, blocks) = (seen.len(), (seen.len() / BLOCK + seen.len() / SPAN + 4) as f64);
        // what weights may lack: in floats those below e^-70 are 0, in integers none is less than e^-87
        let least: f64 = match numbers {
            Numbers::Floats => -69.9,
            Numbers::Integers => -86.6,
            Numbers::Tiles => -65.0 * std::f64::consts::LN_2,
        };
        let (exp, distance) = match numbers {
            Numbers::Floats => (EXP, (max - min) * U),
            // x is a sum with an exponent of at most 40, in units of ln 2
            Numbers::Integers => (2f64.powi(-18), 3.0 * (max.abs().max(min.abs()) + 40.0) * U),
            // x is in units of ln 2, and relative to a number that gives weights of up to 2^90
            Numbers::Tiles => (2f64.powi(-22), 3.0 * (max.abs().max(min.abs()) + 217.0) * U),
        };
        // the largest score moves all of them alike, so that it cancels; 1 / sum and p / sum round, then the sum over v
        let mut relative = (2.0 * (delta + 2.0 * distance + exp + blocks * (exp + 3.0 * U))).exp_m1()
            + (of_sum(n) + 2.0 + n as f64 + 1.0) * U;
        if numbers == Numbers::Tiles {
            let [values, weights] = [BF16, 2.0 * BF16];
            relative += (1.0 + relative) * (values + weights + values * weights);
        }
        let mut results = vec![(0.0, 0.0, 0.0); self.v_dim];
        let values: Vec<_> = self.v.chunks_exact(self.v_dim).take(seen.end).skip(seen.start).collect();
        let steps: Vec<f64> =
            values.iter().map(|v| (largest(v).log2().floor() + 1.0 - 13.0).exp2()).collect();
        for (j, v) in values.iter().enumerate() {
            let block = (seen.start + j) / BLOCK;
            let of_block =
                (block * BLOCK).max(seen.start) - seen.start..((block + 1) * BLOCK - seen.start).min(n);
            let peak = of_block.map(|i| p[i] * steps[i]).fold(0.0, f64::max);
            for ((exact, size, off), v) in results.iter_mut().zip(v.iter()) {
                let v = f64::from(*v);
                *exact += p[j] / sum * v;
                *size += (p[j] / sum * v).abs();
                *off += least.exp() * v.abs() * blocks;
                if integers {
                    *off += (peak / 4095.0 / 2.0 * v.abs() / steps[j] + p[j] * steps[j] / 2.0) / sum;
                }
            }
        }
        let within = |(exact, size, off)| Want::Within { exact, bound: 1.01 * (relative * size + off) };
        results.into_iter().map(within).collect()
    }
}

/// The results, from the parts of all spans.
fn spans_merged(kernels: Kernels, a: &Attention<'_>, what: &str, cases: &mut Cases) -> Vec<f32> {
    let (len, dim) = (a.part_len(), a.v.dim);
    let mut results = vec![SENTINEL; a.rows() * dim];
    let mut totals = vec![Total::default(); a.rows()];
    let mut scratch = Scratch::default();
    for span in ops::spans(&a.seen()) {
        let parts = vec![SENTINEL; a.rows() * len];
        let parts =
            guarded(&parts, |parts| kernels.attention_span(a, span, &mut scratch, parts), what, cases);
        let rows = parts.chunks_exact(len).zip(results.chunks_exact_mut(dim));
        for ((part, result), total) in rows.zip(&mut totals) {
            let merged = guarded(result, |y| kernels.attention_merge(part, total, y), what, cases);
            result.copy_from_slice(&merged);
        }
    }
    for (row, (total, result)) in totals.iter_mut().zip(results.chunks_exact_mut(dim)).enumerate() {
        if let Some(sink) = a.scores.sinks.get(row % a.group) {
            total.add_sink(*sink, result);
        }
        total.finish(result);
    }
    results
}

/// Merging of parts: weighted sums `s[i]` with largest scores `m[i]` and sums of weights `w[i]` come to
/// `sum of e^m[i] s[i] / sum of e^m[i] w[i]`.
pub(super) fn merge(k: Kernels, cases: &mut Cases) {
    let mut random = Rng::with_seed(6);
    for dim in (1..70).chain([80, 96, 128, 256]) {
        for n in 1..6 {
            let parts: Vec<Vec<f32>> = (0..n)
                .map(|_| {
                    let mut part = normals(dim + 2, &mut random);
                    part[dim] *= 10.0;
                    part[dim + 1] = part[dim + 1].abs() + 0.1;
                    part
                })
                .collect();
            let what = format!("{n} parts of {dim}");
            let mut total = Total::default();
            let mut result = vec![SENTINEL; dim];
            for part in &parts {
                result = guarded(&result, |y| k.attention_merge(part, &mut total, y), &what, cases);
            }
            total.finish(&mut result);
            let max = parts.iter().fold(f32::MIN, |max, part| max.max(part[dim]));
            let weights: Vec<f64> =
                parts.iter().map(|part| (f64::from(part[dim]) - f64::from(max)).exp()).collect();
            let all = |i: usize| parts.iter().zip(&weights).map(move |(part, w)| f64::from(part[i]) * w);
            let sum: f64 = all(dim + 1).sum();
            // of each part: the rounding of a distance of at most 100, e^x, a product and a sum, above and below
            let relative = 2.0 * n as f64 * (100.0 * U + EXP + 3.0 * U) + 2.0 * U;
            let want = (0..dim).map(|i| Want::Within {
                exact: all(i).sum::<f64>() / sum,
                bound: 1.01 * relative * all(i).map(f64::abs).sum::<f64>() / sum,
            });
            expect_all(&what, &result, want, cases);
        }
    }
}
