//! Queries, keys and values in one launch, against a launch for each step.

use braise_kernels::cuda::ops::{
    Cache, FinishHeads, HeadNorm, HeadPlace, Heads, Matrix, Matvec, Norm, NormKind, NormRows, Qkv,
    Temperature, kv_row_bytes,
};
use braise_kernels::cuda::{Address, Error, Kernel};
use braise_kernels::ops::KvType;
use braise_kernels::quant::Type;
use fastrand::Rng;

use super::super::compare::{Want, same};
use super::super::inputs::{realistic_activations, realistic_weights};
use super::super::ops::{U, expect_all};
use super::super::report::Cases;
use super::Bench;
use super::attention::{Filled, TYPES, decode, row};
use super::matrix::{plain, put_activations, types};
use super::rows::normals;

const POSITIONS: [u32; 2] = [129, 64];
const SEQUENCES: [u32; 2] = [0, 1];

/// Every type alone, and every pair that there is a kernel for.
pub(super) fn qkv(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(51);
    let mut all: Vec<[Type; 3]> = types().map(|ty| [ty; 3]).collect();
    for a in types() {
        for b in types().filter(|b| *b != a) {
            let name = format!("qkv_{a}_{b}").to_lowercase();
            if Kernel::find(&name).is_ok() {
                all.push([[a, a, b], [b, b, a], [b, a, b], [a, b, a]][all.len() % 4]);
            }
        }
    }
    for (turn, types) in all.into_iter().enumerate() {
        cases.expect(Qkv::has_kernel(types), || format!("{types:?} have no kernel"));
        case(bench, types, turn, &mut random, cases)?;
        bench.let_go()?;
    }
    let three = [Type::Q4_K, Type::Q5_K, Type::Q6_K];
    cases.expect(!Qkv::has_kernel(three), || "three types have a kernel".to_owned());
    Ok(())
}

/// A layer whose keys and values are another's: nothing but its queries is finished.
pub(super) fn queries_alone(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(52);
    let mut both = Both::new(bench, [Type::Q8_0; 3], 0, &mut random)?;
    for heads in &mut both.heads {
        (heads.k, heads.v) = (Address::NONE, Address::NONE);
    }
    let before = both.caches(bench)?;
    both.multiply(bench, 1)?;
    bench.run(both.heads[0].launch())?;
    let counters = bench.zeros(4 * both.n_counters())?;
    bench.run(both.fused(Some(counters), None).launch())?;
    both.compare_queries(bench, "queries alone", cases)?;
    cases.expect(both.caches(bench)? == before, || "queries alone: the cache has changed".to_owned());
    Ok(())
}

fn case(
    bench: &mut Bench<'_>,
    types: [Type; 3],
    turn: usize,
    random: &mut Rng,
    cases: &mut Cases,
) -> Result<(), Error> {
    let what = format!("{types:?}, turn {turn}");
    let both = Both::new(bench, types, turn, random)?;
    both.multiply(bench, 3)?;
    if turn.is_multiple_of(5) {
        bench.run(both.fused(None, None).launch())?;
        for (i, n) in both.rows.map(|rows| rows * POSITIONS.len()).into_iter().enumerate() {
            let [want, got] = both.heads.map(|heads| [heads.q, heads.k, heads.v][i]);
            let (want, got): (Vec<f32>, Vec<f32>) = (bench.get(want, n)?, bench.get(got, n)?);
            let ok = want.iter().zip(&got).all(|(a, b)| same(*a, *b));
            cases.expect(ok, || format!("{what}, products {i}: other bits than alone"));
        }
        return Ok(());
    }
    let dim_v = both.heads[0].heads.dim_v;
    let v_norm = turn.is_multiple_of(3) && both.heads[0].clamp.is_none();
    let v_norm = match v_norm {
        false => None,
        true => {
            let weight = bench.put(&normals(dim_v as usize, random))?;
            Some(Norm { kind: NormKind::Rms, eps: 1e-5, weight, bias: Address::NONE })
        }
    };
    if let Some(norm) = v_norm {
        let (x, rows) = (both.heads[0].v, (both.rows[2] * POSITIONS.len()) as u32 / dim_v);
        bench
            .run(NormRows { x, y: x, stride: dim_v, n: dim_v, rows, norm, ..NormRows::default() }.launch())?;
    }
    bench.run(both.heads[0].launch())?;
    let counters = bench.zeros(4 * both.n_counters())?;
    bench.run(both.fused(Some(counters), v_norm).launch())?;
    let left: Vec<u32> = bench.get(counters, both.n_counters())?;
    cases.expect(left.iter().all(|counter| *counter == 0), || format!("{what}: a counter is not 0"));
    both.compare_queries(bench, &what, cases)?;
    both.compare_caches(bench, &what, cases)
}

/// The operands of both ways, in that order: a launch for each step, and one for all.
struct Both {
    types: [Type; 3],
    w: [Matrix; 3],
    x: Address,
    k: usize,
    /// Of each matrix.
    rows: [usize; 3],
    heads: [FinishHeads; 2],
    filled: [Filled; 2],
}

impl Both {
    fn new(bench: &mut Bench<'_>, types: [Type; 3], turn: usize, random: &mut Rng) -> Result<Both, Error> {
        let k = if types[0].block() == 1 { [100, 64][turn % 2] } else { 256 };
        let heads = Heads {
            n_head_kv: 2,
            group: 1 + turn as u32 % 3,
            dim_k: [64, 32, 96][turn % 3],
            dim_v: [32, 64][turn / 2 % 2],
        };
        let gated = turn % 4 == 3;
        let q_head_stride = if gated { 2 * heads.dim_k } else { heads.dim_k };
        let rows = [heads.group * q_head_stride, heads.dim_k, heads.dim_v];
        let rows = rows.map(|rows| (rows * heads.n_head_kv) as usize);
        let mut w = [Matrix::default(); 3];
        for i in 0..3 {
            let bias = bench.put(&normals(rows[i], random))?;
            w[i] = Matrix {
                data: bench.put(&realistic_weights(types[i], rows[i] * k, random))?,
                scale: if turn % 3 == i { bench.put(&[1.5_f32])? } else { Address::NONE },
                bias: if turn.is_multiple_of(2) { bias } else { Address::NONE },
            };
        }
        let n_tokens = POSITIONS.len();
        let x = put_activations(bench, &realistic_activations(types[0], n_tokens * k, random))?;
        let norm = match turn % 4 {
            0 => None,
            1 => Some((NormKind::Rms, HeadPlace::BeforeRotation)),
            2 => Some((NormKind::Layer, HeadPlace::AfterRotation)),
            _ => Some((NormKind::Rms, HeadPlace::AfterRotation)),
        };
        let norm = match norm {
            None => None,
            Some((kind, place)) => {
                let stride = if turn % 3 == 1 { heads.dim_k } else { 0 };
                let n = rows[0].max(rows[1]);
                let [q, k] = [bench.put(&normals(n, random))?, bench.put(&normals(n, random))?];
                Some(HeadNorm { kind, eps: 1e-5, place, q, k, stride })
            }
        };
        let n_pairs = heads.dim_k / [2, 4][turn % 2];
        let angles: Vec<f32> = (0..n_tokens * n_pairs as usize).map(|_| 6.0 * random.f32()).collect();
        let cosines = bench.put(&angles.iter().map(|angle| angle.cos()).collect::<Vec<_>>())?;
        let sines = bench.put(&angles.iter().map(|angle| angle.sin()).collect::<Vec<_>>())?;
        let (positions, sequences) = (bench.put(&POSITIONS)?, bench.put(&SEQUENCES)?);
        let seed = random.u64(..);
        let mut side = || {
            let of = &mut Rng::with_seed(seed);
            let filled = Filled::new(bench, heads, TYPES[turn % 4], &[130, 70], of)?;
            let side = FinishHeads {
                heads,
                q: bench.room(n_tokens * rows[0])?,
                q_stride: rows[0] as u32,
                q_head_stride,
                k: bench.room(n_tokens * rows[1])?,
                k_stride: rows[1] as u32,
                v: bench.room(n_tokens * rows[2])?,
                v_stride: rows[2] as u32,
                tokens: n_tokens as u32,
                clamp: (turn % 7 == 3).then_some(1.5),
                norm,
                cosines,
                sines,
                n_pairs,
                halves: turn.is_multiple_of(2),
                temperature: match turn % 5 {
                    2 => Temperature { scale: 0.3, every: 50, offset: 21 },
                    _ => Temperature::default(),
                },
                cache: Cache { positions, sequences, ..filled.cache },
            };
            Ok::<_, Error>((side, filled))
        };
        let (one, other) = (side()?, side()?);
        Ok(Both { types, w, x, k, rows, heads: [one.0, other.0], filled: [one.1, other.1] })
    }

    fn n_counters(&self) -> usize {
        Qkv::counters(&self.heads[0].heads, self.heads[0].tokens)
    }

    /// The first `n` products of each token.
    fn multiply(&self, bench: &mut Bench<'_>, n: usize) -> Result<(), Error> {
        let heads = &self.heads[0];
        let row = if self.types[0].block() == 1 { 4 * self.k } else { self.k / 32 * 48 };
        for (i, y) in [heads.q, heads.k, heads.v].into_iter().take(n).enumerate() {
            for t in 0..POSITIONS.len() {
                let y = y.offset((4 * t * self.rows[i]) as u64);
                let x = self.x.offset((t * row) as u64);
                let product = plain(self.types[i], self.k, self.rows[i], 1);
                bench.run(Matvec { w: [self.w[i], Matrix::default()], x, y, ..product }.launch())?;
            }
        }
        Ok(())
    }

    fn fused(&self, counters: Option<Address>, v_norm: Option<Norm>) -> Qkv {
        let Both { types, w, x, .. } = *self;
        let counters = counters.unwrap_or(Address::NONE);
        Qkv { types, w, x, k: self.k as u32, heads: self.heads[1], v_norm, counters }
    }

    /// Norms add up in another order; without one the bits are the same.
    fn compare_queries(&self, bench: &mut Bench<'_>, what: &str, cases: &mut Cases) -> Result<(), Error> {
        let n = POSITIONS.len() * self.rows[0];
        let [want, got] = self.heads.map(|heads| heads.q);
        let want: Vec<f32> = bench.get(want, n)?;
        let got = bench.results(got, n, what, cases)?;
        let largest = want.iter().fold(1.0, |max: f32, x| max.max(x.abs()));
        let exactly = self.heads[0].norm.is_none();
        let want = want.iter().map(|x| match exactly {
            true => Want::Exactly(*x),
            false => Want::Within { exact: f64::from(*x), bound: 100.0 * U * f64::from(largest) },
        });
        expect_all(&format!("{what}, queries"), &got, want, cases);
        Ok(())
    }

    /// Bytes of keys and values of both ways.
    fn caches(&self, bench: &mut Bench<'_>) -> Result<[[Vec<u8>; 2]; 2], Error> {
        let mut caches = [const { [const { Vec::new() }; 2] }; 2];
        for (side, filled) in self.filled.iter().enumerate() {
            let heads = &filled.heads;
            let rows = filled.pages.concat().len() * (heads.n_head_kv * 64) as usize;
            let Cache { keys, values, types, .. } = filled.cache;
            for (i, (at, ty, dim)) in
                [(keys, types.0, heads.dim_k), (values, types.1, heads.dim_v)].into_iter().enumerate()
            {
                caches[side][i] = bench.get(at, rows * kv_row_bytes(ty, dim) as usize)?;
            }
        }
        Ok(caches)
    }

    /// The rows of the tokens differ by no more than a step, the others not at all.
    fn compare_caches(&self, bench: &mut Bench<'_>, what: &str, cases: &mut Cases) -> Result<(), Error> {
        let [want, got] = self.caches(bench)?;
        let Filled { heads, pages, cache, .. } = &self.filled[0];
        let n_head_kv = heads.n_head_kv as usize;
        let written: Vec<usize> = (POSITIONS.iter().zip(SEQUENCES))
            .flat_map(|(position, sequence)| (0..n_head_kv).map(move |head| (position, sequence, head)))
            .map(|(position, sequence, head)| {
                row(&pages[sequence as usize], *position as usize, head, n_head_kv)
            })
            .collect();
        for (i, (ty, dim)) in
            [(cache.types.0, heads.dim_k), (cache.types.1, heads.dim_v)].into_iter().enumerate()
        {
            let bytes = kv_row_bytes(ty, dim) as usize;
            for (at, (want, got)) in want[i].chunks_exact(bytes).zip(got[i].chunks_exact(bytes)).enumerate() {
                if !written.contains(&at) {
                    cases.expect(want == got, || format!("{what}, side {i}: row {at} has changed"));
                    continue;
                }
                let (want, steps) = decode(ty, want, dim as usize);
                let (got, _) = decode(ty, got, dim as usize);
                let rounding = if ty == KvType::F16 { 2f64.powi(-10) } else { 1e-3 };
                let want = want.iter().zip(&steps).map(|(x, step)| Want::Within {
                    exact: f64::from(*x),
                    bound: 1.01 * f64::from(*step) + rounding * f64::from(x.abs()) + 1e-6,
                });
                expect_all(&format!("{what}, side {i}, row {at}"), &got, want, cases);
            }
        }
        Ok(())
    }
}
