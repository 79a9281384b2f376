//! One result: a test of a model on so many threads.

use braise_engine::gguf::TensorInfo;
use braise_engine::kv::KvTypes;
use braise_engine::measure::{Limit, Mix, Peaks, Reached, Runs, Stats, Test};
use braise_engine::model::Model;
use braise_engine::session::default_chunk;
use serde::Serialize;

use super::source::Loaded;

/// A result. What llama-bench reports too has its name there; the other names are explained at the fields.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub build_commit: &'static str,
    pub cpu_info: String,
    pub backends: &'static str,
    /// The model, as the command line names it.
    pub model: String,
    pub model_filename: String,
    pub model_type: String,
    /// Bytes of all tensors.
    pub model_size: u64,
    pub model_n_params: u64,
    /// Whether the weights are random.
    pub synthetic: bool,
    /// Tokens that are read at a time.
    pub n_ubatch: usize,
    pub n_threads: usize,
    pub type_k: &'static str,
    pub type_v: &'static str,
    pub n_prompt: usize,
    pub n_gen: usize,
    pub n_depth: usize,
    /// Sequences that generate together; rates are those of all of them.
    pub n_parallel: usize,
    pub test_time: String,
    pub avg_ns: u64,
    pub stddev_ns: u64,
    pub avg_ts: f64,
    pub stddev_ts: f64,
    /// Tokens per second of the median repetition.
    pub median_ts: f64,
    /// `avg_ts / n_parallel`: tokens per second of one sequence.
    pub sequence_ts: f64,
    pub samples_ns: Vec<u64>,
    pub samples_ts: Vec<f64>,
    /// Tokens per second that the limits of this machine allow.
    pub limit_ts: f64,
    /// `avg_ts / limit_ts`.
    pub share_of_limit: f64,
    /// Most physical memory of the process in this test, in bytes; nothing where the system does not tell.
    pub peak_rss: Option<u64>,
    /// What the process was planned to have at most: weights, cache, what a batch needs, and the program.
    pub plan_bytes: u64,
    /// Of these, the key/value cache and states.
    pub plan_cache_bytes: u64,
    /// Of these, what the workers need for a batch.
    pub plan_batch_bytes: u64,
    /// `plan_bytes / peak_rss - 1`.
    pub plan_error: Option<f64>,
    /// Milliseconds to open the model and get a context ready.
    pub load_ms: f64,
    /// Milliseconds to the first logits: after the prompt, or after one token where there is no prompt.
    pub ttft_ms: f64,
    /// Instruction set level.
    pub isa: &'static str,
    pub device: &'static str,
    /// Each format of the weights, and the level that its kernel is written for, for many tokens where there is a prompt;
    /// whether it is slower than those of others: `Q4_K:avx512vnni Q6_K:avx2:slow`.
    pub kernels: String,
    /// What held the test back: memory bandwidth, arithmetic, threads or overhead.
    pub bound: &'static str,
    /// 10^9 bytes of weights, keys and values read per second.
    pub read_gbs: f64,
    /// 10^9 operations per second.
    pub gops: f64,
    /// Read bandwidth of this machine with these threads.
    pub limit_read_gbs: f64,
    /// Int8 operations per second (10^9) of this machine with these threads.
    pub limit_int8_gops: f64,
    /// f32 operations per second (10^9) of this machine with these threads.
    pub limit_f32_gops: f64,
    /// Page faults in all repetitions.
    pub minor_faults: Option<u64>,
    /// Those of them that waited for a disk.
    pub major_faults: Option<u64>,
    /// Share of the threads' time in which they waited for a CPU.
    pub cpu_wait_share: Option<f64>,
}

/// What a result is made of.
pub struct Measured<'a> {
    pub loaded: &'a Loaded,
    pub cpu: &'a str,
    pub test: &'a Test,
    pub n_threads: usize,
    pub kv: KvTypes,
    pub time: jiff::Timestamp,
    pub runs: &'a Runs,
    pub stats: Stats,
    pub peak_rss: Option<u64>,
    pub peaks: Peaks,
    pub limit: Limit,
    pub reached: Reached,
}

impl Row {
    /// The result of a test.
    pub fn new(m: &Measured<'_>) -> Row {
        let (model, test) = (&m.loaded.model, m.test);
        let gguf = model.gguf();
        // a bench makes no tokenizer
        let (plan, plan_bytes) = (&m.runs.plan, m.runs.plan.without_tokenizer());
        let limit_ts = test.n_tokens() as f64 / m.limit.seconds;
        let many = test.n_prompt > 0;
        let slow = model.slow_formats(many);
        let kernels = model.formats(many).into_iter().map(|kernel| {
            let (ty, isa) = kernel;
            format!("{ty}:{isa}{}", if slow.contains(&kernel) { ":slow" } else { "" })
        });
        let kernels: Vec<_> = kernels.collect();
        let Stats { samples_ns, samples_ts, avg_ns, stddev_ns, avg_ts, stddev_ts, median_ts } =
            m.stats.clone();
        Row {
            build_commit: env!("BRAISE_COMMIT"),
            cpu_info: m.cpu.to_owned(),
            backends: "CPU",
            model: m.loaded.name.clone(),
            model_filename: gguf.path().display().to_string(),
            model_type: model_type(model),
            model_size: gguf.tensors().iter().map(|t| t.n_bytes() as u64).sum(),
            model_n_params: n_params(model),
            synthetic: m.loaded.synthetic,
            n_ubatch: default_chunk(model.spec()),
            n_threads: m.n_threads,
            type_k: m.kv.k.name(),
            type_v: m.kv.v.name(),
            n_prompt: test.n_prompt,
            n_gen: test.n_gen,
            n_depth: test.n_depth,
            n_parallel: test.n_parallel,
            test_time: m.time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
            avg_ns,
            stddev_ns,
            avg_ts,
            stddev_ts,
            median_ts,
            sequence_ts: avg_ts / test.n_parallel as f64,
            samples_ns,
            samples_ts,
            limit_ts,
            share_of_limit: avg_ts / limit_ts,
            peak_rss: m.peak_rss,
            plan_bytes,
            plan_cache_bytes: plan.keys_and_values().saturating_add(plan.states()),
            plan_batch_bytes: plan.activations.saturating_add(plan.scratch),
            plan_error: m.peak_rss.filter(|peak| *peak > 0).map(|peak| plan_bytes as f64 / peak as f64 - 1.0),
            load_ms: (m.loaded.load + m.runs.start).as_secs_f64() * 1e3,
            ttft_ms: m.runs.first_token.as_secs_f64() * 1e3,
            isa: model.kernels().isa().name(),
            device: "cpu",
            kernels: kernels.join(" "),
            bound: m.reached.bound.name(),
            read_gbs: m.reached.bytes * 1e-9,
            gops: m.reached.ops * 1e-9,
            limit_read_gbs: m.peaks.read * 1e-9,
            limit_int8_gops: m.peaks.int8 * 1e-9,
            limit_f32_gops: m.peaks.f32 * 1e-9,
            minor_faults: m.runs.usage.minor_faults,
            major_faults: m.runs.usage.major_faults,
            cpu_wait_share: m.reached.waited,
        }
    }

    /// The test, as llama-bench names it.
    pub fn test(&self) -> Test {
        Test {
            n_prompt: self.n_prompt,
            n_gen: self.n_gen,
            n_depth: self.n_depth,
            n_parallel: self.n_parallel,
        }
    }
}

/// Weights in all tensors.
fn n_params(model: &Model) -> u64 {
    model.gguf().tensors().iter().map(|t| (t.rows() as u64).saturating_mul(t.row_len() as u64)).sum()
}

/// Architecture, size and quantization, such as `llama 1.24 B Q4_K_M`.
fn model_type(model: &Model) -> String {
    let file_type = model.gguf().metadata().u32("general.file_type").ok().flatten();
    let quant = match file_type.and_then(Mix::by_file_type) {
        Some(mix) => mix.name(),
        // files that do not say it: the type that takes most bytes
        None => {
            let bytes = |t: &&TensorInfo| -> usize {
                model.gguf().tensors().iter().filter(|other| other.ty == t.ty).map(TensorInfo::n_bytes).sum()
            };
            model.gguf().tensors().iter().max_by_key(bytes).map_or("", |t| t.ty.name())
        }
    };
    format!("{} {} {quant}", model.spec().arch, count(n_params(model)))
}

/// A number of weights, as llama-bench prints it.
pub fn count(n: u64) -> String {
    if n < 1_000_000_000 { format!("{:.2} M", n as f64 * 1e-6) } else { format!("{:.2} B", n as f64 * 1e-9) }
}
