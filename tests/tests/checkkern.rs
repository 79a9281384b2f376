//! Every kernel of every ISA level of this machine against the scalar truth. `BRAISE_ISA` names one level to run.
//!
//! What is checked, and how, is in the crate `braise-checkkern`; this file sees to it that nothing is left out.

use braise_checkkern::report::{Event, Report, select_levels};
use braise_checkkern::{cpu, ops};
use braise_kernels::isa::Isa;
use braise_kernels::quant::Type;
use braise_kernels::table::Kernels;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::path::{Path, PathBuf};

#[test]
fn every_row_of_the_kernel_table() {
    let mut report = Report::watched(|event| {
        if let Event::Ends(row) = event {
            println!("{row}");
        }
    });
    let forced = std::env::var("BRAISE_ISA").ok();
    let levels = select_levels(forced.as_deref(), &mut report).unwrap_or_else(|e| panic!("BRAISE_ISA: {e}"));
    for &isa in &levels {
        let kernels = Kernels::new(isa).expect("a level that was found");
        let formats = Type::ALL.iter().filter(|ty| ty.scalar().is_some()).count();
        assert_eq!(kernels.matmul_rows().count(), formats, "{isa} has a row for each format");
        let dots = kernels.matmul_rows().filter(|row| row.isa() == isa).count();
        let packed = kernels.matmul_rows().filter(|row| row.packed_isa() == Some(isa)).count();
        let before = report.rows().len();
        cpu::check(kernels, &mut report);
        let ran = report.rows().len() - before;
        assert_eq!(ran, dots + packed + ops::OPS.len(), "each row that is not a lower level's runs");
    }
    let names: BTreeSet<&str> = report.rows().iter().map(|row| row.name.as_str()).collect();
    assert_eq!(names.len(), report.rows().len(), "no row runs twice");
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
