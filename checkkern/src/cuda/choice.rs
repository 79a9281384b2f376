//! Choices: the next token, and the experts of a token.

use braise_kernels::cuda::ops::{Argmax, Choose, Draw, Route, SumExperts, TopK};
use braise_kernels::cuda::{Address, Error};
use fastrand::Rng;

use super::super::compare::Want;
use super::super::ops::{U, expect_all};
use super::super::report::Cases;
use super::Bench;
use super::rows::normals;

/// Rows of logits with ties, infinities and NaN.
fn logits(n: usize, random: &mut Rng) -> Vec<Vec<f32>> {
    let plain = normals(n, random);
    let mut ties: Vec<f32> = plain.iter().map(|x| (2.0 * x).round()).collect();
    ties[n / 2] = -0.0;
    let mut special = plain.clone();
    (special[0], special[n / 3]) = (f32::NAN, f32::NEG_INFINITY);
    let mut infinite = plain.clone();
    infinite[n - 1] = f32::INFINITY;
    vec![plain, ties, special, infinite, vec![1.0; n], vec![f32::NEG_INFINITY; n]]
}

/// Places in the order that is wanted: larger logits first, NaN last, of equal ones the first; -0 is below 0.
fn order(row: &[f32]) -> Vec<u32> {
    let key = |i: &u32| if row[*i as usize].is_nan() { f32::NEG_INFINITY } else { row[*i as usize] };
    let nan = |i: &u32| row[*i as usize].is_nan();
    let mut places: Vec<u32> = (0..row.len() as u32).collect();
    places.sort_by(|a, b| key(b).total_cmp(&key(a)).then(nan(a).cmp(&nan(b))).then(a.cmp(b)));
    places
}

pub(super) fn argmax(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(31);
    for n in [1, 3, 700, 40_000] {
        let rows = if n > 2 { logits(n, &mut random) } else { vec![normals(n, &mut random)] };
        let tokens = bench.zeros(4 * rows.len())?;
        let launch = Argmax {
            logits: bench.put(&rows.concat())?,
            n: n as u32,
            rows: rows.len() as u32,
            best: bench.zeros(8 * rows.len() * Argmax::BLOCKS as usize)?,
            counters: bench.zeros(4 * rows.len())?,
            tokens,
        };
        // a second time, with the counters that the first left behind
        for _ in 0..2 {
            bench.run(launch.launch())?;
            let got: Vec<u32> = bench.get(tokens, rows.len())?;
            for (row, got) in rows.iter().zip(got) {
                let want = order(row)[0];
                cases.expect(got == want, || format!("{n} logits: {got} instead of {want}"));
            }
        }
    }
    Ok(())
}

pub(super) fn top_k_and_draw(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(32);
    for (n, k) in [(5, 1), (300, 40), (5000, 64), (700, 700)] {
        let rows = logits(n, &mut random);
        let (places, values) = (bench.zeros(4 * rows.len() * k)?, bench.zeros(4 * rows.len() * k)?);
        let on_device = bench.put(&rows.concat())?;
        let (n32, k32, n_rows) = (n as u32, k as u32, rows.len() as u32);
        bench.run(TopK { logits: on_device, n: n32, rows: n_rows, k: k32, places, values }.launch())?;
        let got: Vec<u32> = bench.get(places, rows.len() * k)?;
        let kept: Vec<f32> = bench.get(values, rows.len() * k)?;
        for ((row, got), kept) in rows.iter().zip(got.chunks_exact(k)).zip(kept.chunks_exact(k)) {
            let want = &order(row)[..k];
            cases.expect(got == want, || format!("{k} of {n} logits: {got:?} instead of {want:?}"));
            let same = got.iter().zip(kept).all(|(i, x)| row[*i as usize].to_bits() == x.to_bits());
            cases.expect(same, || format!("{k} of {n} logits: other logits than at those places"));
        }
        // the first row alone: drawing from NaN and infinities is nobody's wish
        for uniform in [0.0_f32, 0.1, 0.5, 0.9, 0.999_999] {
            for temperature in [0.3_f32, 1.0] {
                let token = bench.zeros(4)?;
                let launch = Draw {
                    places,
                    values,
                    k: k32,
                    rows: 1,
                    temperature,
                    uniform: bench.put(&[uniform])?,
                    tokens: token,
                };
                bench.run(launch.launch())?;
                let got: u32 = bench.get(token, 1)?[0];
                let weights: Vec<f64> = kept[..k]
                    .iter()
                    .map(|x| (f64::from(x - kept[0]) / f64::from(temperature)).exp())
                    .collect();
                let sum: f64 = weights.iter().sum();
                let at = order(&rows[0]).iter().position(|place| *place == got).unwrap_or(n);
                // the share of those before the one that was drawn, and of it
                let before = weights.iter().take(at).sum::<f64>() / sum;
                let after = weights.iter().take(at + 1).sum::<f64>() / sum;
                let u = f64::from(uniform);
                cases.expect(at < k && before <= u + 1e-5 && u - 1e-5 <= after, || {
                    format!("{uniform} of {k} at {temperature}: place {at}, {before} to {after}")
                });
            }
        }
    }
    Ok(())
}

/// A token's experts, ascending, with their weights: the scores as `by` has them, the best of them taken, from the best
/// groups if there are any (those whose two best experts are), of equal ones the first.
fn routed(
    scores: &[f32],
    bias: &[f32],
    used: usize,
    groups: Option<(usize, usize)>,
    by: Choose,
    normalize: bool,
    scale: f64,
) -> Vec<(u32, f64)> {
    let softmax = |x: Vec<f64>| {
        let sum: f64 = x.iter().map(|x| x.exp()).sum();
        x.into_iter().map(|x| x.exp() / sum).collect::<Vec<_>>()
    };
    let scores = scores.iter().map(|x| f64::from(*x)).collect::<Vec<_>>();
    let all: Vec<f64> = match by {
        Choose::Softmax => softmax(scores),
        Choose::Sigmoid => scores.iter().map(|x| 1.0 / (1.0 + (-x).exp())).collect(),
        Choose::SoftmaxOfChosen => scores,
    };
    let rank = |i: &usize| all[*i] + bias.get(*i).map_or(0.0, |x| f64::from(*x));
    let best = |n: usize, mut from: Vec<usize>, rank: &dyn Fn(&usize) -> f64| {
        from.sort_by(|a, b| rank(b).total_cmp(&rank(a)));
        from.truncate(n);
        from
    };
    let mut open: Vec<usize> = (0..all.len()).collect();
    if let Some((groups, used)) = groups {
        let size = all.len() / groups;
        let best_two = |group: &usize| {
            best(2, (group * size..(group + 1) * size).collect(), &rank).iter().map(rank).sum::<f64>()
        };
        let groups = best(used, (0..groups).collect(), &best_two);
        open.retain(|expert| groups.contains(&(expert / size)));
    }
    let mut chosen = best(used, open, &rank);
    chosen.sort_unstable();
    let mut weights: Vec<f64> = chosen.iter().map(|i| all[*i]).collect();
    if by == Choose::SoftmaxOfChosen {
        weights = softmax(weights);
    } else if normalize {
        let sum: f64 = weights.iter().sum();
        weights.iter_mut().for_each(|weight| *weight /= sum);
    }
    chosen.into_iter().zip(weights).map(|(i, weight)| (i as u32, scale * weight)).collect()
}

pub(super) fn route(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(33);
    for (n_expert, n_used, groups) in
        [(8, 2, None), (40, 6, None), (64, 8, Some((8, 3))), (32, 4, Some((4, 1))), (3, 3, None)]
    {
        for by in [Choose::Softmax, Choose::Sigmoid, Choose::SoftmaxOfChosen] {
            for (biased, normalize, scale) in [(false, false, 1.0), (true, true, 2.5)] {
                let (tokens, stride) = (6, n_expert + 1);
                let mut scores = normals(tokens * stride, &mut random);
                scores[..stride].fill(0.5); // all equal
                let bias = if biased { normals(n_expert, &mut random) } else { Vec::new() };
                let (chosen, weights) = (bench.zeros(4 * tokens * n_used)?, bench.room(tokens * n_used)?);
                let launch = Route {
                    scores: bench.put(&scores)?,
                    stride: stride as u32,
                    tokens: tokens as u32,
                    n: n_expert as u32,
                    used: n_used as u32,
                    by,
                    bias: if biased { bench.put(&bias)? } else { Address::NONE },
                    groups: groups.map(|(n, used)| (n as u32, used as u32)),
                    normalize,
                    scale: scale as f32,
                    chosen,
                    weights,
                };
                bench.run(launch.launch())?;
                let what = format!("{n_used} of {n_expert}, groups {groups:?}, {by:?}, biased {biased}");
                let ids: Vec<u32> = bench.get(chosen, tokens * n_used)?;
                let got = bench.results(weights, tokens * n_used, &what, cases)?;
                let want: Vec<(u32, f64)> = scores
                    .chunks_exact(stride)
                    .flat_map(|scores| {
                        routed(&scores[..n_expert], &bias, n_used, groups, by, normalize, scale)
                    })
                    .collect();
                let same = ids.iter().eq(want.iter().map(|(expert, _)| expert));
                cases.expect(same, || format!("{what}: {ids:?} instead of {want:?}"));
                let want = want
                    .iter()
                    .map(|(_, exact)| Want::Within { exact: *exact, bound: 200.0 * U * exact.abs() });
                expect_all(&what, &got, want, cases);
            }
        }
    }
    Ok(())
}

/// The sum of experts' results.
pub(super) fn experts(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(34);
    for (used, n) in [(1, 33), (4, 300)] {
        let tokens = 3;
        let (results, weights) =
            (normals(tokens * used * n, &mut random), normals(tokens * used, &mut random));
        let (shared, gates) = (normals(tokens * n, &mut random), normals(2 * tokens, &mut random));
        let before = normals(tokens * n, &mut random);
        let [results_at, weights_at, shared_at, gates_at] =
            [bench.put(&results)?, bench.put(&weights)?, bench.put(&shared)?, bench.put(&gates)?];
        let cases_of = [
            (true, false, false, true),
            (true, true, false, false),
            (true, true, true, true),
            (false, true, false, true),
        ];
        for (weighted, is_shared, gated, add) in cases_of {
            let x = bench.put(&before)?;
            let launch = SumExperts {
                results: results_at,
                weights: if weighted { weights_at } else { Address::NONE },
                used: used as u32,
                shared: if is_shared { shared_at } else { Address::NONE },
                gates: if gated { gates_at } else { Address::NONE },
                gate_stride: 2,
                tokens: tokens as u32,
                n: n as u32,
                factor: 0.5,
                add,
                x,
            };
            bench.run(launch.launch())?;
            let got: Vec<f32> = bench.get(x, tokens * n)?;
            let want = (0..tokens * n).map(|i| {
                let (t, i) = (i / n, i % n);
                let weight = |place: usize| if weighted { f64::from(weights[place]) } else { 1.0 };
                let places = t * used..(t + 1) * used;
                let mut parts: Vec<f64> =
                    places.map(|place| weight(place) * f64::from(results[place * n + i])).collect();
                if is_shared {
                    let gate = if gated { 1.0 / (1.0 + f64::from(-gates[2 * t]).exp()) } else { 1.0 };
                    parts.push(f64::from(shared[t * n + i]) * gate);
                }
                let mut exact = 0.5 * parts.iter().sum::<f64>();
                let mut size = parts.iter().map(|x| x.abs()).sum::<f64>();
                if add {
                    exact += f64::from(before[t * n + i]);
                    size += f64::from(before[t * n + i].abs());
                }
                Want::Within { exact, bound: 16.0 * U * size }
            });
            let what = format!("{used} experts, weighted {weighted}, shared {is_shared}, gated {gated}");
            expect_all(&what, &got, want, cases);
        }
    }
    Ok(())
}
