//! Latent attention around its cache: the maps of heads, and what else becomes of queries, keys and values.

use braise_kernels::cuda::Address;
use braise_kernels::cuda::Error;
use braise_kernels::cuda::ops::{
    Cache, ExpertsOf, FinishLatent, Heads, Matmul, Matrix, Matvec, Norm, NormKind, OrderByExpert, Ordered,
    Temperature,
};
use braise_kernels::quant::Type;
use fastrand::Rng;
use half::bf16;

use super::super::compare::{Want, same};
use super::super::inputs::{realistic_activations, realistic_weights};
use super::super::ops::{U, expect_all};
use super::super::report::Cases;
use super::attention::{Filled, TYPES, growth};
use super::matrix::{plain, plain_matmul, put_activations};
use super::rows::{normalized, normals};
use super::{Bench, SENTINEL};

/// Each head of a token is a column of its own matrix, of few and of many tokens; results lie apart, and what is between them
/// stays as it was.
pub(super) fn maps(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(81);
    let (ty, n_head, k, rows, gap, tokens) = (Type::Q8_0, 3_usize, 64, 96, 16, 40_usize);
    let n = tokens * n_head;
    let stride = rows + gap;
    let w = realistic_weights(ty, n_head * rows * k, &mut random);
    let matrix = Matrix { data: bench.put(&w)?, ..Matrix::default() };
    let of_head = |head: usize| Matrix {
        data: matrix.data.offset((head * rows * ty.row_bytes(k).expect("whole blocks")) as u64),
        ..Matrix::default()
    };
    let heads: Vec<u32> = (0..n).map(|c| (c % n_head) as u32).collect();
    let ids = bench.put(&heads)?;

    let x = put_activations(bench, &realistic_activations(ty, n * k, &mut random))?;
    let few = 2 * n_head;
    let y = bench.room(few * stride)?;
    let experts = Some(ExpertsOf { ids, rows: rows as u32, share: 1 });
    let base = Matvec { x, ..plain(ty, k, rows, few) };
    let all = [matrix, Matrix::default()];
    bench.run(Matvec { w: all, y, y_stride: stride as u32, experts, ..base }.launch())?;
    let got: Vec<f32> = bench.get(y, few * stride)?;
    for (c, got) in got.chunks_exact(stride).enumerate() {
        let alone = bench.room(rows)?;
        let x = x.offset((c * k / 32 * 48) as u64);
        let w = [of_head(c % n_head), Matrix::default()];
        bench.run(Matvec { w, x, columns: 1, y: alone, ..base }.launch())?;
        let alone = bench.results(alone, rows, "alone", cases)?;
        let ok = alone.iter().zip(got).all(|(a, b)| same(*a, *b));
        cases.expect(ok, || format!("column {c}: other bits than alone"));
        cases.expect(got[rows..].iter().all(|y| *y == SENTINEL), || format!("column {c}: wrote behind it"));
    }

    let (order, starts) = (bench.zeros(4 * n)?, bench.zeros(4 * (n_head + 1))?);
    bench.run(OrderByExpert { chosen: ids, n: n as u32, experts: n_head as u32, order, starts }.launch())?;
    let x: Vec<u16> = normals(n * k, &mut random).iter().map(|x| bf16::from_f32(*x).to_bits()).collect();
    let (x, y) = (bench.put(&x)?, bench.room(n * stride)?);
    let ordered = Ordered { order, starts, experts: n_head as u32, rows: rows as u32, share: 1 };
    let base = Matmul { x, y_stride: stride as u32, ..plain_matmul(ty, k, rows, n) };
    let launch = Matmul { w: matrix, y, experts: Some(ordered), ..base }.launch_of(tokens as u32)?;
    cases.expect(launch.grid[0] == 1, || format!("{} tiles for {tokens} columns", launch.grid[0]));
    bench.run(Ok(launch))?;
    let got: Vec<f32> = bench.get(y, n * stride)?;
    for head in 0..n_head {
        let alone = bench.room(n * stride)?;
        bench.run(Matmul { w: of_head(head), y: alone, ..base }.launch())?;
        let alone: Vec<f32> = bench.get(alone, n * stride)?;
        for c in (head..n).step_by(n_head) {
            let ok = (c * stride..(c + 1) * stride).all(|i| same(alone[i], got[i]));
            cases.expect(ok, || format!("column {c} of many: other bits than alone"));
        }
    }
    Ok(())
}

pub(super) fn finish_latent(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(82);
    let (positions, sequences) = ([129_u32, 0, 64], [0_u32, 1, 1]);
    let tokens = positions.len();
    for (turn, types) in TYPES.into_iter().enumerate() {
        let (n_head, nope, rope, rank) = [(3, 24, 16, 64), (1, 128, 64, 512)][turn % 2];
        let n_pairs = [rope / 2, rope / 4, 0, rope / 2][turn];
        let halves = turn % 2 == 1;
        let every = if turn.is_multiple_of(3) { 50 } else { 0 };
        let temperature = Temperature { scale: 0.3, every, offset: 37 };
        let kind = [NormKind::Rms, NormKind::Layer][turn / 2];
        let what = format!("{n_head} heads of {nope} and {rope}, rank {rank}, {types:?}, {n_pairs} pairs");
        let heads =
            Heads { n_head_kv: 1, group: n_head as u32, dim_k: (rank + rope) as u32, dim_v: rank as u32 };
        let filled = Filled::new(bench, heads, types, &[130, 70], &mut random)?;
        let cache =
            Cache { positions: bench.put(&positions)?, sequences: bench.put(&sequences)?, ..filled.cache };
        let (q_stride, kv_stride) = (n_head * (nope + rope) + 8, rank + rope + 4);
        let q = normals(tokens * q_stride, &mut random);
        let kv = normals(tokens * kv_stride, &mut random);
        let weight = normals(rank, &mut random);
        let mapped = normals(tokens * n_head * (rank + rope), &mut random);
        let angles: Vec<f64> = (0..tokens * n_pairs.max(1)).map(|_| 6.0 * random.f64()).collect();
        let [cos, sin]: [Vec<f32>; 2] =
            [f64::cos as fn(f64) -> f64, f64::sin].map(|f| angles.iter().map(|a| f(*a) as f32).collect());
        let y = bench.put(&mapped)?;
        let launch = FinishLatent {
            n_head: n_head as u32,
            nope: nope as u32,
            rope: rope as u32,
            rank: rank as u32,
            q: bench.put(&q)?,
            q_stride: q_stride as u32,
            kv: bench.put(&kv)?,
            kv_stride: kv_stride as u32,
            kv_norm: Norm { kind, eps: 1e-5, weight: bench.put(&weight)?, bias: Address::NONE },
            tokens: tokens as u32,
            cosines: bench.put(&cos)?,
            sines: bench.put(&sin)?,
            n_pairs: n_pairs as u32,
            halves,
            temperature,
            cache,
            y,
        };
        bench.run(launch.launch())?;
        // what turns, of a query or of the keys
        let turned = |x: &[f32], t: usize| {
            let mut x: Vec<f64> = x.iter().map(|x| f64::from(*x)).collect();
            for i in 0..n_pairs {
                let (a, b) = if halves { (i, i + n_pairs) } else { (2 * i, 2 * i + 1) };
                let (c, s) = (f64::from(cos[t * n_pairs + i]), f64::from(sin[t * n_pairs + i]));
                (x[a], x[b]) = (x[a] * c - x[b] * s, x[a] * s + x[b] * c);
            }
            x
        };
        let got: Vec<f32> = bench.get(y, mapped.len())?;
        for (i, (got, mapped)) in
            got.chunks_exact(rank + rope).zip(mapped.chunks_exact(rank + rope)).enumerate()
        {
            let (t, head) = (i / n_head, i % n_head);
            let factor = growth(temperature, positions[t]);
            let from = &q[t * q_stride + head * (nope + rope) + nope..][..rope];
            let all = mapped[..rank].iter().map(|x| f64::from(*x)).chain(turned(from, t));
            let want =
                all.map(|x| Want::Within { exact: x * factor, bound: 20.0 * U * (1.0 + x.abs()) * factor });
            expect_all(&format!("{what}, query {i}"), got, want, cases);
        }
        for (t, kv) in kv.chunks_exact(kv_stride).enumerate() {
            let mut key: Vec<f64> = normalized(kind, &kv[..rank], &weight, &[], 1e-5)
                .into_iter()
                .map(|want| match want {
                    Want::Within { exact, .. } => exact,
                    _ => f64::NAN,
                })
                .collect();
            key.extend(turned(&kv[rank..rank + rope], t));
            for (values, dim) in [(false, rank + rope), (true, rank)] {
                let what = format!("{what}, {dim} numbers of token {t}");
                let place = (sequences[t], positions[t], 0);
                filled.expect_row(bench, place, values, &key[..dim], (&what, cases))?;
            }
        }
        bench.let_go()?;
    }
    Ok(())
}
