//! One result: a test of a model on so many threads, or on a GPU.

use braise_engine::gguf::TensorInfo;
use braise_engine::kv::KvTypes;
use braise_engine::measure::{Limit, Mix, Reached, Runs, Stats, Test};
use braise_engine::model::Model;
use braise_engine::sequences::Planned;
use braise_engine::session::default_chunk;
use serde::Serialize;

use super::source::Loaded;
use super::{Can, Share, Where};

/// A result. What llama-bench reports too has its name there; the other names are explained at the fields.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub build_commit: &'static str,
    pub cpu_info: String,
    /// The GPU that computed; nothing where the CPU did.
    pub gpu_info: String,
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
    /// None where a GPU computed.
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
    /// Bytes of a GPU's memory that were taken at the end of this test, by all that ran there; nothing on the CPU.
    pub device_bytes: Option<u64>,
    /// What was planned to be taken at most, of the GPU's memory where that computed: weights, cache, what a batch needs, and
    /// the program or the driver.
    pub plan_bytes: u64,
    /// Of these, the key/value cache and states.
    pub plan_cache_bytes: u64,
    /// Of these, what a batch needs.
    pub plan_batch_bytes: u64,
    /// `plan_bytes / peak_rss - 1`, or `plan_bytes / device_bytes - 1`.
    pub plan_error: Option<f64>,
    /// Milliseconds to open the model and get a context ready.
    pub load_ms: f64,
    /// Milliseconds to the first logits: after the prompt, or after one token where there is no prompt.
    pub ttft_ms: f64,
    /// Instruction set level.
    pub isa: &'static str,
    /// `cpu` or `cuda:N`; several with `+` between.
    pub device: String,
    /// Which parts of the model are where, and why; nothing where all are on one device.
    pub split: String,
    /// Each of several devices, and what share of the time at the limit is its: `cpu=0.62 cuda:0=0.38`.
    pub limit_shares: String,
    /// Each format of the weights, and the level that its kernel is written for, for many tokens where there is a prompt;
    /// whether it is slower than those of others: `Q4_K:avx512vnni Q6_K:avx2:slow`.
    pub kernels: String,
    /// What held the test back: memory bandwidth, arithmetic, threads or overhead.
    pub bound: &'static str,
    /// 10^9 bytes of weights, keys and values read per second.
    pub read_gbs: f64,
    /// 10^9 operations per second.
    pub gops: f64,
    /// Read bandwidth of this machine with these threads, or copy bandwidth of the GPU's memory.
    pub limit_read_gbs: f64,
    /// The same of the weights where they lie, which is less where their pages are small or far away; nothing where a GPU
    /// computed, or if they are more than the free memory.
    pub weights_read_gbs: Option<f64>,
    /// Int8 operations per second (10^9) of this machine with these threads; nothing where a GPU computed.
    pub limit_int8_gops: Option<f64>,
    /// f32 operations per second (10^9) of this machine with these threads; nothing where a GPU computed.
    pub limit_f32_gops: Option<f64>,
    /// bf16 operations per second (10^9) of the GPU's tensor cores, where it has such.
    pub limit_bf16_gops: Option<f64>,
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
    pub on: &'a Where,
    pub cpu: &'a str,
    pub test: &'a Test,
    pub n_threads: usize,
    pub kv: KvTypes,
    pub time: jiff::Timestamp,
    pub runs: &'a Runs,
    pub stats: Stats,
    pub peak_rss: Option<u64>,
    pub weights_read: Option<f64>,
    pub shares: &'a [Share],
    pub limit: Limit,
    pub reached: Reached,
}

impl Row {
    /// The result of a test.
    pub fn new(m: &Measured<'_>) -> Row {
        let (model, test) = (&m.loaded.model, m.test);
        let gguf = model.gguf();
        let plan = Bytes::of(&m.runs.plan);
        let gpus = m.on.gpus();
        let taken = taken(m.n_threads, !gpus.is_empty(), m.peak_rss, m.runs.device_bytes);
        let devices: Vec<&str> = m.shares.iter().map(|share| share.device.as_str()).collect();
        let of_cpu = m.shares.iter().find_map(|share| match share.can {
            Can::Cpu(peaks) => Some(peaks),
            Can::Gpu(_) => None,
        });
        let bf16 = m.shares.iter().find_map(|share| match share.can {
            Can::Gpu(peaks) => peaks.bf16,
            Can::Cpu(_) => None,
        });
        let read = match m.shares {
            [alone] => alone.can.peaks().read,
            // what they reach together, one after the other
            _ => m.limit.bytes as f64 / m.limit.memory,
        };
        let limit_shares = match m.shares {
            [_] => String::new(),
            several => {
                let share = |of: &Share| format!("{}={:.2}", of.device, of.limit.seconds / m.limit.seconds);
                several.iter().map(share).collect::<Vec<_>>().join(" ")
            }
        };
        let split = match m.on {
            Where::Split(split) => split.to_string(),
            Where::Cpu | Where::Gpu(..) => String::new(),
        };
        let limit_ts = test.n_tokens() as f64 / m.limit.seconds;
        let many = test.n_prompt > 0;
        let slow = model.slow_formats(many);
        let kernels = model.formats(many).into_iter().map(|kernel| {
            let (ty, isa) = kernel;
            match m.on {
                Where::Cpu => format!("{ty}:{isa}{}", if slow.contains(&kernel) { ":slow" } else { "" }),
                Where::Gpu(..) => format!("{ty}:cuda"),
                Where::Split(_) if m.n_threads == 0 => format!("{ty}:cuda"),
                Where::Split(_) => format!("{ty}:{isa}+cuda"),
            }
        });
        let kernels: Vec<_> = kernels.collect();
        let Stats { samples_ns, samples_ts, avg_ns, stddev_ns, avg_ts, stddev_ts, median_ts } =
            m.stats.clone();
        Row {
            build_commit: env!("BRAISE_COMMIT"),
            cpu_info: m.cpu.to_owned(),
            backends: match (m.n_threads > 0, gpus.is_empty()) {
                (_, true) => "CPU",
                (false, false) => "CUDA",
                (true, false) => "CPU+CUDA",
            },
            gpu_info: gpus,
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
            device_bytes: m.runs.device_bytes,
            plan_bytes: plan.all,
            plan_cache_bytes: plan.cache,
            plan_batch_bytes: plan.batch,
            plan_error: taken.filter(|taken| *taken > 0).map(|taken| plan.all as f64 / taken as f64 - 1.0),
            load_ms: (m.loaded.load + m.runs.start).as_secs_f64() * 1e3,
            ttft_ms: m.runs.first_token.as_secs_f64() * 1e3,
            isa: model.kernels().isa().name(),
            device: devices.join("+"),
            split,
            limit_shares,
            kernels: kernels.join(" "),
            bound: m.reached.bound.name(),
            read_gbs: m.reached.bytes * 1e-9,
            gops: m.reached.ops * 1e-9,
            limit_read_gbs: read * 1e-9,
            weights_read_gbs: m.weights_read.map(|read| read * 1e-9),
            limit_int8_gops: of_cpu.map(|peaks| peaks.int8 * 1e-9),
            limit_f32_gops: of_cpu.map(|peaks| peaks.f32 * 1e-9),
            limit_bf16_gops: bf16.map(|bf16| bf16 * 1e-9),
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

/// The most memory that was taken where a test ran: on the CPU, on GPUs, or both together.
pub fn taken(n_threads: usize, on_gpu: bool, rss: Option<u64>, device_bytes: Option<u64>) -> Option<u64> {
    match (n_threads > 0, on_gpu) {
        (_, false) => rss,
        (false, true) => device_bytes,
        (true, true) => rss.zip(device_bytes).map(|(rss, bytes)| rss.saturating_add(bytes)),
    }
}

/// Bytes of a plan.
#[derive(Default)]
struct Bytes {
    all: u64,
    cache: u64,
    batch: u64,
}

impl Bytes {
    fn of(plan: &Planned) -> Bytes {
        let gpus =
            plan.gpus.iter().map(|gpu| Bytes { all: gpu.total(), cache: gpu.cache, batch: gpu.activations });
        // a bench makes no tokenizer
        let machine = plan.machine.iter().map(|plan| Bytes {
            all: plan.without_tokenizer(),
            cache: plan.keys_and_values().saturating_add(plan.states()),
            batch: plan.activations.saturating_add(plan.scratch),
        });
        machine.chain(gpus).fold(Bytes::default(), |sum, of| Bytes {
            all: sum.all.saturating_add(of.all),
            cache: sum.cache.saturating_add(of.cache),
            batch: sum.batch.saturating_add(of.batch),
        })
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
