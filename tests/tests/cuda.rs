//! The CUDA kernels: that the committed PTX is what the sources compile to, and that it computes what it should.

use braise_checkkern::cuda::check;
use braise_checkkern::report::Report;
use braise_kernels::cuda::{Error, Gpu};
use braise_tests::interpreter::Interpreter;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

fn run(device: &mut dyn braise_kernels::cuda::Device) {
    let mut report = Report::default();
    check(device, &mut report);
    // not through println!, which the test harness holds back
    writeln!(std::io::stdout(), "{}", report.summary()).expect("standard output is open");
    report.verdict().unwrap_or_else(|failures| panic!("{failures}"));
}

#[test]
fn every_kernel_in_an_interpreter() {
    run(&mut Interpreter::default());
}

#[test]
fn every_kernel_on_a_gpu() {
    match Gpu::open(0) {
        Ok(mut gpu) => run(&mut gpu),
        Err(e @ (Error::NoDriver | Error::NoDevice { .. })) => println!("skipped: {e}"),
        Err(e) => panic!("{e}"),
    }
}

/// NVRTC writes the same text on any machine, because its version is fixed.
#[test]
fn the_ptx_is_what_the_sources_compile_to() {
    let python = match braise_tests::python::nvrtc() {
        Ok(python) => python,
        Err(e) => return println!("skipped: {e}"),
    };
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../kernels/cuda/build.py");
    let output = Command::new(python).arg(script).arg("--check").output().expect("Python starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
