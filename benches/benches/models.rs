//! Models by hardware tier: prefill and decode of each tier's representative model (`models.toml`) on this machine, on
//! as many threads as braise takes by itself, with random weights, whose speed is that of real ones.
//!
//! A model may take half of the memory that is available. Of a larger one fewer layers have weights of their own and
//! the others repeat them, which the output says; what is read and computed for a token stays the same. Below
//! criterion's estimate stand the median rate and its share of the limit, measured just before and after.
//!
//! `cargo bench -p braise-benches --bench models -- '3B-7B'` runs the tiers that match. All of them take about ten
//! minutes on two cores.

use std::cell::LazyCell;
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use braise_benches::is_test;
use braise_engine::Result;
use braise_engine::catalogue::{Catalogue, Tier};
use braise_engine::kv::KvTypes;
use braise_engine::measure::{Cost, Limit, Mix, Pass, Peaks, Shape, Stats, Test, synthetic_repeating};
use braise_engine::model::Model;
use braise_engine::session::{Logits, MAX_CHUNK, Session, SessionOptions};
use braise_kernels::isa::Isa;
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use sysinfo::{MemoryRefreshKind, RefreshKind, System};

/// One chunk of a prompt, and a few tokens: more would take hours with the largest models.
const TESTS: [(&str, Test); 2] = [
    ("prefill", Test { n_prompt: MAX_CHUNK, n_gen: 0, n_depth: 0, n_parallel: 1 }),
    ("decode", Test { n_prompt: 0, n_gen: 8, n_depth: 0, n_parallel: 1 }),
];

/// A tier's model in memory.
struct Loaded {
    model: Model,
    distinct_layers: usize,
    /// The most memory that measurements may take.
    available: u64,
}

impl Loaded {
    /// `None` if not even one layer of each kind fits the memory.
    fn new(name: &str, shape: &Shape, mix: Mix) -> Result<Option<Loaded>> {
        let available = available_memory();
        let Some(distinct_layers) = shape.distinct_layers(mix, available / 2)? else { return Ok(None) };
        let gguf = synthetic_repeating(name, shape, mix, distinct_layers)?;
        let model = Model::new(gguf, Isa::best())?;
        Ok(Some(Loaded { model, distinct_layers, available: available / 4 }))
    }

    /// Says what is not as in the whole model.
    fn note(&self) -> String {
        let layers = self.model.spec().layers.len();
        if is_test() {
            return format!(" of {layers} tiny layers that stand for the model");
        }
        if self.distinct_layers == layers {
            return String::new();
        }
        format!(
            "; {} of {layers} layers have weights of their own, the others repeat them",
            self.distinct_layers
        )
    }

    /// What the machine can do now.
    fn peaks(&self, threads: usize) -> Result<Peaks> {
        let bytes = Cost::of_pass(&self.model, KvTypes::default(), Pass::TOKEN).bytes;
        Peaks::measure(self.model.kernels(), threads, bytes, self.available)
    }
}

/// Memory that can be had without swapping, in bytes.
fn available_memory() -> u64 {
    let refresh = RefreshKind::nothing().with_memory(MemoryRefreshKind::nothing().with_ram());
    System::new_with_specifics(refresh).expect("the system tells its memory").available_memory()
}

/// The same kind of shape, as small as a test needs it.
fn shrunk(shape: Shape) -> Shape {
    let kv_heads = 1;
    Shape {
        layers: 4,
        dim: 256,
        ffn: 512,
        heads: shape.heads / shape.kv_heads,
        kv_heads,
        vocab: 512,
        ..shape
    }
}

/// A test that is being measured.
struct Bench<'a> {
    loaded: &'a Loaded,
    test: Test,
    session: Session<'a>,
    before: Peaks,
    samples: Vec<Duration>,
}

impl<'a> Bench<'a> {
    fn new(loaded: &'a Loaded, test: Test) -> Result<Bench<'a>> {
        let options = SessionOptions { n_ctx: Some(test.n_ctx()), ..Default::default() };
        let session = Session::new(&loaded.model, &options)?;
        let before = loaded.peaks(session.threads())?;
        Ok(Bench { loaded, test, session, before, samples: Vec::new() })
    }

    /// Reads a prompt, or tokens one by one, from the beginning.
    fn pass(&mut self) -> Result<()> {
        self.session.truncate(0);
        let tokens: Vec<u32> = (0..self.test.n_tokens() as u32).collect();
        let at_once = if self.test.n_prompt > 0 { tokens.len() } else { 1 };
        let begin = Instant::now();
        for tokens in tokens.chunks(at_once) {
            self.session.eval(tokens, Logits::Last, &mut |_, _| ControlFlow::Continue(()))?;
        }
        self.samples.push(begin.elapsed());
        Ok(())
    }

    /// The rate, and its share of the limit.
    fn report(&self) -> Result<String> {
        let Bench { loaded, test, session, before, samples } = self;
        let limit = Limit::of(
            &loaded.model,
            KvTypes::default(),
            test,
            &before.best(loaded.peaks(session.threads())?),
        );
        let rate = Stats::of(samples, test.n_tokens()).median_ts;
        let share = rate * limit.seconds / test.n_tokens() as f64;
        let threads = session.threads();
        Ok(format!(
            "{test} on {threads} threads: {rate:.1} tokens/s, {share:.2} of the limit{}",
            loaded.note()
        ))
    }
}

/// Both tests of a tier's model, which is made when a test is not filtered out.
fn bench(c: &mut Criterion, catalogue: &Catalogue, tier: &Tier) {
    let (entry, mix) = catalogue.representative(tier).expect("was checked");
    let name = format!("{}:{}:{}", entry.family, entry.size, mix.name());
    let shape = if is_test() { shrunk(entry.synthetic_shape()) } else { entry.synthetic_shape() };
    let loaded = LazyCell::new(|| Loaded::new(&name, &shape, mix).expect("can be made"));
    for (kind, test) in TESTS {
        let (mut bench, mut too_large) = (None, false);
        let mut group = c.benchmark_group("model");
        group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Elements(test.n_tokens() as u64));
        group.bench_function(format!("{}/{name}/{kind}", tier.name), |b| {
            let Some(loaded) = &*loaded else {
                too_large = true;
                return b.iter(|| ());
            };
            let bench = bench.get_or_insert_with(|| Bench::new(loaded, test).expect("starts"));
            b.iter(|| bench.pass().expect("runs"));
        });
        group.finish();
        if let Some(bench) = &bench {
            println!("{}, {name}: {}\n", tier.name, bench.report().expect("was measured before"));
        } else if too_large {
            println!("{}, {name}: skipped: there is too little memory\n", tier.name);
        }
    }
}

fn models(c: &mut Criterion) {
    let catalogue = Catalogue::built_in().expect("is sound");
    for tier in catalogue.tiers() {
        bench(c, &catalogue, tier);
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(1))
        .measurement_time(Duration::from_millis(100));
    targets = models
}
criterion_main!(benches);
