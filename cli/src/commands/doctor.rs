//! `braise doctor`: whether every kernel computes what it should on this machine, how fast the machine is, and what else
//! decides how well models run.
//!
//! Kernels run in processes of their own ([`part`]), which are watched ([`process`]): one that crashes, never comes back or
//! loses the GPU costs a line of the report, and the checks behind it go on in a new process.

mod check;
mod gpu;
mod machine;
mod part;
mod process;
mod report;

use std::thread::ScopedJoinHandle;
use std::time::Duration;

use anyhow::Result;
use braise_engine::device::Choice;
use braise_kernels::isa::Isa;
use clap::Args;

use self::check::{Check, Status};
use self::part::Part;
use self::report::Report;
use crate::args;
use crate::output::{Format, notice};

/// Check every kernel on this machine's CPU and GPUs, and what else models need to run well
///
/// Each kernel of each instruction set is compared with the scalar truth: in exact cases, at extremes and on realistic
/// numbers. A kernel that crashes or hangs is reported like one that is wrong. The exit code is 1 if anything failed, and 0
/// if all that could run is right; what was skipped is named with the reason.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  braise doctor
  braise doctor --output json > doctor.json
  braise doctor --device cuda:0
  braise doctor --isa avx2 --patience 600")]
pub struct DoctorArgs {
    /// Check this instruction set alone [default: all that this CPU has; BRAISE_ISA sets it too]
    #[arg(long, value_name = "NAME")]
    isa: Option<String>,

    /// Check these alone: cpu, cuda or cuda:N (the GPU of that number) [default: the CPU and all GPUs]
    #[arg(long, value_name = "DEVICE", default_value_t = Choice::Auto, hide_default_value = true)]
    device: Choice,

    /// Seconds that one check may take before it counts as hung
    #[arg(long, value_name = "N", default_value_t = 120, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    patience: u32,

    /// Form of the report
    #[arg(long, value_enum, default_value_t = Format::Md, value_name = "FORM")]
    output: Format,

    /// Check kernels that are wrong instead, to see what the report makes of them
    #[arg(long, hide = true)]
    wrong_kernels: bool,

    /// Run this part alone and report on it to the process that watches
    #[arg(long, hide = true)]
    part: Option<Part>,

    /// Go on behind the check of this name
    #[arg(long, hide = true, requires = "part")]
    after: Option<String>,
}

/// Does what was asked for.
pub fn run(args: &DoctorArgs) -> Result<()> {
    if let Some(part) = args.part {
        return part::run(part, args.after.clone());
    }
    let patience = Duration::from_secs(args.patience.into());
    let checks = if args.wrong_kernels {
        process::run(Part::Wrong, patience)
    } else {
        let forced = args::forced_isa(args.isa.as_deref())?;
        all(forced, args.device, patience)
    };
    let report = Report::new(checks);
    report.print(args.output)?;
    report.verdict()
}

/// All checks: of the machine, then of its kernels, side by side, then of its speed, when nothing else runs.
fn all(forced: Option<Isa>, device: Choice, patience: Duration) -> Vec<Check> {
    let mut checks = machine::checks();
    let mut parts = Vec::new();
    let is_gpu = matches!(device, Choice::Cuda(_));
    for isa in Isa::ALL {
        let group = Part::Cpu(isa);
        if is_gpu {
            checks.push(Check::skip(group, "kernels", "a GPU was asked for"));
        } else if forced.is_some_and(|forced| forced != isa) {
            checks.push(Check::skip(group, "kernels", "another instruction set was asked for"));
        } else if !isa.is_supported() {
            let why = format!("this CPU lacks one of {}", isa.features());
            checks.push(Check::skip(group, "kernels", why));
        } else {
            parts.push(group);
        }
    }
    let gpus = if device == Choice::Cpu {
        checks.push(Check::skip(Part::Gpus, "GPUs", "the CPU was asked for"));
        0..0
    } else {
        let found = process::run(Part::Gpus, patience);
        let count = gpu::count(&found);
        checks.extend(found);
        match device {
            Choice::Cuda(index) => index..index.saturating_add(1),
            Choice::Auto | Choice::Cpu => 0..count,
        }
    };
    parts.extend(gpus.clone().map(Part::Gpu));
    let done = std::thread::scope(|scope| {
        let run = |part| (part, scope.spawn(move || process::run(part, patience)));
        let running: Vec<_> = parts.into_iter().map(run).collect();
        let broken = |part| vec![Check::new(part, "kernels", Status::Failed, "nobody watched their process")];
        let done =
            |(part, thread): (_, ScopedJoinHandle<'_, _>)| thread.join().unwrap_or_else(|_| broken(part));
        running.into_iter().flat_map(done).collect::<Vec<_>>()
    });
    checks.extend(done);
    checks.extend(gpus.clone().flat_map(|gpu| process::run(Part::GpuModels(gpu), patience)));
    notice("measuring what the machine can do at most");
    if !is_gpu {
        checks.extend(process::run(Part::Peaks(forced.unwrap_or(Isa::best())), patience));
    }
    checks.extend(gpus.flat_map(|gpu| process::run(Part::GpuPeaks(gpu), patience)));
    checks
}
