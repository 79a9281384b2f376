//! What is planned is what is taken: the cache of every family, and what windows spare.

use braise_engine::kv::KvTypes;
use braise_engine::measure::{Cost, Pass};
use braise_engine::model::Model;
use braise_engine::plan::{DevicePlan, Outline, Request};
use braise_engine::sequences::{Capacity, Sequences};
use braise_engine::session::{Session, SessionOptions};
use braise_kernels::cuda::Device;
use braise_kernels::isa::Isa;
use braise_kernels::ops::KvType;
use braise_tests::families::{names, write};
use braise_tests::interpreter::Interpreter;

fn model(name: &str) -> Model {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    write(name, file.path());
    Model::open(file.path(), Isa::best()).expect("the model opens")
}

#[test]
fn every_family_takes_the_cache_that_was_planned() {
    let names = names();
    for name in &names {
        let model = model(name);
        let outline = Outline::of(&model);
        for (n_ctx, chunk, k, v) in
            [(256, 64, KvType::F16, KvType::F16), (4096, 100, KvType::Q8_0, KvType::F16)]
        {
            let spec = model.spec();
            let bounded = spec.is_encoder() || spec.embedding.positions;
            let n_ctx = if bounded { spec.n_ctx.min(n_ctx) } else { n_ctx };
            let kv = KvTypes { k, v };
            let options = SessionOptions { n_ctx: Some(n_ctx), threads: Some(2), chunk: Some(chunk), kv };
            let session = Session::new(&model, &options).expect("a session");
            let request = Request { n_ctx, n_seq: 1, tokens: None, chunk: Some(chunk), kv, threads: 2 };
            let plan = outline.plan(&request).expect("few bytes");
            let planned = plan.keys_and_values() + plan.states();
            assert_eq!(planned, session.cache_bytes(), "{name}, a context of {n_ctx}");
            assert!(planned > 0 && plan.activations > 0 && plan.scratch > 0, "{name}: {plan:?}");
            assert!(plan.weights >= model.gguf().bytes(), "{name}: {plan:?}");
            assert_eq!(plan.cache.len(), spec.layers.len(), "{name}");
        }
    }
    assert!(names.len() > 80, "{} families", names.len());
}

/// On a GPU with just the memory that was planned, all is taken, and with less nothing.
#[test]
fn what_is_planned_of_a_gpu_is_what_is_taken() {
    use KvType::{F16, Q8_0};
    let request = |n_ctx, n_seq, tokens, k, v| Request {
        n_ctx,
        n_seq,
        tokens,
        chunk: Some(64),
        kv: KvTypes { k, v },
        threads: 1,
    };
    let requests = [
        request(100, 1, None, F16, F16),
        request(2000, 1, None, Q8_0, F16),
        request(2000, 3, Some(3000), Q8_0, Q8_0),
        request(1500, 16, None, F16, Q8_0),
        request(300, 64, Some(9000), F16, F16),
    ];
    // windows, slopes, compressed keys, states, and experts
    for name in ["llama", "gemma3", "jais", "deepseek2", "falcon-h1", "kimi-linear", "qwen3moe"] {
        let mut model = model(name);
        let properties = Interpreter::default().properties().clone();
        let weights = model.move_to(Box::new(Interpreter::default())).expect("there is room");
        for request in requests {
            let outline = Outline::of(&model);
            let plan = outline.on_device(&request, &properties).expect("few bytes");
            let sequences = plan.cache + plan.activations;
            let options = SessionOptions {
                n_ctx: Some(request.n_ctx),
                threads: Some(1),
                chunk: request.chunk,
                kv: request.kv,
            };
            let capacity = Capacity { sequences: request.n_seq, tokens: request.tokens };
            for (spare, fits) in [(0, true), (1, false)] {
                let total = weights + sequences as usize - spare;
                model.move_to(Box::new(Interpreter::of_memory(total))).expect("the weights fit");
                let all = Sequences::new(&model, capacity, &options);
                assert_eq!(all.is_ok(), fits, "{name}, {request:?}: {plan:?}");
                let Ok(all) = all else { continue };
                let planned = &all.plan().gpus[..];
                assert_eq!(planned, [DevicePlan { weights: weights as u64, ..plan }], "{name}, {request:?}");
                assert_eq!(all.cache_bytes(), sequences, "{name}, {request:?}");
                assert!(all.plan().machine.is_none());
            }
        }
    }
}

/// gpt-oss: the first of two layers sees 32 positions, the second one all.
#[test]
fn a_token_reads_of_a_window_what_it_sees() {
    let model = model("gpt-oss");
    let kv = KvTypes::default();
    let cost = |first, n| Cost::of_pass(&model, kv, Pass { n_seq: 1, first, n, n_logits: 0 });
    let of_position = kv.bytes(&model.spec().layers[0].mixer.attention().expect("attends").heads);
    let of_position = of_position.expect("few bytes") as u64;
    assert_eq!(cost(99, 1).bytes - cost(9, 1).bytes, of_position * (90 + 22));
    assert_eq!(cost(999, 1).bytes - cost(99, 1).bytes, of_position * 900);
    // of each head a query times a key, and a weight times a value
    let ops = |first, n| cost(first, n).f32_ops + cost(first, n).int8_ops;
    assert_eq!(ops(999, 1) - ops(99, 1), 900 * 2 * 4 * (64 + 64));
}

/// Mamba attends to nothing: a token reads the states, however many were before.
#[test]
fn states_are_read_once_a_pass() {
    let model = model("mamba");
    let states: usize =
        model.spec().layers.iter().flat_map(|l| l.mixer.states()).map(|(rows, len)| rows * len * 4).sum();
    let pass = |first| Pass { n_seq: 1, first, n: 1, n_logits: 0 };
    let cost = |first| Cost::of_pass(&model, KvTypes::default(), pass(first)).bytes;
    assert!(states > 0 && cost(0) == cost(1000) && cost(0) > states as u64);
}
