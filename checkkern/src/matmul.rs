//! The tiers of a matrix product.

use super::compare::{Want, same};
use super::formats::Format;
use super::inputs::{
    Activations, EXACT_UNIT, Q8, exact_activations, exact_weights, quantize, random_blocks,
    realistic_activations, realistic_weights, shifted, takes_q8,
};
use super::report::Cases;
use braise_kernels::quant::q8::BLOCK;
use braise_kernels::quant::{Dot, Type};
use braise_kernels::table::{Acts, Rounding};
use fastrand::Rng;
use half::bf16;

/// Row lengths of formats with blocks of 256 weights, of 64, of 32, and of one: short ones, layers of real models, tails.
const K_256: &[usize] = &[256, 512, 768, 2048, 4096];
const K_64: &[usize] = &[64, 128, 192, 256, 320, 576, 1536, 2048, 4096 + 64];
const K_32: &[usize] = &[32, 64, 96, 256, 288, 576, 1536, 2048, 4096 + 32];
const K_1: &[usize] = &[1, 2, 7, 15, 16, 17, 31, 33, 63, 64, 65, 100, 127, 576, 1000, 2048, 4096 + 13];

const ROWS: [usize; 7] = [1, 2, 3, 5, 16, 17, MANY_ROWS];
/// Several of the panels of rows that kernels for many columns take together, and a part of one.
const MANY_ROWS: usize = 70;
const COLUMNS: [usize; 10] = [1, 2, 3, 4, 5, 6, 7, 8, 9, 16];

/// How many times the largest weight of its group the parts of a weight can add up to. A weight `scale code + offset`
/// may be computed with unsigned codes; then the offset is the weight of code 0, so no larger than the largest, and
/// `scale code` is the difference of two weights.
fn parts(ty: Type) -> f64 {
    if takes_q8(ty) { 3.0 } else { 1.0 }
}

/// Weights, activations and what their product may be.
pub(super) struct Problem {
    pub(super) name: String,
    ty: Type,
    pub(super) k: usize,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) w: Vec<u8>,
    pub(super) x: Activations,
    /// (columns, rows)
    pub(super) want: Vec<Want>,
}

impl Problem {
    pub(super) fn new(
        tier: &str,
        ty: Type,
        rounding: Rounding,
        k: usize,
        w: Vec<u8>,
        x: Activations,
    ) -> Problem {
        let rows = w.len() / ty.row_bytes(k).expect("rows are whole blocks");
        let columns = x.values().len() / k;
        let mut problem =
            Problem { name: format!("{tier}, k {k}"), ty, k, rows, columns, w, x, want: vec![] };
        problem.want = match rounding {
            Rounding::Q8 => problem.wants(tier == "exact"),
            Rounding::Bf16 => problem.wants_of_bf16(tier == "exact"),
        };
        problem
    }

    fn row(&self, r: usize) -> &[u8] {
        let bytes = self.w.len() / self.rows;
        &self.w[r * bytes..(r + 1) * bytes]
    }

    /// The product in f64 of the weights that the scalar truth gives and the activations.
    ///
    /// Its distance from a result in f32 is at most `n u S`: u = 2^-24 is the largest relative error of one rounding, S
    /// the sum of the magnitudes of all parts of weights times activations, and n the most roundings that one of them
    /// meets on its way into the result:
    ///
    /// - 3 in the weight that it is compared with (unit times scale, times code, plus offset);
    /// - 4 where scales, sum and offset of a group are multiplied and added;
    /// - k / 16 where the group is added to a running sum: one of 16 weights, or one of 32 and then its offset. Groups of
    ///   16 with an offset, which Q2_K alone has, take k / 8;
    /// - 6 where running sums (at most 64) are added up, or 5 with the sum of the offsets.
    ///
    /// Three more are room for the terms of second order, (n u)^2 / 2. Sums of products of codes are exact.
    fn wants(&self, exactly: bool) -> Vec<Want> {
        let weights_a_sum = if self.ty == Type::Q2_K { 8 } else { 16 };
        let roundings = (self.k.div_ceil(weights_a_sum) + 16) as f64;
        let scalar = self.ty.scalar().expect("a type with a kernel");
        let mut weights = vec![0.0; self.rows * self.k];
        (scalar.dequantize)(&self.w, &mut weights);
        let sizes = match Format::find(self.ty) {
            Some(format) => format.sizes(&self.w),
            None => weights.iter().map(|w| f64::from(w.abs())).collect(),
        };
        let values = self.x.values();
        let mut wants = Vec::new();
        for (c, x) in values.chunks_exact(self.k).enumerate() {
            let rows = weights.chunks_exact(self.k).zip(sizes.chunks_exact(self.k));
            for (r, (weights, sizes)) in rows.enumerate() {
                let exact: f64 = weights.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum();
                let size = parts(self.ty) * sizes.iter().zip(x).map(|(s, x)| s * x.abs()).sum::<f64>();
                wants.push(if exactly {
                    assert!(size <= f64::from(1 << 24) * EXACT_UNIT, "{}: {size} is too much", self.name);
                    Want::Exactly(exact as f32)
                } else if exact.is_finite() {
                    Want::Within { exact, bound: roundings * f64::from(f32::EPSILON) / 2.0 * size }
                } else {
                    let scalar = match (scalar.dot, self.x.columns(self.k, c..c + 1, 0)) {
                        (Dot::F32(dot), Acts::F32(x)) => dot(self.row(r), x.row(0)),
                        (Dot::Q8(dot), Acts::Q8(x)) => dot(self.row(r), x.row(0)),
                        _ => unreachable!("activations are made for the type"),
                    };
                    // infinite products of both signs may meet before or after they are added up
                    let infinite =
                        weights.iter().any(|w| w.is_infinite()) || x.iter().any(|x| x.is_infinite());
                    Want::NotFinite { nan: scalar.is_nan() && !infinite }
                });
            }
        }
        wants
    }

    /// The same of weights and activations that are rounded to bf16.
    ///
    /// In the exact tier activations lose nothing and weights are rounded from the same numbers, so that only the
    /// rounding of sums is left. Elsewhere the numbers may differ in the last bit before they are rounded, and so by a
    /// step of 2^-8 after.
    fn wants_of_bf16(&self, exactly: bool) -> Vec<Want> {
        let round = |x: f32| bf16::from_f32(x).to_f64();
        let mut weights = vec![0.0; self.rows * self.k];
        (self.ty.scalar().expect("a type with a kernel").dequantize)(&self.w, &mut weights);
        let values = self.x.values();
        let mut wants = Vec::new();
        for x in values.chunks_exact(self.k) {
            for weights in weights.chunks_exact(self.k) {
                let products = || weights.iter().zip(x).map(|(w, x)| round(*w) * round(*x as f32));
                let (exact, size) = (products().sum::<f64>(), products().map(f64::abs).sum::<f64>());
                let roundings = self.k as f64 * f64::from(f32::EPSILON) / 2.0;
                let step = if exactly { 0.0 } else { 2f64.powi(-8) };
                wants.push(match exact.is_finite() {
                    true => Want::Within { exact, bound: (roundings + step) * size },
                    false => Want::NotFinite { nan: exact.is_nan() },
                });
            }
        }
        wants
    }

    /// Runs `kernel` on each row and column alone, which must give what is wanted, then on groups of them, in other
    /// places of memory, which must give the same bits.
    fn check(&self, kernel: &impl Fn(&[u8], Acts<'_>, &mut [f32]), cases: &mut Cases) {
        let mut alone = Vec::new();
        for c in 0..self.columns {
            for r in 0..self.rows {
                let x = self.x.columns(self.k, c..c + 1, 0);
                let got = call_guarded(kernel, self.row(r), x, 1);
                let (want, ok) = (self.want[c * self.rows + r], got.as_ref().is_ok_and(|got| got.len() == 1));
                cases.expect(ok && got.iter().all(|got| want.accepts(got[0])), || {
                    format!("{}, row {r}, column {c}: {got:?} instead of {want:?}", self.name)
                });
                alone.push(got.map_or(f32::NAN, |got| got[0]));
            }
        }
        for by in [0, 1] {
            let (w, x) = (shifted(&self.w, by), self.x.shifted(by));
            for rows in ROWS.into_iter().filter(|rows| *rows <= self.rows) {
                for columns in COLUMNS.into_iter().filter(|columns| *columns <= self.columns) {
                    // the last ones, so that all are reached
                    let (r0, c0) = (self.rows - rows, self.columns - columns);
                    let w = &w[by + self.w.len() / self.rows * r0..];
                    let x = x.columns(self.k, c0..self.columns, by);
                    let got = call_guarded(kernel, w, x, rows * columns);
                    let ok = got.as_ref().is_ok_and(|got| {
                        let alone = |i: usize| alone[(c0 + i / rows) * self.rows + r0 + i % rows];
                        got.iter().enumerate().all(|(i, got)| same(*got, alone(i)))
                    });
                    cases.expect(ok, || {
                        let what = got
                            .err()
                            .unwrap_or("not the bits that each row and column gives alone".to_owned());
                        format!("{}, {rows} rows, {columns} columns, shifted by {by}: {what}", self.name)
                    });
                }
            }
        }
    }
}

/// What lies before and after the results, and in their place.
const SENTINEL: f32 = -1.234_567_9e33;

/// Calls a kernel for n results that lie between sentinels.
///
/// # Errors
/// A sentinel was overwritten, or a result was not written.
fn call_guarded(
    kernel: &impl Fn(&[u8], Acts<'_>, &mut [f32]),
    w: &[u8],
    x: Acts<'_>,
    n: usize,
) -> Result<Vec<f32>, String> {
    const GUARD: usize = 16;
    let mut y = vec![SENTINEL; GUARD + n + GUARD];
    kernel(w, x, &mut y[GUARD..GUARD + n]);
    let results = y[GUARD..GUARD + n].to_vec();
    y.drain(GUARD..GUARD + n);
    if y.iter().any(|y| *y != SENTINEL) {
        return Err("wrote beyond the results".to_owned());
    }
    if results.contains(&SENTINEL) {
        return Err("left a result unwritten".to_owned());
    }
    Ok(results)
}

/// Every tier of a matrix product with weights of this type.
pub fn check(ty: Type, rounding: Rounding, kernel: impl Fn(&[u8], Acts<'_>, &mut [f32]), cases: &mut Cases) {
    check_of_rows(ty, rounding, 1, kernel, cases);
}

/// The same with rows of a multiple of `unit` values.
pub fn check_of_rows(
    ty: Type,
    rounding: Rounding,
    unit: usize,
    kernel: impl Fn(&[u8], Acts<'_>, &mut [f32]),
    cases: &mut Cases,
) {
    let mut random = Rng::with_seed(u64::from(ty as u32));
    let lengths = match ty.block() {
        1 => K_1,
        32 => K_32,
        64 => K_64,
        _ => K_256,
    };
    let lengths: Vec<usize> = lengths.iter().copied().filter(|k| k.is_multiple_of(unit)).collect();
    for &k in &lengths {
        exact(ty, rounding, k, &mut random).check(&kernel, cases);
        realistic(ty, rounding, k, &mut random).check(&kernel, cases);
        special(ty, rounding, k, &mut random).check(&kernel, cases);
        any_bytes(ty, k, &mut random, &kernel, cases);
    }
    let ends = &lengths[lengths.len() - 3..];
    realistic_rows(ty, rounding, ends[0], MANY_ROWS, &mut random).check(&kernel, cases);
    for &k in ends {
        extremes(ty, rounding, k).iter().for_each(|problem| problem.check(&kernel, cases));
    }
}

pub(super) fn exact(ty: Type, rounding: Rounding, k: usize, random: &mut Rng) -> Problem {
    let (rows, columns) = (17, 16);
    let w = exact_weights(ty, rows * k, random);
    let size = match Format::find(ty) {
        Some(format) => format.sizes(&w).into_iter().fold(0.0, f64::max),
        None => 128.0,
    };
    let x = exact_activations(ty, k, columns, size, parts(ty), random);
    Problem::new("exact", ty, rounding, k, w, x)
}

pub(super) fn realistic(ty: Type, rounding: Rounding, k: usize, random: &mut Rng) -> Problem {
    realistic_rows(ty, rounding, k, 17, random)
}

fn realistic_rows(ty: Type, rounding: Rounding, k: usize, rows: usize, random: &mut Rng) -> Problem {
    let columns = 16;
    let w = realistic_weights(ty, rows * k, random);
    Problem::new("realistic", ty, rounding, k, w, realistic_activations(ty, columns * k, random))
}

/// Scales that are not finite, zero or subnormal, and activations with such scales, in one place each.
pub(super) fn special(ty: Type, rounding: Rounding, k: usize, random: &mut Rng) -> Problem {
    const WEIGHTS: [f32; 6] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 0.0, -0.0, 1e-7];
    const ACTIVATIONS: [f32; 4] = [f32::NAN, f32::INFINITY, 0.0, 1e-30];
    let (rows, columns) = (3 * WEIGHTS.len(), 2 * ACTIVATIONS.len());
    let mut w = match Format::find(ty) {
        Some(_) => random_blocks(ty, rows * k, random, |random| random.f32() - 0.5),
        None => exact_weights(ty, rows * k, random),
    };
    for (r, row) in w.chunks_exact_mut(ty.row_bytes(k).expect("whole blocks")).enumerate() {
        let block = random.usize(..k / ty.block());
        let block = &mut row[block * ty.bytes()..(block + 1) * ty.bytes()];
        let bad = WEIGHTS[r % WEIGHTS.len()];
        // of each three rows, one stays as it is
        match Format::find(ty) {
            _ if r / WEIGHTS.len() == 2 => (),
            Some(format) => format.scales[r / WEIGHTS.len() % format.scales.len()].set(block, bad),
            None => block.copy_from_slice(&quantize(ty, &[bad])),
        }
    }
    let mut x = realistic_activations(ty, columns * k, random);
    for (c, bad) in ACTIVATIONS.into_iter().enumerate() {
        let at = 2 * c * k + random.usize(..k);
        match &mut x {
            Activations::F32(x) => x[at] = bad,
            Activations::Q8(x) => x.d[at / BLOCK] = bad,
        }
    }
    Problem::new("special scales", ty, rounding, k, w, x)
}

/// Bytes that nobody made as weights: what comes out of them is unspecified, but it must come out.
fn any_bytes(
    ty: Type,
    k: usize,
    random: &mut Rng,
    kernel: &impl Fn(&[u8], Acts<'_>, &mut [f32]),
    cases: &mut Cases,
) {
    let (rows, columns) = (17, 16);
    let mut w = vec![0; rows * ty.row_bytes(k).expect("whole blocks")];
    random.fill(&mut w);
    let x = realistic_activations(ty, columns * k, random);
    for columns in [1, columns] {
        let got = call_guarded(kernel, &w, x.columns(k, 0..columns, 0), rows * columns);
        cases.expect(got.is_ok(), || format!("any bytes, k {k}, {columns} columns: {got:?}"));
    }
}

/// Codes, scales and activations all at an end of their range: what an integer kernel must not saturate at.
pub(super) fn extremes(ty: Type, rounding: Rounding, k: usize) -> Vec<Problem> {
    const BYTES: [u8; 10] = [0x00, 0xff, 0x77, 0x88, 0x7f, 0x80, 0x0f, 0xf0, 0x55, 0xaa];
    const SCALES: [f32; 5] = [1.0, -1.0, 65504.0, 6e-8, 0.0];
    let x = extreme_activations(ty, k);
    let Some(format) = Format::find(ty) else {
        let values = [65504.0, -65504.0, 6e-8, 1.0, 0.0, -0.0, 6.1e-5];
        let w: Vec<f32> = (0..5 * k).map(|i| values[(i + i / k) % values.len()]).collect();
        return vec![Problem::new("extremes", ty, rounding, k, quantize(ty, &w), x)];
    };
    let problem = |byte: u8| {
        let mut w = vec![byte; SCALES.len() * k / ty.block() * ty.bytes()];
        let row_bytes = w.len() / SCALES.len();
        for (i, block) in w.chunks_exact_mut(ty.bytes()).enumerate() {
            for (f, field) in format.scales.iter().enumerate() {
                field.set(block, SCALES[(i * ty.bytes() / row_bytes + f) % SCALES.len()]);
            }
        }
        Problem::new(&format!("extremes {byte:#04x}"), ty, rounding, k, w, x.clone())
    };
    BYTES.into_iter().map(problem).collect()
}

fn extreme_activations(ty: Type, k: usize) -> Activations {
    /// q and zero point of even and of odd places.
    const PATTERNS: [[(i32, i8); 2]; 9] = [
        [(127, 127), (127, 127)],
        [(-127, -127), (-127, -127)],
        [(127, -127), (127, -127)],
        [(-127, 127), (-127, 127)],
        [(127, 0), (127, 0)],
        [(-127, 0), (-127, 0)],
        [(0, 127), (0, 127)],
        [(127, 127), (-127, 127)],
        [(-127, -127), (127, -127)],
    ];
    let t =
        PATTERNS.iter().flat_map(|pattern| (0..k).map(|i| pattern[i % 2].0 + i32::from(pattern[i % 2].1)));
    let t: Vec<i32> = t.collect();
    if !takes_q8(ty) {
        return Activations::F32(t.iter().map(|t| *t as f32 * 8.0).collect());
    }
    let z = PATTERNS.iter().flat_map(|pattern| vec![pattern[0].1; k / BLOCK]).collect();
    Activations::Q8(Q8::new(&t, z, vec![0.125; PATTERNS.len() * k / BLOCK]))
}

#[cfg(test)]
mod tests;
