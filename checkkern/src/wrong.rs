//! Kernels that are wrong in known ways: whoever reports what [`crate::cpu`] finds can see here what a failure looks like.
//!
//! That every tier finds faults of every kind is proven by the tests of [`crate::matmul`]; these are few, and two of them
//! take their process with them.

use crate::matmul;
use crate::report::Report;
use braise_kernels::isa::Isa;
use braise_kernels::quant::Type;
use braise_kernels::table::{Acts, Kernels, MatMul, Rounding};
use std::time::Duration;

/// What is done to right results.
type Fault = fn(&mut [f32]);

const FAULTS: [(&str, Fault); 3] = [
    ("wrong/sign", |y| y.iter_mut().for_each(|y| *y = -*y)),
    ("wrong/nan", |y| y[0] = f32::NAN),
    ("wrong/last", |y| y[y.len() - 1] = y[y.len() - 1].next_up()),
];

/// A row that ends the process.
pub const CRASHES: &str = "wrong/crash";

/// A row that never ends.
pub const HANGS: &str = "wrong/hang";

/// A row that is right, behind all the others.
pub const RIGHT: &str = "right/last of all";

/// Runs them all. To get to the last one takes a report that goes on behind the two that do not come back.
pub fn check(report: &mut Report) {
    let right = right();
    for (name, fault) in FAULTS {
        run(report, name, right, fault);
    }
    run(report, CRASHES, right, |_| std::process::abort());
    run(report, HANGS, right, |_| std::thread::sleep(Duration::from_secs(3600)));
    run(report, RIGHT, right, |_| ());
}

fn right() -> MatMul {
    let kernels = Kernels::new(Isa::Portable).expect("every machine has the portable level");
    kernels.matmul(Type::Q8_0).expect("a format with kernels")
}

fn run(report: &mut Report, name: &str, right: MatMul, fault: Fault) {
    let kernel = |w: &[u8], x: Acts<'_>, y: &mut [f32]| {
        right.call(w, x, y);
        fault(y);
    };
    report.row(name.to_owned(), |cases| matmul::check(right.weights(), Rounding::Q8, kernel, cases));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_fault_is_found_and_the_right_one_is_right() {
        let right = right();
        let mut report = Report::default();
        FAULTS.iter().for_each(|(name, fault)| run(&mut report, name, right, *fault));
        assert!(report.rows().iter().all(|row| !row.passed() && row.cases > 0), "{:?}", report.rows());
        assert_eq!(report.rows().len(), FAULTS.len());
        run(&mut report, RIGHT, right, |_| ());
        assert!(report.rows()[FAULTS.len()].passed());
    }
}
