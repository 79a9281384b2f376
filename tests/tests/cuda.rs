//! The CUDA kernels: that the committed PTX is what the sources compile to, and that it computes what it should.

use braise_checkkern::cuda::check;
use braise_checkkern::report::{Event, Report};
use braise_engine::measure::GpuPeaks;
use braise_kernels::cuda::ops::distrust_warpgroups;
use braise_kernels::cuda::{Error, Gpu, Properties};
use braise_kernels::quant::Type;
use braise_tests::interpreter::Interpreter;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;

fn run(device: &mut dyn braise_kernels::cuda::Device) {
    let mut report = Report::watched(|event| {
        if let Event::Ends(row) = event {
            println!("{row}");
        }
    });
    let lost = check(device, &mut report).err();
    // not through println!, which the test harness holds back
    writeln!(std::io::stdout(), "{}", report.summary()).expect("standard output is open");
    report.verdict().unwrap_or_else(|failures| panic!("{failures}"));
    assert_eq!(lost, None);
}

#[test]
fn every_kernel_in_an_interpreter() {
    run(&mut Interpreter::of_compute(Properties::WARPGROUPS));
}

#[test]
fn peaks_are_measured_in_an_interpreter() {
    for compute in [(8, 0), Properties::WARPGROUPS] {
        let peaks = GpuPeaks::measure(&mut Interpreter::of_compute(compute)).expect("is measured");
        let rates =
            [peaks.copy, peaks.upload, peaks.download, peaks.bf16.expect("its tensor cores know bf16")];
        assert!(rates.iter().all(|rate| rate.is_finite() && *rate > 0.0), "{peaks:?}");
    }
}

#[test]
fn products_of_warpgroups_are_trusted_where_they_are_right() {
    for ty in [Type::Q4_K, Type::Q8_0, Type::IQ2_XXS, Type::F16] {
        let distrust = |compute| distrust_warpgroups(&mut Interpreter::of_compute(compute), ty);
        assert_eq!(distrust(Properties::WARPGROUPS), Ok(None), "{ty}");
        for other in [(8, 9), (10, 0)] {
            let why = distrust(other).expect("no failure of the device").expect("they do not run there");
            assert!(why.contains("needs 9.0"), "{why}");
        }
    }
}

#[test]
fn every_kernel_on_a_gpu() {
    match Gpu::open(0) {
        Ok(mut gpu) => run(&mut gpu),
        Err(e @ (Error::NoDriver | Error::NoDevice { .. })) => println!("skipped: {e}"),
        Err(e) => panic!("{e}"),
    }
}

/// What the comparison with right results cannot see: reads beyond what is allocated, races, barriers that not all reach.
#[test]
fn every_kernel_on_a_gpu_under_compute_sanitizer() {
    const PROGRAM: &str = "compute-sanitizer";
    if let Err(e) = Command::new(PROGRAM).arg("--version").output() {
        return println!("skipped: {PROGRAM} cannot be started: {e}");
    }
    match Gpu::count() {
        Ok(0) => return println!("skipped: the NVIDIA driver knows no GPU"),
        Ok(_) => (),
        Err(e) => return println!("skipped: {e}"),
    }
    let this = std::env::current_exe().expect("the path of this test");
    for tool in ["memcheck", "racecheck", "synccheck"] {
        let output = Command::new(PROGRAM)
            .args(["--tool", tool, "--error-exitcode", "1"])
            .arg(&this)
            .args(["--exact", "every_kernel_on_a_gpu", "--nocapture"])
            .output()
            .expect("a program that started before");
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success() && text.contains("1 passed"), "{tool}: {text}");
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
