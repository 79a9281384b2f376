//! `braise bench`: how fast models run here, and how fast they could run at most.

mod report;
mod row;
mod source;

use std::time::Instant;

use anyhow::Result;
use braise_engine::device::{Choice, GpuLayers, Placement, Split};
use braise_engine::kv::KvTypes;
use braise_engine::measure::{self, GpuPeaks, Limit, Peaks, Reached, Stats, Test, peak_rss, reset_peak_rss};
use braise_engine::parts::Location;
use braise_engine::sequences::{Capacity, MAX_SEQUENCES};
use braise_engine::session::SessionOptions;
use braise_engine::threads::default_threads;
use braise_kernels::ops::PAGE;
use clap::Args;

use self::report::{Format, Report, threads};
use self::row::Row;
use self::source::{Loaded, Source, Synthetic};
use crate::args::{self, Cache, Weights, isa};
use crate::engine::move_to_devices;
use crate::failure::Usage;
use crate::machine::{available_memory, cpu_name, look};

/// Measure how fast models run, beside the limit of this machine
///
/// A test reads a prompt of so many tokens (pp), or generates so many (tg), or both (pg), at a depth: with so many
/// tokens in the context before. Every combination of the numbers given is a test; 0 leaves a kind of test out. Several
/// sequences that generate together (--parallel) read the weights once for all of them; their rate is that of all. The
/// limit is what the memory bandwidth and the multipliers, measured just before and after each test, allow at most: those of
/// the CPU on as many threads, or those of the GPU.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  braise bench smollm2:135m
  braise bench --synthetic llama3.2:1b:Q4_K_M --threads 1,2 --explain
  braise bench smollm2:135m --device cuda --parallel 1,8,64
  braise bench model.gguf --pp 512,2048 --tg 64 --depth 0,4096 --output jsonl

The tests and fields are those of llama-bench, with limit_ts, share_of_limit and what --explain says beside them.")]
pub struct BenchArgs {
    /// Names of models, or paths of .gguf files [default: the default model]
    models: Vec<String>,

    /// Shapes of the catalogue with random weights made in memory, which need no download, such as
    /// llama3.2:1b:Q4_K_M
    #[arg(long, value_name = "NAME:QUANT,..", value_delimiter = ',')]
    synthetic: Vec<String>,

    /// Tokens of a prompt
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "512", value_parser = tokens())]
    pp: Vec<u32>,

    /// Tokens to generate
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "128", value_parser = tokens())]
    tg: Vec<u32>,

    /// Tokens of a prompt, and tokens to generate after it; may be given several times
    #[arg(long, value_name = "PP,TG", value_parser = pair)]
    pg: Vec<(u32, u32)>,

    /// Tokens in the context before a test begins
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "0", value_parser = tokens())]
    depth: Vec<u32>,

    /// Sequences that generate together, each with its own context
    #[arg(long, value_name = "N,..", value_delimiter = ',', default_value = "1", value_parser = sequences())]
    parallel: Vec<u32>,

    /// Where to compute: cpu, cuda, cuda:N (the GPU of that number), or auto: a GPU that has kernels and memory for the
    /// model, else the CPU. With --isa or BRAISE_ISA, auto is the CPU
    #[arg(long, value_name = "DEVICE", default_value_t = Choice::Auto)]
    device: Choice,

    /// How much of the model goes to GPUs: the last N of its layers and the output, which counts as one of them (0: nothing),
    /// all, or auto: what fits. The limit of several devices is the sum of their times, as they wait for each other
    #[arg(long, value_name = "N", default_value_t = GpuLayers::Auto)]
    gpu_layers: GpuLayers,

    /// Threads to compute with on the CPU [default: the physical cores]
    #[arg(long, value_name = "N,..", value_delimiter = ',', value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Vec<u16>,

    /// Repetitions of each test, after one to warm up
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    reps: u16,

    /// Instruction set to compute with, as `braise info` lists them [default: the best; BRAISE_ISA sets it too]
    #[arg(long, value_name = "NAME")]
    isa: Option<String>,

    #[command(flatten)]
    weights: Weights,

    #[command(flatten)]
    cache: Cache,

    /// Form of the report
    #[arg(long, value_enum, default_value_t = Format::Md, value_name = "FORM")]
    output: Format,

    /// Say what bounds each result (md; the other forms always do)
    #[arg(long)]
    explain: bool,
}

/// Most tokens of a test: more than any model reads, and few enough to compute with.
const MAX_TOKENS: u32 = 1 << 24;

fn tokens() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(0..=i64::from(MAX_TOKENS))
}

fn sequences() -> clap::builder::RangedI64ValueParser<u32> {
    clap::value_parser!(u32).range(1..=MAX_SEQUENCES as i64)
}

fn pair(text: &str) -> Result<(u32, u32), String> {
    let wrong = || format!("it must be two numbers from 1 to {MAX_TOKENS}, such as 512,128");
    let (pp, tg) = text.split_once(',').ok_or_else(wrong)?;
    let number = |text: &str| text.trim().parse().ok().filter(|n| (1..=MAX_TOKENS).contains(n));
    number(pp).zip(number(tg)).ok_or_else(wrong)
}

impl BenchArgs {
    /// The tests, those of one depth together.
    fn tests(&self) -> Vec<Test> {
        let prompts = self.pp.iter().map(|pp| (*pp, 0));
        let generations = self.tg.iter().map(|tg| (0, *tg));
        let kinds: Vec<_> = prompts
            .chain(generations)
            .chain(self.pg.iter().copied())
            .filter(|kind| *kind != (0, 0))
            .collect();
        // prompts are read one by one, however many there are
        let parallel = |tg: u32| if tg == 0 { &[1][..] } else { &self.parallel };
        let tests = |depth: u32, (pp, tg): (u32, u32)| {
            parallel(tg).iter().map(move |n| Test {
                n_prompt: pp as usize,
                n_gen: tg as usize,
                n_depth: depth as usize,
                n_parallel: *n as usize,
            })
        };
        self.depth.iter().flat_map(|depth| kinds.iter().flat_map(move |kind| tests(*depth, *kind))).collect()
    }

    fn sources(&self) -> Result<Vec<Source>> {
        let named = self.models.iter().map(|name| Ok(Source::Named(name.clone())));
        let synthetic = self.synthetic.iter().map(|text| Ok(Source::Synthetic(Synthetic::parse(text)?)));
        let sources: Vec<_> = named.chain(synthetic).collect::<Result<_>>()?;
        if sources.is_empty() { Ok(vec![Source::default_model()?]) } else { Ok(sources) }
    }
}

/// Does what was asked for.
pub fn run(args: &BenchArgs) -> Result<()> {
    let isa = isa(args.isa.as_deref())?;
    let tests = args.tests();
    if tests.is_empty() {
        return Err(
            Usage("there is nothing to measure; give --pp, --tg or --pg a number above 0".into()).into()
        );
    }
    let threads: Vec<usize> = match args.threads.is_empty() {
        true => vec![default_threads()],
        false => args.threads.iter().map(|n| usize::from(*n)).collect(),
    };
    let mut report = Report::new(args.output, args.explain);
    for source in args.sources()? {
        let mut bench = Bench {
            loaded: source.load(isa, args.weights, available_memory())?,
            on: Where::Cpu,
            cpu: cpu_name(&look()?),
            kv: args.cache.types(),
            reps: usize::from(args.reps),
        };
        bench.place(args::device(args.device, args.isa.as_deref()), args.gpu_layers, &tests)?;
        let on_cpu = bench.loaded.model.locations().contains(&Location::Cpu);
        for n_threads in if on_cpu { &threads[..] } else { &[0] } {
            bench.run(&tests, *n_threads, &mut report)?;
        }
    }
    report.finish()
}

/// A model that is measured.
struct Bench {
    loaded: Loaded,
    on: Where,
    cpu: String,
    kv: KvTypes,
    reps: usize,
}

/// Where it runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Where {
    /// On the CPU.
    Cpu,
    /// On the GPU of this number and name.
    Gpu(usize, String),
    /// On several devices.
    Split(Split),
}

impl Where {
    /// What one of the model's devices is called.
    fn name(&self, device: Location) -> String {
        match (self, device) {
            (_, Location::Cpu) | (Where::Cpu, _) => "cpu".to_owned(),
            (Where::Gpu(index, _), _) => format!("cuda:{index}"),
            (Where::Split(split), Location::Gpu(i)) => format!("cuda:{}", split.gpus[i].index),
        }
    }

    /// The names of its GPUs.
    fn gpus(&self) -> String {
        match self {
            Where::Cpu => String::new(),
            Where::Gpu(_, name) => name.clone(),
            Where::Split(split) => {
                split.gpus.iter().map(|gpu| gpu.name.as_str()).collect::<Vec<_>>().join(" + ")
            }
        }
    }
}

/// What a device does of a test.
#[derive(Debug, Clone)]
pub struct Share {
    /// What the device is called.
    pub device: String,
    /// What it can do at most.
    pub can: Can,
    /// The least time that its part of the test takes.
    pub limit: Limit,
}

/// What that can do at most.
#[derive(Debug, Clone, Copy)]
pub enum Can {
    /// The threads of the CPU.
    Cpu(Peaks),
    /// A GPU.
    Gpu(GpuPeaks),
}

impl Can {
    /// The better of two measurements.
    fn best(self, other: Can) -> Can {
        match (self, other) {
            (Can::Cpu(a), Can::Cpu(b)) => Can::Cpu(a.best(b)),
            (Can::Gpu(a), Can::Gpu(b)) => Can::Gpu(a.best(b)),
            (_, other) => other,
        }
    }

    fn peaks(self) -> Peaks {
        match self {
            Can::Cpu(peaks) => peaks,
            Can::Gpu(peaks) => peaks.into(),
        }
    }
}

impl Bench {
    /// Moves the model to where `choice` says, for tests that all have to fit there.
    fn place(&mut self, choice: Choice, layers: GpuLayers, tests: &[Test]) -> Result<()> {
        let n_ctx = tests.iter().map(Test::n_ctx).max();
        let most = |of: &dyn Fn(&Test) -> usize| tests.iter().map(of).max().unwrap_or(1);
        let capacity = Capacity {
            sequences: most(&|test| test.n_parallel),
            tokens: Some(most(&|test| test.n_parallel * test.n_ctx().next_multiple_of(PAGE))),
        };
        let options = SessionOptions { n_ctx, kv: self.kv, ..SessionOptions::default() };
        let begin = Instant::now();
        match move_to_devices(&mut self.loaded.model, choice, layers, capacity, &options)? {
            Placement::Gpu { index, name, slow, .. } => {
                slow.into_iter().for_each(|slow| eprintln!("note: {slow}"));
                self.on = Where::Gpu(index, name);
                self.loaded.load += begin.elapsed();
            }
            Placement::Split(split) => {
                eprintln!("note: {split}");
                for gpu in &split.gpus {
                    gpu.slow.iter().for_each(|slow| eprintln!("note: cuda:{}: {slow}", gpu.index));
                }
                self.on = Where::Split(split);
                self.loaded.load += begin.elapsed();
            }
            Placement::Cpu { because: Some(because), beside_gpu: true } => {
                eprintln!("note: the model runs on the CPU: {because}");
            }
            Placement::Cpu { .. } => {}
        }
        Ok(())
    }

    /// Runs all tests, on the CPU on so many threads, with a measurement of the peaks before, between and after them.
    fn run(&self, tests: &[Test], n_threads: usize, report: &mut Report) -> Result<()> {
        let place = match &self.on {
            Where::Cpu => threads(n_threads),
            Where::Split(_) if n_threads > 0 => format!("{} and {}", self.on.gpus(), threads(n_threads)),
            Where::Gpu(..) | Where::Split(_) => self.on.gpus(),
        };
        let on = format!("{} on {place}", self.loaded.name);
        eprintln!("{on}: the machine's limits");
        let mut before = self.limits(n_threads)?;
        for test in tests {
            eprintln!("{on}: {test}, {} + 1 times", self.reps);
            reset_peak_rss();
            let time = jiff::Timestamp::now();
            // where a GPU computes, none of them is started
            let runs = measure::run(&self.loaded.model, test, n_threads, self.kv, self.reps)?;
            let peak_rss = peak_rss();
            if let Some(warning) = &runs.warning {
                eprintln!("warning: {warning}");
            }
            let weights_read = match self.on {
                Where::Cpu => measure::tensor_bandwidth(&self.loaded.model, n_threads, available_memory())?,
                Where::Gpu(..) | Where::Split(_) => None,
            };
            let after = self.limits(n_threads)?;
            let share = |(device, can): (Location, Can)| Share {
                device: self.on.name(device),
                can,
                limit: Limit::on(&self.loaded.model, self.kv, test, device, &can.peaks()),
            };
            let best = before.iter().zip(&after).map(|((device, a), (_, b))| (*device, a.best(*b)));
            let shares: Vec<Share> = best.map(share).collect();
            before = after;
            let limit: Limit = shares.iter().map(|share| share.limit).sum();
            let total = runs.samples.iter().sum();
            let stats = Stats::of(&runs.samples, test.n_tokens());
            let reached = Reached::new(stats.avg_ns as f64 * 1e-9, &limit, n_threads, &runs.usage, total);
            report.add(Row::new(&row::Measured {
                loaded: &self.loaded,
                on: &self.on,
                cpu: &self.cpu,
                test,
                n_threads,
                kv: self.kv,
                time,
                runs: &runs,
                stats,
                peak_rss,
                weights_read,
                shares: &shares,
                limit,
                reached,
            }))?;
        }
        Ok(())
    }

    /// What each of the model's devices can do now.
    fn limits(&self, n_threads: usize) -> Result<Vec<(Location, Can)>> {
        let model = &self.loaded.model;
        let gpus = GpuPeaks::of_model(model)?;
        let of = |device| {
            Ok(match device {
                Location::Gpu(i) => (device, Can::Gpu(gpus[i])),
                Location::Cpu => {
                    let peaks = Peaks::of_cpu(model, self.kv, n_threads, available_memory() / 2)?;
                    (device, Can::Cpu(peaks))
                }
            })
        };
        model.locations().into_iter().map(of).collect()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::{Cli, Command};

    fn args(args: &[&str]) -> Result<BenchArgs, clap::Error> {
        match Cli::try_parse_from(["braise", "bench"].iter().chain(args))?.command {
            Command::Bench(args) => Ok(args),
            other => panic!("{other:?}"),
        }
    }

    fn tests(given: &[&str]) -> Vec<String> {
        args(given).expect("are right").tests().iter().map(Test::to_string).collect()
    }

    #[test]
    fn every_combination_is_a_test() {
        assert_eq!(tests(&[]), ["pp512", "tg128"]);
        assert_eq!(tests(&["--pp", "1,2", "--tg", "0"]), ["pp1", "pp2"]);
        let all = ["pp8 @ d4", "tg1 @ d4", "pp2+tg3 @ d4", "pp8", "tg1", "pp2+tg3"];
        assert_eq!(tests(&["--pp", "8", "--tg", "1", "--pg", "2,3", "--depth", "4,0"]), all);
        assert!(tests(&["--pp", "0", "--tg", "0"]).is_empty());
        let together = ["pp8", "tg4", "3 x tg4", "pp2+tg3", "3 x pp2+tg3"];
        assert_eq!(tests(&["--pp", "8", "--tg", "4", "--pg", "2,3", "--parallel", "1,3"]), together);
    }

    #[test]
    fn numbers_out_of_range_are_refused() {
        let bad = [
            ("--pp", "-1"),
            ("--pp", "1,x"),
            ("--tg", "16777217"),
            ("--pg", "1"),
            ("--pg", "0,1"),
            ("--pg", "1,2,3"),
            ("--threads", "0"),
            ("--threads", "1025"),
            ("--reps", "0"),
            ("--parallel", "0"),
            ("--parallel", "65"),
            ("--depth", "1.5"),
            ("--output", "xml"),
            ("--device", "gpu"),
            ("--gpu-layers", "x"),
        ];
        for (flag, value) in bad {
            assert!(args(&[&format!("{flag}={value}")]).is_err(), "{flag} {value}");
        }
    }
}
