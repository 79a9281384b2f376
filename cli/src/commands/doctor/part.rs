//! What runs in a process of its own, and the lines with which it reports to the one that watches.

use std::fmt;
use std::io::Write as _;
use std::str::FromStr;

use anyhow::Result;
use braise_checkkern::report::{Event, Report};
use braise_checkkern::{cpu, wrong};
use braise_engine::measure::Peaks;
use braise_engine::threads::default_threads;
use braise_kernels::isa::Isa;
use braise_kernels::table::Kernels;
use serde::{Deserialize, Serialize};

use super::check::Check;
use super::gpu;

/// A part of the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The kernels of a level.
    Cpu(Isa),
    /// What the CPU can do at most at a level.
    Peaks(Isa),
    /// Which GPUs there are, or why there are none.
    Gpus,
    /// The kernels on a GPU.
    Gpu(usize),
    /// Whole models on a GPU.
    GpuModels(usize),
    /// What a GPU can do at most.
    GpuPeaks(usize),
    /// Kernels that are wrong.
    Wrong,
}

impl Part {
    /// How to do without it where it is wrong.
    pub fn without(self) -> &'static str {
        match self {
            Part::Cpu(Isa::Portable) | Part::Peaks(_) | Part::Wrong => {
                "report it with the output of `braise doctor --output json`; do not trust results of this machine"
            }
            Part::Cpu(_) => {
                "report it with the output of `braise doctor --output json`; until then set BRAISE_ISA to a level that \
                 is right"
            }
            Part::Gpus | Part::Gpu(_) | Part::GpuModels(_) | Part::GpuPeaks(_) => {
                "see what `nvidia-smi` and `dmesg` say of the GPU, update its driver, and report it with the output of \
                 `braise doctor --output json`"
            }
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Part::Cpu(isa) => write!(f, "cpu:{isa}"),
            Part::Peaks(isa) => write!(f, "cpu-peaks:{isa}"),
            Part::Gpus => f.write_str("gpus"),
            Part::Gpu(index) => write!(f, "gpu:{index}"),
            Part::GpuModels(index) => write!(f, "gpu-models:{index}"),
            Part::GpuPeaks(index) => write!(f, "gpu-peaks:{index}"),
            Part::Wrong => f.write_str("wrong"),
        }
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Part, String> {
        let isa = |name: &str| Isa::by_name(name).map_err(|e| e.to_string());
        let index = |text: &str| text.parse().map_err(|_| format!("'{text}' is no number"));
        match text.split_once(':') {
            None if text == "gpus" => Ok(Part::Gpus),
            None if text == "wrong" => Ok(Part::Wrong),
            Some(("cpu", name)) => Ok(Part::Cpu(isa(name)?)),
            Some(("cpu-peaks", name)) => Ok(Part::Peaks(isa(name)?)),
            Some(("gpu", text)) => Ok(Part::Gpu(index(text)?)),
            Some(("gpu-models", text)) => Ok(Part::GpuModels(index(text)?)),
            Some(("gpu-peaks", text)) => Ok(Part::GpuPeaks(index(text)?)),
            _ => Err(format!("there is no part '{text}'")),
        }
    }
}

/// What the watching process hears, one JSON object a line.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Line {
    /// A check of this name begins.
    Begin(String),
    /// It is done; or something is known that takes no time.
    Check(Check),
    /// The GPU was lost in the last check: those behind it take a new process.
    Lost,
    /// All is done.
    Done,
}

/// Tells the watching process, and ends without one.
pub fn tell(line: &Line) {
    let mut out = std::io::stdout();
    let told = serde_json::to_string(line).map(|text| writeln!(out, "{text}").and_then(|()| out.flush()));
    if !matches!(told, Ok(Ok(()))) {
        std::process::exit(1);
    }
}

/// Runs a part, from behind the check `after`.
pub fn run(part: Part, after: Option<String>) -> Result<()> {
    let mut report = Report::watched(move |event| match event {
        Event::Begins(name) => tell(&Line::Begin(name.to_owned())),
        Event::Ends(row) => tell(&Line::Check(Check::of_row(part, row))),
        Event::Skips(what, why) => tell(&Line::Check(Check::skip(part, what, why))),
    })
    .after(after);
    let lost = match part {
        Part::Cpu(isa) => {
            cpu::check(Kernels::new(isa)?, &mut report);
            false
        }
        Part::Wrong => {
            wrong::check(&mut report);
            false
        }
        Part::Peaks(isa) => {
            peaks(part, isa)?;
            false
        }
        Part::Gpus => {
            gpu::find().into_iter().for_each(|check| tell(&Line::Check(check)));
            false
        }
        Part::Gpu(index) => gpu::check(index, &mut report),
        Part::GpuModels(index) => {
            gpu::models(index);
            false
        }
        Part::GpuPeaks(index) => {
            gpu::peaks(index);
            false
        }
    };
    tell(if lost { &Line::Lost } else { &Line::Done });
    Ok(())
}

/// Bytes that are read to measure the bandwidth: more than caches hold.
const BUFFER: u64 = 1 << 30;

fn peaks(part: Part, isa: Isa) -> Result<()> {
    let threads = default_threads();
    let most = braise_engine::memory::now().map_or(BUFFER, |memory| memory.total / 8);
    let peaks = Peaks::measure(Kernels::new(isa)?, threads, BUFFER, most)?;
    let on = if threads == 1 { "1 thread".to_owned() } else { format!("{threads} threads") };
    let numbers = if isa == Isa::Amx { "bf16" } else { "int8" };
    for (name, value, unit) in [
        ("read bandwidth", peaks.read, "GB/s"),
        (&*format!("{numbers} peak"), peaks.int8, "GOP/s"),
        ("f32 peak", peaks.f32, "GOP/s"),
    ] {
        let detail = format!("{:.1} {unit} on {on}", value * 1e-9);
        tell(&Line::Check(Check::measured(part, name, value, detail)));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_read_as_they_are_written() {
        let best = Isa::best();
        let parts = [
            Part::Cpu(Isa::Portable),
            Part::Peaks(best),
            Part::Gpus,
            Part::Gpu(3),
            Part::GpuModels(1),
            Part::GpuPeaks(0),
            Part::Wrong,
        ];
        for part in parts {
            assert_eq!(part.to_string().parse(), Ok(part));
        }
        for bad in ["", "cpu", "cpu:avx3", "gpu:x", "gpu:-1", "gpus:1"] {
            assert!(bad.parse::<Part>().is_err(), "{bad}");
        }
    }
}
