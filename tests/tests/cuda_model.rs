//! Whole models on the CUDA backend against the CPU backend, in an interpreter of the very PTX that a driver loads: models of
//! all families, quantized weights and caches, windows that forget, graphs.
//!
//! Few tokens are multiplied in the numbers of the CPU, in another order. Many are rounded to bf16: of each product both
//! operands, by at most 2^-9 of a number and so 2^-9 / sqrt(3) in the mean, which makes its error 2 * 2^-18 / 3 = 2.5e-6 of
//! its mean square. In a tiny model's four layers some sixteen such products follow each other, and attention in half
//! precision; scores that are exponents, and norms, make more of it.

use std::ops::ControlFlow;

use braise_engine::backend::cuda;
use braise_engine::block::{Mlp, Pooling};
use braise_engine::kv::{KvCache, KvTypes};
use braise_engine::model::Model;
use braise_engine::session::{Logits, Session, SessionOptions};
use braise_kernels::isa::Isa;
use braise_kernels::ops::KvType;
use braise_kernels::quant::Type;
use braise_tests::checkkern::cuda::Interpreter;
use braise_tests::families::{names, tokens, write, write_with};
use braise_tests::tiny;
use tempfile::NamedTempFile;

/// Largest error (NMSE) of few tokens, whose keys and values are in half precision on both sides.
const FEW: f64 = 1e-8;

/// Largest error of many tokens, and of those that see their keys and values: sixteen products, see above, ten times that.
const MANY: f64 = 4e-4;

/// Largest error of few tokens where weights are quantized: activations that lie between two steps of their eight bits may
/// be rounded to either, and then are off by 1/254 of their block's range.
const QUANTIZED: f64 = 1e-6;

/// The recipes of models that do not run on a GPU, and why.
const CPU_ONLY: &[(&str, &str)] = &[
    ("deepseek2", "latent attention"),
    ("deepseek2-fused", "latent attention"),
    ("deepseek2-lite", "latent attention"),
    ("deepseek2-yarn", "latent attention"),
    ("deepseek2-yarn-plain", "latent attention"),
    ("falcon-h1", "state spaces"),
    ("gemma4", "what layers get of each token besides"),
    ("granitehybrid", "state spaces"),
    ("jamba", "state spaces"),
    ("kimi-linear", "delta nets"),
    ("lfm2", "short convolutions"),
    ("lfm2moe", "short convolutions"),
    ("llama4", "experts whose inputs are weighed"),
    ("mamba", "state spaces"),
    ("mamba-norms", "state spaces"),
    ("mamba2", "state spaces"),
    ("mistral4", "latent attention"),
    ("nemotron_h", "state spaces"),
    ("nemotron_h_moe", "state spaces"),
    ("qwen35", "delta nets"),
    ("qwen35moe", "delta nets"),
    ("qwen3next", "delta nets"),
    ("qwen3next-fused", "delta nets"),
];

fn options(chunk: usize) -> SessionOptions {
    SessionOptions { threads: Some(1), chunk: Some(chunk), n_ctx: Some(128), ..SessionOptions::default() }
}

fn on_device(mut model: Model) -> Model {
    model.move_to(Box::new(Interpreter::default())).expect("there is room");
    model
}

fn session<'m>(model: &'m Model, options: &SessionOptions) -> Session<'m> {
    Session::new(model, options).expect("a session")
}

/// Mean squared error, normalized by the mean square of `exact`.
fn nmse(exact: &[f32], got: &[f32]) -> f64 {
    assert_eq!(exact.len(), got.len());
    let error: f64 = exact.iter().zip(got).map(|(e, g)| (f64::from(*e) - f64::from(*g)).powi(2)).sum();
    error / exact.iter().map(|e| f64::from(*e).powi(2)).sum::<f64>()
}

fn eval(session: &mut Session<'_>, tokens: &[u32], which: Logits) -> Vec<f32> {
    let mut all = Vec::new();
    let mut sink = |_, logits: &[f32]| {
        all.extend(logits);
        ControlFlow::Continue(())
    };
    session.eval(tokens, which, &mut sink).expect("the tokens are read");
    all
}

fn bits(logits: Vec<f32>) -> Vec<u32> {
    logits.into_iter().map(f32::to_bits).collect()
}

/// The logits after a long prompt, and of three tokens after it; and those of four tokens of a new text, one by one and two
/// at a time.
fn long_and_short(model: &Model, tokens: &[u32], options: &SessionOptions) -> [Vec<f32>; 2] {
    let mut long = session(model, options);
    let mut of_long = eval(&mut long, &tokens[..40], Logits::Last);
    of_long.extend(eval(&mut long, &tokens[40..43], Logits::All));
    let mut short = session(model, options);
    let parts = [&tokens[..1], &tokens[1..2], &tokens[2..4]];
    [of_long, parts.iter().flat_map(|tokens| eval(&mut short, tokens, Logits::All)).collect()]
}

/// The embeddings of a long and a short text.
fn embeddings(model: &Model, tokens: &[u32]) -> [Vec<f32>; 2] {
    let mut session = session(model, &options(64));
    let mut all = |tokens: &[u32]| {
        let embed = |pooling| session.embed(tokens, pooling).expect("an embedding");
        [Pooling::Mean, Pooling::First].map(embed).concat()
    };
    [all(&tokens[..40]), all(&tokens[..5])]
}

/// Errors of the recipe `name` with many tokens and with few; or why it does not run.
fn errors(name: &str) -> Result<[f64; 2], String> {
    let file = NamedTempFile::new().expect("a temporary file");
    let open = || Model::open(file.path(), Isa::Portable).expect("a model");
    write(name, file.path());
    let few = open();
    if let Some(what) = cuda::unsupported(few.spec(), (8, 0)) {
        return Err(what);
    }
    let tokens = tokens(few.spec().n_vocab);
    let n_expert = few.spec().layers.iter().find_map(|layer| match &layer.mlp {
        Mlp::Experts(experts) => Some(experts.n_expert),
        Mlp::Both(both) => Some(both.experts.n_expert),
        Mlp::Dense(_) | Mlp::Nothing => None,
    });
    let error = |model: Model, which: usize| {
        let results = |model: &Model| match model.spec().is_encoder() {
            true => embeddings(model, &tokens),
            false => long_and_short(model, &tokens, &options(64)),
        };
        let want = results(&model);
        nmse(&want[which], &results(&on_device(model))[which])
    };
    let few = error(few, 1);
    // all experts of all groups: else the roundings of many tokens choose others
    if let Some(n) = n_expert.map(|n| n.to_string()) {
        let all = [("expert_used_count", n.as_str()), ("expert_group_used_count", "4")];
        write_with(name, Type::F32, &all, file.path());
    }
    Ok([error(open(), 0), few])
}

/// Checks every second recipe from `first` on: two tests of this share the machine's cores.
fn check_families(first: usize) {
    let mut failed = Vec::new();
    for name in names().iter().skip(first).step_by(2) {
        let want = CPU_ONLY.iter().find(|(of, _)| of == name).map(|(_, why)| *why);
        match (errors(name), want) {
            (Err(why), Some(want)) if why == want => println!("{name}: on the CPU, no {why}"),
            (Ok([many, few]), None) => {
                println!("{name}: {many:.1e} and {few:.1e}");
                if !(many <= MANY && few <= FEW) {
                    failed.push(format!("{name}: NMSE {many:.1e} of many tokens, {few:.1e} of few"));
                }
            }
            (got, want) => failed.push(format!("{name}: {got:?}, but the table says {want:?}")),
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn families_agree_with_the_cpu() {
    check_families(0);
}

#[test]
fn the_other_families_agree_with_the_cpu() {
    check_families(1);
}

/// A small model with weights of several types, some in one layer, with biases and scales.
fn quantized(file: &NamedTempFile) -> Model {
    let shape = tiny::Shape {
        n_embd: 256,
        head_dim: 64,
        head_dim_v: 64,
        rope_dims: 64,
        n_ff: 512,
        ty: Type::Q4_K,
        types: &[("attn_k", Type::Q6_K), ("ffn_up", Type::Q5_0), ("ffn_down", Type::Q8_0)],
        tied: true,
        bias: true,
        scale: true,
        ..tiny::BASE
    };
    tiny::write(&shape, 5, file.path());
    Model::open(file.path(), Isa::Portable).expect("a model")
}

#[test]
fn quantized_weights_and_caches_agree_with_the_cpu() {
    let file = NamedTempFile::new().expect("a temporary file");
    let kv = |k, v| SessionOptions { kv: KvTypes { k, v }, ..options(64) };
    for options in [options(64), kv(KvType::Q8_0, KvType::Q8_0), kv(KvType::F16, KvType::Q8_0)] {
        let model = quantized(&file);
        let tokens = tokens(model.spec().n_vocab);
        let [long, short] = long_and_short(&model, &tokens, &options);
        let got = long_and_short(&on_device(model), &tokens, &options);
        // the CPU rounds the activations of many tokens to eight bits
        let errors = [nmse(&long, &got[0]), nmse(&short, &got[1])];
        println!("{:?}: {:.1e} and {:.1e}", options.kv, errors[0], errors[1]);
        assert!(errors[0] <= MANY && errors[1] <= QUANTIZED, "{:?}: {errors:?}", options.kv);
    }
}

#[test]
fn gpus_without_tensor_cores_agree_with_the_cpu() {
    let file = NamedTempFile::new().expect("a temporary file");
    let mut model = quantized(&file);
    let tokens = tokens(model.spec().n_vocab);
    let want = eval(&mut session(&model, &options(64)), &tokens[..12], Logits::All);
    model.move_to(Box::new(Interpreter::of_compute((7, 5)))).expect("there is room");
    let got = eval(&mut session(&model, &options(64)), &tokens[..12], Logits::All);
    let error = nmse(&want, &got);
    println!("{error:.1e}");
    assert!(error <= QUANTIZED, "NMSE {error:.1e}");
}

/// One by one the first token is launched, the second captured, and the others replayed; together all are launched.
#[test]
fn a_graph_computes_what_launches_do_to_the_bit() {
    let file = NamedTempFile::new().expect("a temporary file");
    let model = on_device(quantized(&file));
    let tokens = &tokens(model.spec().n_vocab)[..5];
    let mut one_by_one = session(&model, &options(64));
    let single: Vec<f32> =
        tokens.iter().flat_map(|token| eval(&mut one_by_one, &[*token], Logits::All)).collect();
    let together = eval(&mut session(&model, &options(64)), tokens, Logits::All);
    assert_eq!(bits(single), bits(together));
}

#[test]
fn forgotten_tokens_leave_no_trace() {
    let file = NamedTempFile::new().expect("a temporary file");
    let model = on_device(quantized(&file));
    let tokens = tokens(model.spec().n_vocab);
    let read = |session: &mut Session<'_>, parts: &[&[u32]]| {
        parts.iter().fold(Vec::new(), |_, tokens| eval(session, tokens, Logits::Last))
    };
    let mut other = session(&model, &options(64));
    read(&mut other, &[&tokens[50..64], &tokens[3..5], &tokens[2..3]]);
    other.truncate(0);
    read(&mut other, &[&tokens[..10], &tokens[30..34]]);
    other.truncate(10);
    let again = read(&mut other, &[&tokens[10..12]]);
    let fresh = read(&mut session(&model, &options(64)), &[&tokens[..10], &tokens[10..12]]);
    assert_eq!(bits(again), bits(fresh));
}

#[test]
fn the_best_logits_are_found_on_the_device() {
    let file = NamedTempFile::new().expect("a temporary file");
    let model = on_device(quantized(&file));
    let tokens = &tokens(model.spec().n_vocab)[..3];
    let mut all = session(&model, &options(64));
    assert!(all.finds_best());
    let all = eval(&mut all, tokens, Logits::All);
    for k in [1, 7, 10_000] {
        let mut rows = all.chunks_exact(model.spec().n_vocab);
        let mut sink = |_, best: &[(u32, f32)]| {
            let mut want: Vec<_> = (0..).zip(rows.next().expect("a row").iter().copied()).collect();
            want.sort_by(|a: &(u32, f32), b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            want.truncate(k);
            assert_eq!(best, want, "the {k} best");
            ControlFlow::Continue(())
        };
        let mut session = session(&model, &options(64));
        session.eval_best(tokens, Logits::All, k, &mut sink).expect("the tokens are read");
        assert!(rows.next().is_none(), "all rows were handed out");
    }
}

/// In a long context, layers with a window write over what no token sees any more: the logits are those of a cache that keeps
/// all, to the bit, and so after tokens were forgotten, whether or not what they saw is still there.
#[test]
fn windows_that_forget_change_nothing() {
    const N: usize = 390;
    let file = NamedTempFile::new().expect("a temporary file");
    write("gemma3", file.path());
    let model = on_device(Model::open(file.path(), Isa::Portable).expect("a model"));
    let n_vocab = model.spec().n_vocab;
    let tokens: Vec<u32> = (0..N).map(|i| ((i * i * 31 + i / 7) % n_vocab) as u32).collect();
    let of = |n_ctx, chunk| SessionOptions { n_ctx: Some(n_ctx), ..options(chunk) };
    // where all is read at a time, a layer keeps all
    let kv = |n: usize| KvCache::bytes(model.spec(), n, n, KvTypes::default()).expect("few bytes");
    let on_device = |n| session(&model, &of(n, 64)).bytes();
    let grown = on_device(8 * N) - on_device(4 * N);
    assert!(grown < (kv(8 * N) - kv(4 * N)) as u64 / 2, "{grown} bytes for a longer context");
    let (mut whole, mut short) = (session(&model, &of(N, N)), session(&model, &of(4 * N, 64)));
    let read = |session: &mut Session<'_>, from: usize| {
        tokens[from..].chunks(64).fold(Vec::new(), |_, tokens| bits(eval(session, tokens, Logits::Last)))
    };
    assert!(read(&mut whole, 0) == read(&mut short, 0), "the whole text");
    for kept in [N - 6, N - 106, 64] {
        whole.truncate(kept);
        short.truncate(kept);
        assert!(read(&mut whole, kept) == read(&mut short, kept), "after {kept} tokens");
    }
}
