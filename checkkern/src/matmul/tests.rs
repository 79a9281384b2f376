//! Kernels that are wrong in known ways must be caught, in each format that has the thing to be wrong about.

use super::*;
use braise_kernels::quant::q8::{Q8Mat, Q8Row, SUM_BLOCK};

/// The scalar product of a row and a column of quantized activations, as a whole kernel.
fn scalar(ty: Type, w: &[u8], x: Acts<'_>, y: &mut [f32]) {
    let columns = match x {
        Acts::F32(x) => x.rows(),
        Acts::Q8(x) => x.rows(),
        Acts::Packed(x) => x.cols,
    };
    let rows = y.len() / columns;
    for (r, w) in w.chunks_exact(w.len() / rows).enumerate() {
        for c in 0..columns {
            y[c * rows + r] = match (ty.scalar().unwrap().dot, x) {
                (Dot::F32(dot), Acts::F32(x)) => dot(w, x.row(c)),
                (Dot::Q8(dot), Acts::Q8(x)) => dot(w, x.row(c)),
                _ => unreachable!(),
            };
        }
    }
}

const TYPES: [Type; 9] = [
    Type::Q4_0,
    Type::Q4_1,
    Type::Q8_0,
    Type::Q4_K,
    Type::Q6_K,
    Type::MXFP4,
    Type::NVFP4,
    Type::IQ2_XS,
    Type::TQ1_0,
];

fn tiers(ty: Type) -> [Problem; 2] {
    let mut random = Rng::with_seed(1);
    [exact(ty, Rounding::Q8, 512, &mut random), realistic(ty, Rounding::Q8, 512, &mut random)]
}

/// Expects that every tier finds fault with `kernel`.
#[track_caller]
fn expect_caught(ty: Type, kernel: impl Fn(&[u8], Acts<'_>, &mut [f32])) {
    for problem in tiers(ty) {
        let mut cases = Cases::default();
        problem.check(&kernel, &mut cases);
        assert!(cases.failed(), "{ty}, {}", problem.name);
    }
}

#[test]
fn the_scalar_kernel_is_right() {
    for ty in TYPES.into_iter().chain([Type::F32, Type::F16, Type::BF16]) {
        for problem in tiers(ty) {
            let mut cases = Cases::default();
            problem.check(&|w, x, y| scalar(ty, w, x, y), &mut cases);
            assert!(!cases.failed(), "{ty}, {}: {cases:?}", problem.name);
        }
    }
}

#[test]
fn a_flipped_sign_is_caught() {
    for ty in TYPES {
        expect_caught(ty, |w, x, y| {
            scalar(ty, w, x, y);
            y.iter_mut().for_each(|y| *y = -*y);
        });
    }
}

#[test]
fn a_nan_is_caught() {
    expect_caught(Type::Q4_0, |w, x, y| {
        scalar(Type::Q4_0, w, x, y);
        y[0] = f32::NAN;
    });
}

/// Runs the scalar kernel on activations that `change` has altered, arrays of whole columns.
fn on_changed_activations(ty: Type, w: &[u8], x: Acts<'_>, y: &mut [f32], change: impl Fn(&mut Q8, usize)) {
    let Acts::Q8(Q8Mat { row_len, all: Q8Row { q, z, d, sum } }) = x else { unreachable!() };
    let mut x = Q8 { q: q.to_vec(), z: z.to_vec(), d: d.to_vec(), sum: sum.to_vec() };
    change(&mut x, row_len);
    let columns = x.q.len() / row_len;
    scalar(ty, w, Activations::Q8(x).columns(row_len, 0..columns, 0), y);
}

#[test]
fn a_lost_tail_is_caught() {
    for ty in TYPES {
        expect_caught(ty, |w, x, y| {
            on_changed_activations(ty, w, x, y, |x, k| {
                for last in x.d.chunks_exact_mut(k / BLOCK).map(|d| &mut d[k / BLOCK - 1]) {
                    *last = 0.0;
                }
            })
        });
    }
}

#[test]
fn lost_zero_points_are_caught() {
    for ty in TYPES {
        expect_caught(ty, |w, x, y| on_changed_activations(ty, w, x, y, |x, _| x.z.fill(0)));
    }
}

#[test]
fn lost_sums_are_caught() {
    for ty in [Type::Q4_1, Type::Q4_K] {
        expect_caught(ty, |w, x, y| on_changed_activations(ty, w, x, y, |x, _| x.sum.fill(0)));
    }
}

#[test]
fn swapped_scales_are_caught() {
    for ty in TYPES {
        expect_caught(ty, |w, x, y| {
            on_changed_activations(ty, w, x, y, |x, k| {
                x.d.chunks_exact_mut(k / BLOCK).for_each(|d| d.reverse())
            })
        });
    }
}

#[test]
fn swapped_neighbours_are_caught() {
    // one pair of values of the last block, which leaves all sums as they are
    for ty in TYPES {
        expect_caught(ty, |w, x, y| {
            on_changed_activations(ty, w, x, y, |x, k| {
                for q in x.q.chunks_exact_mut(k) {
                    q[k - SUM_BLOCK..].reverse();
                }
            })
        });
    }
}

#[test]
fn a_result_that_depends_on_its_neighbours_is_caught() {
    expect_caught(Type::Q8_0, |w, x, y| {
        scalar(Type::Q8_0, w, x, y);
        if y.len() > 8 {
            y[8] = y[8].next_up();
        }
    });
}

#[test]
fn exchanged_rows_and_columns_are_caught() {
    expect_caught(Type::Q8_0, |w, x, y| {
        scalar(Type::Q8_0, w, x, y);
        y.reverse();
    });
}

#[test]
fn a_result_that_is_not_written_is_caught() {
    expect_caught(Type::Q8_0, |w, x, y| {
        let old = y[y.len() - 1];
        scalar(Type::Q8_0, w, x, y);
        *y.last_mut().unwrap() = old;
    });
}

/// The sum of products in 16-bit numbers that saturate, as `vpmaddubsw` adds two.
#[test]
fn saturation_is_caught_by_extremes() {
    let ty = Type::Q8_0;
    let saturated = |w: &[u8], x: Acts<'_>, y: &mut [f32]| {
        let Acts::Q8(x) = x else { unreachable!() };
        let rows = y.len() / x.rows();
        for (r, row) in w.chunks_exact(w.len() / rows).enumerate() {
            for c in 0..x.rows() {
                let column = x.row(c);
                y[c * rows + r] = row
                    .chunks_exact(34)
                    .enumerate()
                    .map(|(b, block)| {
                        let products: i32 = (0..32)
                            .step_by(2)
                            .map(|i| {
                                let product =
                                    |i: usize| i32::from(block[2 + i] as i8) * column.t(b * BLOCK + i);
                                (product(i) + product(i + 1)).clamp(-32768, 32767)
                            })
                            .sum();
                        half::f16::from_le_bytes([block[0], block[1]]).to_f32()
                            * column.d[b]
                            * products as f32
                    })
                    .sum();
            }
        }
    };
    let mut cases = Cases::default();
    extremes(ty, Rounding::Q8, 256).iter().for_each(|problem| problem.check(&saturated, &mut cases));
    assert!(cases.failed());
}

#[test]
fn a_number_in_place_of_a_nan_is_caught() {
    for ty in [Type::Q4_0, Type::Q6_K, Type::F16] {
        let problem = special(ty, Rounding::Q8, 512, &mut Rng::with_seed(1));
        let mut cases = Cases::default();
        problem.check(&|w, x, y| scalar(ty, w, x, y), &mut cases);
        assert!(!cases.failed(), "{ty}: {cases:?}");
        problem.check(
            &|w, x, y| {
                scalar(ty, w, x, y);
                y.iter_mut().filter(|y| !y.is_finite()).for_each(|y| *y = 0.0);
            },
            &mut cases,
        );
        assert!(cases.failed(), "{ty}");
    }
}
