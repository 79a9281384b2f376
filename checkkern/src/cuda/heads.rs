//! What becomes of queries, keys and values between their matrices and attention, against the formulas in f64.

use braise_kernels::cuda::Error;
use braise_kernels::cuda::ops::{
    Cache, FinishHeads, HeadNorm, HeadPlace, Heads, NormKind, Rotations, Temperature,
};
use fastrand::Rng;

use super::super::compare::Want;
use super::super::ops::{U, expect_all};
use super::super::report::Cases;
use super::Bench;
use super::attention::{Filled, TYPES, growth};
use super::rows::{normalized, normals};

pub(super) fn rotations(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let positions = [0_u32, 1, 77, 4095, 131_071];
    let (n, magnitude) = (40, 1.25);
    let angle = |i: usize| 10_000f64.powf(-(i as f64) / n as f64);
    let turns: Vec<f64> = (0..n).map(|i| angle(i) / std::f64::consts::TAU).collect();
    let [cosines, sines] = [bench.room(positions.len() * n)?, bench.room(positions.len() * n)?];
    let launch = Rotations {
        turns: bench.put(&turns)?,
        n_pairs: n as u32,
        magnitude,
        positions: bench.put(&positions)?,
        tokens: positions.len() as u32,
        cosines,
        sines,
    };
    bench.run(launch.launch())?;
    for (what, at, f) in [("cosines", cosines, f64::cos as fn(f64) -> f64), ("sines", sines, f64::sin)] {
        let got = bench.results(at, positions.len() * n, what, cases)?;
        // half turns are rounded to floats of up to 1, and the function to its last bits
        let want = (0..positions.len() * n).map(|i| Want::Within {
            exact: f64::from(magnitude) * f(angle(i % n) * f64::from(positions[i / n])),
            bound: 1.25 * 8.0 * U,
        });
        expect_all(what, &got, want, cases);
    }
    Ok(())
}

pub(super) fn finish_heads(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(43);
    let norms = [
        None,
        Some((NormKind::Rms, HeadPlace::BeforeRotation)),
        Some((NormKind::Layer, HeadPlace::AfterRotation)),
    ];
    for (turn, types) in TYPES.into_iter().cycle().take(12).enumerate() {
        let heads = Heads {
            n_head_kv: 2,
            group: 1 + turn as u32 % 3,
            dim_k: [64, 80][turn % 2],
            dim_v: [64, 40][turn % 2],
        };
        let (n_head, n_kv) = ((heads.n_head_kv * heads.group) as usize, heads.n_head_kv as usize);
        let (dim_k, dim_v) = (heads.dim_k as usize, heads.dim_v as usize);
        let filled = Filled::new(bench, heads, types, &[130, 70], &mut random)?;
        let (positions, sequences) = ([129_u32, 0, 64], [0_u32, 1, 1]);
        let tokens = positions.len();
        let (norm, halves) = (norms[turn % 3], turn % 2 == 0);
        let n_pairs = [dim_k / 2, dim_k / 4, 0][turn / 3 % 3];
        let clamp = (turn % 4 == 1).then_some(1.5_f32);
        let every = if turn % 5 == 2 { 50 } else { 0 };
        let temperature = Temperature { scale: 0.3, every, offset: 37 };
        let mut sides = Vec::new();
        for n in [n_head * dim_k, n_kv * dim_k, n_kv * dim_v] {
            let x = normals(tokens * n, &mut random);
            sides.push((bench.put(&x)?, x));
        }
        let [q_norm, k_norm] = [normals(dim_k, &mut random), normals(dim_k, &mut random)];
        let angles: Vec<f64> = (0..tokens * n_pairs.max(1)).map(|_| 6.0 * random.f64()).collect();
        let [cos, sin]: [Vec<f32>; 2] =
            [f64::cos as fn(f64) -> f64, f64::sin].map(|f| angles.iter().map(|a| f(*a) as f32).collect());
        let cache =
            Cache { positions: bench.put(&positions)?, sequences: bench.put(&sequences)?, ..filled.cache };
        let launch = FinishHeads {
            heads,
            q: sides[0].0,
            q_stride: (n_head * dim_k) as u32,
            q_head_stride: dim_k as u32,
            k: sides[1].0,
            k_stride: (n_kv * dim_k) as u32,
            v: sides[2].0,
            v_stride: (n_kv * dim_v) as u32,
            tokens: tokens as u32,
            clamp,
            norm: match norm {
                None => None,
                Some((kind, place)) => Some(HeadNorm {
                    kind,
                    eps: 1e-5,
                    place,
                    q: bench.put(&q_norm)?,
                    k: bench.put(&k_norm)?,
                    stride: 0,
                }),
            },
            cosines: bench.put(&cos)?,
            sines: bench.put(&sin)?,
            n_pairs: n_pairs as u32,
            halves,
            temperature,
            cache,
        };
        bench.run(launch.launch())?;
        let what =
            format!("{heads:?}, {types:?}, {norm:?}, {n_pairs} pairs, halves {halves}, clamp {clamp:?}");
        // what a head becomes, and the largest of its values: rounding errors are relative to that
        let finish = |x: &[f32], weight: &[f32], t: usize| {
            let mut x: Vec<f64> = x.iter().map(|x| f64::from(clamp.map_or(*x, |c| x.clamp(-c, c)))).collect();
            let normalize = |x: &mut Vec<f64>, kind| {
                let floats: Vec<f32> = x.iter().map(|x| *x as f32).collect();
                for (x, want) in x.iter_mut().zip(normalized(kind, &floats, weight, &[], 1e-5)) {
                    if let Want::Within { exact, .. } = want {
                        *x = exact;
                    }
                }
            };
            if let Some((kind, HeadPlace::BeforeRotation)) = norm {
                normalize(&mut x, kind);
            }
            for i in 0..n_pairs {
                let (a, b) = if halves { (i, i + n_pairs) } else { (2 * i, 2 * i + 1) };
                let (c, s) = (f64::from(cos[t * n_pairs + i]), f64::from(sin[t * n_pairs + i]));
                (x[a], x[b]) = (x[a] * c - x[b] * s, x[a] * s + x[b] * c);
            }
            if let Some((kind, HeadPlace::AfterRotation)) = norm {
                normalize(&mut x, kind);
            }
            x
        };
        let got: Vec<f32> = bench.get(sides[0].0, tokens * n_head * dim_k)?;
        for (i, (x, got)) in sides[0].1.chunks_exact(dim_k).zip(got.chunks_exact(dim_k)).enumerate() {
            let position = positions[i / n_head];
            let factor = growth(temperature, position);
            let want = finish(x, &q_norm, i / n_head);
            let largest = want.iter().fold(1.0, |max: f64, x| max.max(x.abs()));
            let want =
                want.iter().map(|x| Want::Within { exact: x * factor, bound: 100.0 * U * largest * factor });
            expect_all(&format!("{what}, query {i}"), got, want, cases);
        }
        for (side, dim) in [(1, dim_k), (2, dim_v)] {
            for (i, x) in sides[side].1.chunks_exact(dim).enumerate() {
                let (t, head) = (i / n_kv, i % n_kv);
                let want = match side {
                    1 => finish(x, &k_norm, t),
                    _ => x.iter().map(|x| f64::from(clamp.map_or(*x, |c| x.clamp(-c, c)))).collect(),
                };
                let what = format!("{what}, side {side}, head {head} of token {t}");
                let place = (sequences[t], positions[t], head);
                filled.expect_row(bench, place, side == 2, &want, (&what, cases))?;
            }
        }
        bench.let_go()?;
    }
    Ok(())
}
