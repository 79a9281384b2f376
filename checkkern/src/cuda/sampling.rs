//! What top-p, min-p and penalties leave of the next token's candidates.

use braise_kernels::cuda::Error;
use braise_kernels::cuda::ops::{Penalize, Sample, SharedTopK, TopK};
use fastrand::Rng;

use super::super::compare::Want;
use super::super::ops::{U, expect_all};
use super::super::report::Cases;
use super::Bench;
use super::rows::normals;

/// Several blocks find what one block finds, which the check of that compares with the order of all logits.
pub(super) fn shared_top_k(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(73);
    for (n, k) in [(1, 1), (31, 31), (33, 20), (700, 40), (700, 700), (5000, 3), (2500, 1024)] {
        let plain = normals(n, &mut random);
        let ties: Vec<f32> = plain.iter().map(|x| x.round()).collect();
        let mut special = plain.clone();
        (special[n / 2], special[n - 1]) = (f32::NAN, f32::INFINITY);
        let rows = [plain, ties, special, vec![f32::NEG_INFINITY; n]].concat();
        let of = TopK {
            logits: bench.put(&rows)?,
            n: n as u32,
            rows: 4,
            k: k as u32,
            places: bench.zeros(16 * k)?,
            values: bench.zeros(16 * k)?,
        };
        bench.run(of.launch())?;
        let shared = TopK { places: bench.zeros(16 * k)?, values: bench.zeros(16 * k)?, ..of };
        let room = bench.zeros(8 * 4 * SharedTopK::BLOCKS as usize * k)?;
        let launch = SharedTopK { of: shared, room, counters: bench.zeros(16)? };
        bench.run(launch.launch())?;
        let what = format!("the {k} largest of {n}");
        let (want, got): (Vec<u32>, Vec<u32>) =
            (bench.get(of.places, 4 * k)?, bench.get(shared.places, 4 * k)?);
        cases.expect(want == got, || format!("{what}: other places: {got:?} instead of {want:?}"));
        let (want, got): (Vec<u32>, Vec<u32>) =
            (bench.get(of.values, 4 * k)?, bench.get(shared.values, 4 * k)?);
        cases.expect(want == got, || format!("{what}: other logits"));
        let counters: Vec<u32> = bench.get(launch.counters, 4)?;
        cases.expect(counters == [0; 4], || format!("{what}: a counter is not 0"));
    }
    Ok(())
}

pub(super) fn sample(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(71);
    for (k, spread) in [(1, 1.0), (20, 2.0), (40, 0.3), (300, 1.0)] {
        let mut options = vec![[0.0, 0.5, 0.1, 0.99], [0.8, 1.0, 0.0, 0.5]];
        options.extend([0.1, 0.5, 0.9, 0.999].map(|top_p| [1.3, top_p, 0.0, 0.999]));
        options.extend([0.02, 0.3, 1.0].map(|min_p| [0.7, 1.0, min_p, 0.999]));
        options.extend((0..8).map(|_| [0.2 + random.f32(), random.f32(), 0.3 * random.f32(), random.f32()]));
        let rows = options.len();
        let n = 400;
        let logits: Vec<f32> = normals(rows * n, &mut random).iter().map(|x| spread * x).collect();
        let (places, values) = (bench.zeros(4 * rows * k)?, bench.zeros(4 * rows * k)?);
        let on_device = bench.put(&logits)?;
        let best = TopK { logits: on_device, n: n as u32, rows: rows as u32, k: k as u32, places, values };
        bench.run(best.launch())?;
        let tokens = bench.zeros(4 * rows)?;
        let options_at = bench.put(&options.concat())?;
        let launch = Sample { places, values, k: k as u32, rows: rows as u32, options: options_at, tokens };
        bench.run(launch.launch())?;
        let places: Vec<u32> = bench.get(places, rows * k)?;
        let got: Vec<u32> = bench.get(tokens, rows)?;
        for (row, [temperature, top_p, min_p, unit]) in options.into_iter().enumerate() {
            let logit = |i: usize| f64::from(logits[row * n + places[row * k + i] as usize]);
            let what = format!("row {row} of {k} candidates");
            let at = places[row * k..][..k].iter().position(|place| *place == got[row]);
            let Some(at) = at else {
                cases.expect(false, || format!("{what}: token {} is no candidate", got[row]));
                continue;
            };
            if temperature == 0.0 {
                cases.expect(at == 0, || format!("{what}: place {at} and not the best"));
                continue;
            }
            let weight = |i: usize| (logit(i) - logit(0)).exp();
            let enough = f64::from(top_p) * (0..k).map(weight).sum::<f64>();
            let reached = (1..=k).find(|n| (0..*n).map(weight).sum::<f64>() >= enough * (1.0 - 1e-6));
            let left = if top_p < 1.0 { reached.unwrap_or(k) } else { k };
            let likely = |i: &usize| logit(*i) >= logit(0) + f64::from(min_p).ln() - 1e-6;
            let left = (0..left).filter(likely).count().max(1);
            let weight = |i: usize| ((logit(i) - logit(0)) / f64::from(temperature)).exp();
            let sum: f64 = (0..left).map(weight).sum();
            let before = (0..at).map(weight).sum::<f64>() / sum;
            let after = before + weight(at) / sum;
            let unit = f64::from(unit);
            cases.expect(at < left && before <= unit + 1e-5 && unit - 1e-5 <= after, || {
                format!("{what}: place {at} of {left} left, from {before} to {after}, for {unit}")
            });
        }
    }
    Ok(())
}

pub(super) fn penalize(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(72);
    let (n, room) = (50, 200);
    let lengths = [0_u32, 1, 7, 200];
    let rows = lengths.len();
    let logits = normals(rows * n, &mut random);
    // some more than there are logits for
    let history: Vec<u32> = (0..rows * room).map(|_| random.u32(..n as u32 + 3)).collect();
    let options: Vec<[f32; 3]> = (0..rows).map(|i| [1.1 + i as f32, 0.25, 0.5 * i as f32]).collect();
    let at = bench.put(&logits)?;
    let launch = Penalize {
        logits: at,
        n: n as u32,
        rows: rows as u32,
        history: bench.put(&history)?,
        room: room as u32,
        lengths: bench.put(&lengths)?,
        options: bench.put(&options.concat())?,
    };
    bench.run(launch.launch())?;
    let got: Vec<f32> = bench.get(at, rows * n)?;
    let want = logits.iter().enumerate().map(|(i, logit)| {
        let (row, id) = (i / n, (i % n) as u32);
        let seen = &history[row * room..][..lengths[row] as usize];
        let count = seen.iter().filter(|seen| **seen == id).count();
        if count == 0 {
            return Want::Exactly(*logit);
        }
        let [repeat, presence, frequency] = options[row].map(f64::from);
        let logit = f64::from(*logit);
        let scaled = if logit > 0.0 { logit / repeat } else { logit * repeat };
        let taken = count as f64 * frequency + presence;
        Want::Within { exact: scaled - taken, bound: 4.0 * U * (scaled.abs() + taken.abs()) }
    });
    expect_all("penalties", &got, want, cases);
    Ok(())
}
