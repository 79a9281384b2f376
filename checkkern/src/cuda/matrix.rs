//! Matrix products.

use braise_kernels::cuda::ops::{
    Epilogue, ExpertsOf, Matmul, Matrix, Matvec, Norm, NormKind, NormRows, OrderByExpert, Ordered, Q8_BYTES,
    Then, Tiles,
};
use braise_kernels::cuda::{Address, Error, Properties};
use braise_kernels::quant::Type;
use braise_kernels::table::Rounding;
use fastrand::Rng;
use half::bf16;

use super::super::compare::{Want, same};
use super::super::inputs::{Activations, realistic_activations, realistic_weights};
use super::super::matmul::{Problem, exact, extremes, realistic, special};
use super::super::ops::{U, expect_all};
use super::super::report::Cases;
use super::rows::{ACTIVATIONS, activated, expect_q8, normals, q8_bytes};
use super::{Bench, SENTINEL};

/// All types of weights that there are kernels for.
pub(super) fn types() -> impl Iterator<Item = Type> {
    Type::ALL.iter().copied().filter(|ty| ty.scalar().is_some())
}

fn problems(ty: Type, rounding: Rounding, lengths: &[usize]) -> Vec<Problem> {
    let mut random = Rng::with_seed(u64::from(ty as u32));
    let mut problems = Vec::new();
    for &k in lengths {
        problems.push(exact(ty, rounding, k, &mut random));
        problems.push(realistic(ty, rounding, k, &mut random));
        problems.push(special(ty, rounding, k, &mut random));
    }
    problems.extend(extremes(ty, rounding, lengths[lengths.len() - 1]));
    problems
}

/// Puts activations on the device as products of few columns take them.
pub(super) fn put_activations(bench: &mut Bench<'_>, x: &Activations) -> Result<Address, Error> {
    match x {
        Activations::F32(x) => bench.put(x),
        Activations::Q8(x) => bench.put(&q8_bytes(x)),
    }
}

/// Few columns, in all tiers.
pub(super) fn matvec(bench: &mut Bench<'_>, ty: Type, cases: &mut Cases) -> Result<(), Error> {
    let lengths: &[usize] = match ty.block() {
        1 => &[1, 7, 64, 100, 576],
        32 => &[32, 96, 1056],
        64 => &[64, 192, 1088],
        _ => &[256, 1280],
    };
    for problem in problems(ty, Rounding::Q8, lengths) {
        let Problem { k, rows, .. } = problem;
        let w = Matrix { data: bench.put(&problem.w)?, ..Matrix::default() };
        let x = put_activations(bench, &problem.x)?;
        // many columns are taken eight at a time
        let columns: &[usize] =
            if matches!(ty, Type::Q4_K | Type::F16) { &[1, 3, 8, 16] } else { &[1, 3, 8] };
        for &columns in columns.iter().filter(|columns| columns.next_multiple_of(4) <= problem.columns) {
            let y = bench.room(columns * rows)?;
            let launch = Matvec { w: [w, Matrix::default()], x, y, ..plain(ty, k, rows, columns) };
            bench.run(launch.launch())?;
            let what = format!("{}, {columns} columns", problem.name);
            let got = bench.results(y, columns * rows, &what, cases)?;
            expect_all(&what, &got, problem.want[..columns * rows].iter().copied(), cases);
        }
        bench.let_go()?;
    }
    Ok(())
}

/// A product that is stored, without its operands.
pub(super) fn plain(ty: Type, k: usize, rows: usize, columns: usize) -> Matvec {
    Matvec {
        ty,
        w: [Matrix::default(); 2],
        x: Address::NONE,
        k: k as u32,
        rows: rows as u32,
        columns: columns as u32,
        experts: None,
        epilogue: Epilogue::Store,
        y: Address::NONE,
        y_stride: rows as u32,
        q8: Address::NONE,
        then: None,
    }
}

/// Many columns: in all tiers in one tile, then over the edges of tiles.
pub(super) fn matmul(bench: &mut Bench<'_>, ty: Type, cases: &mut Cases) -> Result<(), Error> {
    let lengths: &[usize] = match ty.block() {
        256 => &[256, 512],
        64 => &[64, 192],
        _ => &[32, 64, 160],
    };
    let mut all = problems(ty, Rounding::Bf16, lengths);
    if matches!(ty, Type::Q4_K | Type::Q8_0 | Type::F16) {
        let mut random = Rng::with_seed(21);
        let k = if ty == Type::Q4_K { 512 } else { 96 };
        let w = realistic_weights(ty, 150 * k, &mut random);
        let x = realistic_activations(ty, 261 * k, &mut random);
        all.push(Problem::new("realistic", ty, Rounding::Bf16, k, w, x));
    }
    for problem in all {
        let Problem { k, rows, columns, .. } = problem;
        let x: Vec<u16> = problem.x.values().iter().map(|x| bf16::from_f32(*x as f32).to_bits()).collect();
        let w = Matrix { data: bench.put(&problem.w)?, ..Matrix::default() };
        let (x, y) = (bench.put(&x)?, bench.room(columns * rows)?);
        for tiles in tiles(bench.device.properties()) {
            bench.device.upload(y, bytemuck::cast_slice(&vec![SENTINEL; columns * rows]))?;
            bench.run(Matmul { w, x, y, tiles, ..plain_matmul(ty, k, rows, columns) }.launch())?;
            let what = format!("{}, {columns} columns, {tiles:?}", problem.name);
            let got = bench.results(y, columns * rows, &what, cases)?;
            expect_all(&what, &got, problem.want.iter().copied(), cases);
        }
        bench.let_go()?;
    }
    Ok(())
}

/// All tiles that a device may multiply in.
pub(super) fn tiles(properties: &Properties) -> Vec<Tiles> {
    let of_warpgroups = if properties.compute == Properties::WARPGROUPS { &Tiles::WIDTHS[..] } else { &[] };
    [Tiles::Warps].into_iter().chain(of_warpgroups.iter().map(|width| Tiles::Warpgroups(*width))).collect()
}

pub(super) fn plain_matmul(ty: Type, k: usize, rows: usize, columns: usize) -> Matmul {
    Matmul {
        ty,
        w: Matrix::default(),
        x: Address::NONE,
        k: k as u32,
        rows: rows as u32,
        columns: columns as u32,
        experts: None,
        epilogue: Epilogue::Store,
        y: Address::NONE,
        y_stride: rows as u32,
        tiles: Tiles::Warps,
    }
}

/// What follows a product: factors, biases, sums, activations, quantization, and the norm of whole columns.
pub(super) fn epilogues(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(22);
    let (ty, k, rows) = (Type::Q8_0, 64, 96);
    let scales = [1.5_f32, -0.5];
    let matrices = [(); 2].map(|()| realistic_weights(ty, rows * k, &mut random));
    let biases = [(); 2].map(|()| normals(rows, &mut random));
    let x = put_activations(bench, &realistic_activations(ty, 8 * k, &mut random))?;
    let mut w = [Matrix::default(); 2];
    for i in 0..2 {
        w[i] = Matrix {
            data: bench.put(&matrices[i])?,
            scale: bench.put(&scales[i..=i])?,
            bias: bench.put(&biases[i])?,
        };
    }
    for columns in [1, 2, 7] {
        let n = columns * rows;
        let base = Matvec { w, x, ..plain(ty, k, rows, columns) };
        let mut products = Vec::new();
        for (i, matrix) in w.into_iter().enumerate() {
            let bare = bench.room(n)?;
            let data = Matrix { data: matrix.data, ..Matrix::default() };
            bench.run(Matvec { w: [data, data], y: bare, ..base }.launch())?;
            let bare = bench.results(bare, n, "bare", cases)?;
            let y = bench.room(n)?;
            bench.run(Matvec { w: [matrix, matrix], y, ..base }.launch())?;
            let got = bench.results(y, n, "scaled", cases)?;
            let want = bare.iter().enumerate().map(|(at, bare)| {
                let (product, bias) = (f64::from(bare * scales[i]), f64::from(biases[i][at % rows]));
                Want::Within {
                    exact: product + bias,
                    bound: 2.0 * U * (product.abs() + (product + bias).abs()),
                }
            });
            expect_all(&format!("factor and bias, {columns} columns"), &got, want, cases);
            products.push(got);
        }
        let before = normals(n, &mut random);
        let y = bench.put(&before)?;
        bench.run(Matvec { y, epilogue: Epilogue::Add(0.25), ..base }.launch())?;
        let got: Vec<f32> = bench.get(y, n)?;
        let want = before.iter().zip(&products[0]).map(|(x, y)| {
            let exact = f64::from(*x) + 0.25 * f64::from(*y);
            Want::Within { exact, bound: 2.0 * U * exact.abs() }
        });
        expect_all("added", &got, want, cases);
        for activation in ACTIVATIONS {
            for gated in [false, true] {
                let what = format!("{activation:?}, gated {gated}, {columns} columns");
                let epilogue =
                    if gated { Epilogue::Gated(activation) } else { Epilogue::Activate(activation) };
                let (y, q8) = (bench.room(n)?, bench.zeros(n / 32 * Q8_BYTES)?);
                bench.run(Matvec { y, q8, epilogue, ..base }.launch())?;
                let got = bench.results(y, n, &what, cases)?;
                let want = products[0].iter().zip(&products[1]);
                let want = want.map(|(gate, up)| activated(activation, *gate, gated.then_some(*up)));
                expect_all(&what, &got, want, cases);
                expect_q8(&what, &bench.get(q8, n / 32 * Q8_BYTES)?, &got, cases);
            }
        }
        for kind in [NormKind::Rms, NormKind::Layer] {
            let weight = normals(rows, &mut random);
            let norm = Norm { kind, eps: 1e-5, weight: bench.put(&weight)?, bias: w[0].bias };
            let (y, q8) = (bench.put(&before)?, bench.zeros(n / 32 * Q8_BYTES)?);
            let then = Then { norm, q8, counter: bench.zeros(4)? };
            let launch = Matvec { y, epilogue: Epilogue::Add(1.0), then: Some(then), ..base };
            bench.run(launch.launch())?;
            let got: Vec<u8> = bench.get(q8, n / 32 * Q8_BYTES)?;
            cases.expect(bench.get::<u32>(then.counter, 1)? == [0], || "the counter is not 0".to_owned());
            let alone = bench.zeros(n / 32 * Q8_BYTES)?;
            let (stride, n_rows) = (rows as u32, columns as u32);
            let norm =
                NormRows { x: y, stride, rows: n_rows, n: stride, norm, q8: alone, ..NormRows::default() };
            bench.run(norm.launch())?;
            let alone: Vec<u8> = bench.get(alone, n / 32 * Q8_BYTES)?;
            cases.expect(got == alone, || format!("{kind:?} of {columns} columns: other bytes than alone"));
        }
    }
    Ok(())
}

/// Experts of few columns: each column with its own matrix, to the bit.
pub(super) fn experts(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(23);
    for ty in [Type::Q4_K, Type::F16] {
        let (k, rows, n_expert, share) = (256, 70, 4, 2);
        let ids = [3_u32, 0, 1, 3];
        let w = realistic_weights(ty, n_expert * rows * k, &mut random);
        let scales = [1.0_f32, 2.0, 3.0, 4.0];
        let bias = normals(n_expert * rows, &mut random);
        let x = realistic_activations(ty, ids.len() / share * k, &mut random);
        let matrix = Matrix { data: bench.put(&w)?, scale: bench.put(&scales)?, bias: bench.put(&bias)? };
        let x = put_activations(bench, &x)?;
        let y = bench.room(ids.len() * rows)?;
        let experts = ExpertsOf { ids: bench.put(&ids)?, rows: rows as u32, share: share as u32 };
        let base = Matvec { w: [matrix, Matrix::default()], x, ..plain(ty, k, rows, ids.len()) };
        bench.run(Matvec { y, experts: Some(experts), ..base }.launch())?;
        let got = bench.results(y, ids.len() * rows, "experts", cases)?;
        let x_bytes = if ty == Type::F16 { 4 * k } else { k / 32 * Q8_BYTES };
        for (c, id) in ids.iter().enumerate() {
            let e = *id as usize;
            let alone = bench.room(rows)?;
            let one = Matrix {
                data: matrix.data.offset((e * rows * ty.row_bytes(k).expect("whole blocks")) as u64),
                scale: matrix.scale.offset(4 * e as u64),
                bias: matrix.bias.offset(4 * (e * rows) as u64),
            };
            let x = x.offset((c / share * x_bytes) as u64);
            bench.run(Matvec { w: [one, one], x, columns: 1, y: alone, ..base }.launch())?;
            let alone = bench.results(alone, rows, "alone", cases)?;
            let same = alone.iter().zip(&got[c * rows..]).all(|(a, b)| same(*a, *b));
            cases.expect(same, || format!("{ty}, column {c}, expert {e}: other bits than alone"));
        }
    }
    Ok(())
}

/// Experts of many columns, ordered on the device: the same bits as each matrix gives alone.
pub(super) fn ordered_experts(bench: &mut Bench<'_>, cases: &mut Cases) -> Result<(), Error> {
    let mut random = Rng::with_seed(24);
    let (ty, k, rows, n_expert, used, tokens) = (Type::Q8_0, 64, 40, 5, 3, 50);
    // expert 2 gets nothing
    let chosen: Vec<u32> = (0..tokens * used).map(|_| [0, 1, 3, 4][random.usize(..4)]).collect();
    let n = chosen.len();
    let on_device = bench.put(&chosen)?;
    let mut want: Vec<u32> = (0..n as u32).collect();
    want.sort_by_key(|i| chosen[*i as usize]);
    let begin = |e: usize| chosen.iter().filter(|id| (**id as usize) < e).count() as u32;
    let want_starts: Vec<u32> = (0..=n_expert).map(begin).collect();
    let (order, starts) = (bench.zeros(4 * n)?, bench.zeros(4 * (n_expert + 1))?);
    let by = OrderByExpert { chosen: on_device, n: n as u32, experts: n_expert as u32, order, starts };
    bench.run(by.launch())?;
    cases.expect(bench.get::<u32>(order, n)? == want, || "another order".to_owned());
    cases.expect(bench.get::<u32>(starts, n_expert + 1)? == want_starts, || "other starts".to_owned());

    let w = realistic_weights(ty, n_expert * rows * k, &mut random);
    let (scales, bias) = ([1.0_f32, 2.0, 3.0, 4.0, 5.0], normals(n_expert * rows, &mut random));
    let x: Vec<u16> = normals(tokens * k, &mut random).iter().map(|x| bf16::from_f32(*x).to_bits()).collect();
    let matrix = Matrix { data: bench.put(&w)?, scale: bench.put(&scales)?, bias: bench.put(&bias)? };
    let (x, y) = (bench.put(&x)?, bench.room(n * rows)?);
    let ordered = Ordered { order, starts, experts: n_expert as u32, rows: rows as u32, share: used as u32 };
    for (tiles, e) in
        tiles(bench.device.properties()).into_iter().flat_map(|t| (0..n_expert).map(move |e| (t, e)))
    {
        let base = Matmul { w: matrix, x, tiles, ..plain_matmul(ty, k, rows, n) };
        bench.run(Matmul { y, experts: Some(ordered), ..base }.launch())?;
        let got = bench.results(y, n * rows, "experts", cases)?;
        let one = Matrix {
            data: matrix.data.offset((e * rows * ty.row_bytes(k).expect("whole blocks")) as u64),
            scale: matrix.scale.offset(4 * e as u64),
            bias: matrix.bias.offset(4 * (e * rows) as u64),
        };
        let y = bench.put(&vec![1.0_f32; tokens * rows])?;
        let add = Epilogue::Add(0.0);
        bench.run(Matmul { w: one, y, columns: tokens as u32, epilogue: add, ..base }.launch())?;
        let kept: Vec<f32> = bench.get(y, tokens * rows)?;
        cases.expect(kept.iter().all(|y| *y == 1.0), || "0 times a product was added".to_owned());
        bench.run(Matmul { w: one, y, columns: tokens as u32, ..base }.launch())?;
        let alone: Vec<f32> = bench.get(y, tokens * rows)?;
        for (c, _) in chosen.iter().enumerate().filter(|(_, id)| **id as usize == e) {
            let (a, b) = (&alone[c / used * rows..][..rows], &got[c * rows..][..rows]);
            let same = a.iter().zip(b).all(|(a, b)| same(*a, *b));
            cases.expect(same, || format!("column {c}, expert {e}: other bits than alone"));
        }
    }
    Ok(())
}
