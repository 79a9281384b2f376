//! Every kernel of every ISA level of this machine against the scalar truth. `BRAISE_ISA` names one level to run.
//!
//! What is checked, and how, is in the crate `braise-checkkern`; this file sees to it that nothing is left out.

use braise_checkkern::report::{Report, select_levels};
use braise_checkkern::{matmul, ops};
use braise_kernels::isa::Isa;
use braise_kernels::quant::Type;
use braise_kernels::quant::packed::pack_row;
use braise_kernels::quant::q8::dequantize;
use braise_kernels::table::{Acts, Kernels, MatMul, PackedMat, Packing, Rounding};
use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};

fn name(matmul: &MatMul) -> String {
    let activations = if matmul.takes_q8() { "q8" } else { "f32" };
    format!("dot/{} x {activations}/{}", matmul.weights().name().to_lowercase(), matmul.isa())
}

/// The version of `row` for many tokens, as a kernel that takes activations row by row.
fn packing(row: MatMul, packing: &'static Packing) -> impl Fn(&[u8], Acts<'_>, &mut [f32]) {
    move |w, x, y| {
        let Acts::Q8(x) = x else { panic!("{} weights take no quantized activations", row.weights()) };
        let (k, cols, words, tile) = (x.row_len, x.rows(), packing.words(x.row_len), packing.tile());
        let mut tiles = vec![0; cols.div_ceil(tile) * words];
        match packing.rounding() {
            Rounding::Q8 => {
                // what the last tile's missing tokens hold must not matter
                tiles.fill(f32::NAN.to_bits());
                for c in 0..cols {
                    pack_row(x.row(c), c % tile, &mut tiles[c / tile * words..][..words]);
                }
            }
            Rounding::Bf16 => {
                let mut values = vec![0.0; cols * k];
                dequantize(x.all, &mut values);
                for (values, tile) in values.chunks(tile * k).zip(tiles.chunks_exact_mut(words)) {
                    row.pack(values, k, tile);
                }
            }
        }
        row.call(w, Acts::Packed(PackedMat { row_len: k, cols, tiles: &tiles }), y);
    }
}

#[test]
fn every_row_of_the_kernel_table() {
    let mut report = Report::default();
    let forced = std::env::var("BRAISE_ISA").ok();
    let levels = select_levels(forced.as_deref(), &mut report).unwrap_or_else(|e| panic!("BRAISE_ISA: {e}"));
    let mut selected = BTreeSet::new();
    for &isa in &levels {
        let kernels = Kernels::new(isa).expect("a level that was found");
        let formats = Type::ALL.iter().filter(|ty| ty.scalar().is_some()).count();
        assert_eq!(kernels.matmul_rows().count(), formats, "{isa} has a row for each format");
        for row in kernels.matmul_rows() {
            if row.isa() == isa {
                selected.insert(name(&row));
                report.row(name(&row), |cases| {
                    matmul::check(row.weights(), Rounding::Q8, |w, x, y| row.call(w, x, y), cases)
                });
            } else {
                println!("{}: {isa} inherits it", name(&row));
            }
            if let (Some(packed), Some(by)) = (row.packing(), row.packed_isa())
                && by == isa
            {
                let rounding = packed.rounding();
                let activations = if rounding == Rounding::Q8 { "packed q8" } else { "packed bf16" };
                let name = format!("gemm/{} x {activations}/{isa}", row.weights().name().to_lowercase());
                selected.insert(name.clone());
                report.row(name, |cases| matmul::check(row.weights(), rounding, packing(row, packed), cases));
            }
        }
        for (op, check) in ops::OPS {
            selected.insert(format!("{op}/{isa}"));
            report.row(format!("{op}/{isa}"), |cases| check(kernels, cases));
        }
    }
    let ran: BTreeSet<String> = report.ran().iter().cloned().collect();
    assert_eq!((&ran, ran.len()), (&selected, report.ran().len()), "each selected row runs once");
    // not through println!, which the test harness holds back
    writeln!(std::io::stdout(), "{}", report.summary()).expect("standard output is open");
    report.verdict().unwrap_or_else(|failures| panic!("{failures}"));
}

#[test]
fn an_isa_that_cannot_be_had_fails_the_run() {
    let this = std::env::current_exe().expect("the path of this test");
    let run = std::process::Command::new(this)
        .args(["--exact", "every_row_of_the_kernel_table"])
        .env("BRAISE_ISA", "avx3")
        .output()
        .expect("this test starts");
    let output = String::from_utf8_lossy(&run.stdout);
    assert!(!run.status.success(), "{output}");
    assert!(output.contains("unknown ISA level 'avx3'"), "{output}");
}

/// The folder of the kernels' sources.
fn kernels_src() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels/src")
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

#[test]
fn every_float_operation_of_the_table_is_checked() {
    let source = read(&kernels_src().join("table.rs"));
    let (_, fields) = source.split_once("struct FloatOps {").expect("table.rs defines FloatOps");
    let (fields, _) = fields.split_once("\n}").expect("the end of FloatOps");
    let fields: BTreeSet<&str> = fields
        .lines()
        .filter_map(|line| line.trim().strip_prefix("pub(crate) ")?.split_once(':'))
        .map(|(name, _)| name)
        // products of float weights are rows of matmul_rows
        .filter(|name| !name.starts_with("matmul_"))
        .collect();
    assert_eq!(fields, ops::OPS.iter().map(|(name, _)| *name).collect());
}

/// The strings that follow `before` in a text.
fn strings_after<'a>(text: &'a str, before: &str) -> Vec<&'a str> {
    text.split(before).skip(1).map(|rest| rest.split('"').next().expect("split gives a first part")).collect()
}

/// A kernel compiled for fewer features than its level is slow; for more, it is undefined behaviour on some CPUs.
#[test]
fn target_features_are_those_of_the_level() {
    let mut folders = 0;
    for entry in kernels_src().join("cpu").read_dir().expect("the folder of CPU kernels") {
        let folder = entry.expect("an entry of the folder").path();
        if !folder.is_dir() {
            continue;
        }
        folders += 1;
        let level = folder.file_name().and_then(|name| name.to_str()).expect("a name in ASCII");
        let isa = Isa::ALL.into_iter().find(|isa| isa.name() == level);
        let isa = isa.unwrap_or_else(|| panic!("the folder cpu/{level} is of no ISA level"));
        let want: BTreeSet<&str> = isa.features().split(' ').collect();
        for file in folder.read_dir().expect("the folder of a level") {
            let file = file.expect("an entry of the folder").path();
            let source = read(&file);
            let mut lists = strings_after(&source, "enable = \"");
            lists.extend(strings_after(&source, "dot_of_blocks!(\""));
            lists.extend(strings_after(&source, "dot_of_superblocks!(\""));
            assert!(!lists.is_empty(), "{} has no target features", file.display());
            for list in lists {
                let mut got: BTreeSet<&str> = list.split(',').collect();
                // these the compiler does not know yet; their instructions stand in `asm!`
                got.extend(want.iter().filter(|feature| feature.starts_with("amx-")));
                assert_eq!(got, want, "{}", file.display());
            }
        }
    }
    assert_eq!(folders, Isa::ALL.len() - 1, "a folder for each level but the portable one");
}
