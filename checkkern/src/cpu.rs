//! The rows of the kernel table of one ISA level.

use crate::report::Report;
use crate::{matmul, ops};
use braise_kernels::quant::packed::pack_row;
use braise_kernels::quant::q8::dequantize;
use braise_kernels::table::{Acts, Kernels, MatMul, PackedMat, Packing, Rounding};

/// Runs every row that the level does not inherit from a lower one: products of few columns (`dot/`) and of many
/// (`gemm/`), and float operations.
pub fn check(kernels: Kernels, report: &mut Report) {
    let isa = kernels.isa();
    for row in kernels.matmul_rows() {
        let weights = row.weights().name().to_lowercase();
        if row.isa() == isa {
            let activations = if row.takes_q8() { "q8" } else { "f32" };
            let kernel = |w: &[u8], x: Acts<'_>, y: &mut [f32]| row.call(w, x, y);
            report.row(format!("dot/{weights} x {activations}/{isa}"), |cases| {
                matmul::check(row.weights(), Rounding::Q8, kernel, cases);
            });
        }
        if let (Some(packed), Some(by)) = (row.packing(), row.packed_isa())
            && by == isa
        {
            let rounding = packed.rounding();
            let activations = if rounding == Rounding::Q8 { "packed q8" } else { "packed bf16" };
            report.row(format!("gemm/{weights} x {activations}/{isa}"), |cases| {
                matmul::check_of_rows(row.weights(), rounding, packed.unit(), packing(row, packed), cases);
            });
        }
    }
    for (op, check) in ops::OPS {
        report.row(format!("{op}/{isa}"), |cases| check(kernels, cases));
    }
}

/// The version of `row` for many tokens, as a kernel that takes activations row by row.
fn packing(row: MatMul, packing: &'static Packing) -> impl Fn(&[u8], Acts<'_>, &mut [f32]) {
    move |w, x, y| {
        let (k, cols) = match x {
            Acts::F32(x) => (x.row_len, x.rows()),
            Acts::Q8(x) => (x.row_len, x.rows()),
            Acts::Packed(_) => panic!("activations row by row"),
        };
        let (words, tile) = (packing.words(k), packing.tile());
        let mut tiles = vec![0; cols.div_ceil(tile) * words];
        match (packing.rounding(), x) {
            (Rounding::Q8, Acts::Q8(x)) => {
                // what the last tile's missing tokens hold must not matter
                tiles.fill(f32::NAN.to_bits());
                for c in 0..cols {
                    pack_row(x.row(c), c % tile, &mut tiles[c / tile * words..][..words]);
                }
            }
            (_, x) => {
                let values = match x {
                    Acts::Q8(x) => {
                        let mut values = vec![0.0; cols * k];
                        dequantize(x.all, &mut values);
                        values
                    }
                    Acts::F32(x) => x.all.to_vec(),
                    Acts::Packed(_) => unreachable!("they were activations row by row"),
                };
                for (values, tile) in values.chunks(tile * k).zip(tiles.chunks_exact_mut(words)) {
                    row.pack(values, k, tile);
                }
            }
        }
        row.call(w, Acts::Packed(PackedMat { row_len: k, cols, tiles: &tiles }), y);
    }
}
