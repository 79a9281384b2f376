//! Whole models on the CUDA backend against the CPU backend, in an interpreter of the very PTX that a driver loads: models of
//! all families, quantized weights and caches, windows that forget, graphs.
//!
//! Few tokens are multiplied in the numbers of the CPU, in another order. Many are rounded to bf16: of each product both
//! operands, by at most 2^-9 of a number and so 2^-9 / sqrt(3) in the mean, which makes its error 2 * 2^-18 / 3 = 2.5e-6 of
//! its mean square. In a tiny model's four layers some sixteen such products follow each other, and attention in half
//! precision; scores that are exponents, and norms, make more of it.

use std::collections::HashSet;
use std::mem::discriminant;
use std::ops::{ControlFlow, Range};
use std::panic::catch_unwind;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use braise_engine::backend::cuda;
use braise_engine::block::{Attention, Experts, Layer, Mixer, Mlp, Pooling, Spec};
use braise_engine::kv::{KvCache, KvTypes, Room};
use braise_engine::model::Model;
use braise_engine::session::{Logits, Session, SessionOptions};
use braise_kernels::cuda::Properties;
use braise_kernels::cuda::ops::Flash;
use braise_kernels::isa::Isa;
use braise_kernels::ops::KvType;
use braise_kernels::quant::Type;
use braise_tests::families::{names, tokens, write, write_quantized, write_with};
use braise_tests::interpreter::Interpreter;
use braise_tests::logits::{eval, nmse, recipe};
use braise_tests::tiny;
use tempfile::NamedTempFile;

/// Largest error (NMSE) of few tokens in a model of four layers, whose keys and values are in half precision on both sides:
/// numbers between two halves may be rounded to either. If all were, that is 2^-22 / 3 = 8e-8 of the mean square for each of
/// four layers' keys and values.
const FEW: f64 = 6.4e-7;

/// Largest error of many tokens, and of those that see their keys and values: sixteen products of four layers make 4e-5, see
/// above, and a mixture whose router divides what it reads ten times that.
const MANY: f64 = 1e-3;

/// How many times as much a model may be off that has more layers than four.
fn depth(spec: &Spec) -> f64 {
    (spec.layers.len() as f64 / 4.0).max(1.0)
}

/// How many times as much many tokens may be off: compressed keys, of which those of all heads are made, take rounding ill.
fn latent(spec: &Spec) -> f64 {
    if spec.layers.iter().any(|layer| matches!(layer.mixer, Mixer::Latent(_))) { 2.0 } else { 1.0 }
}

/// Largest error of few tokens where weights are quantized: activations that lie between two steps of their eight bits may
/// be rounded to either, and then are off by 1/254 of their block's range.
const QUANTIZED: f64 = 1e-6;

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

fn bits(logits: Vec<f32>) -> Vec<u32> {
    logits.into_iter().map(f32::to_bits).collect()
}

/// The logits after a prompt of many tokens, and of one more: of a text that is longer than the recipes' windows.
fn of_many(model: &Model, tokens: &[u32], options: &SessionOptions) -> Vec<f32> {
    let mut session = session(model, options);
    let mut logits = eval(&mut session, &tokens[..40], Logits::Last);
    logits.extend(eval(&mut session, &tokens[40..41], Logits::All));
    logits
}

/// The logits of a token, and of two after it.
fn of_few(model: &Model, tokens: &[u32], options: &SessionOptions) -> Vec<f32> {
    let mut session = session(model, options);
    let mut logits = eval(&mut session, &tokens[..1], Logits::All);
    logits.extend(eval(&mut session, &tokens[1..3], Logits::All));
    logits
}

/// The embeddings of a text by two kinds of pooling.
fn embeddings(model: &Model, tokens: &[u32]) -> Vec<f32> {
    let mut session = session(model, &options(64));
    let embed = |pooling| session.embed(tokens, pooling).expect("an embedding");
    [Pooling::Mean, Pooling::First].map(embed).concat()
}

/// What a model's layers are made of, sizes aside.
fn mechanisms(spec: &Spec) -> Vec<String> {
    let attention = |a: &Attention| {
        let flash = Flash::room(a.heads.head_dim as u32, a.heads.head_dim_v as u32).is_some();
        let scores = (
            a.window.map(|window| discriminant(&window)),
            a.causal,
            a.softcap.is_some(),
            a.alibi.is_some(),
            a.sinks,
        );
        let heads = (a.qk_norm.map(|norm| (norm.kind, norm.place)), a.gated, a.clamp.is_some());
        format!("{flash} {scores:?} {heads:?} {:?} {:?}", a.v_norm.is_some(), a.temperature.is_some())
    };
    let experts = |e: &Experts| {
        let groups = e.groups.is_some();
        let inputs = (e.weigh_inputs, e.latent.is_some());
        let choice = (e.routing, groups, e.normalize, e.routes_first, e.router_norm.is_some());
        format!(
            "{choice:?} {inputs:?} {:?} {:?}",
            e.expert.gated,
            e.shared.map(|(dense, gated)| (dense.gated, gated))
        )
    };
    let of_layer = |layer: &Layer| {
        let mixer = match &layer.mixer {
            Mixer::Attention(a) => attention(a),
            Mixer::Both(a, s) => format!("{} and {:?}", attention(a), discriminant(&s.kind)),
            Mixer::StateSpace(s) => format!("{:?}", discriminant(&s.kind)),
            Mixer::DeltaNet(d) => format!("{:?}", d.kind),
            Mixer::ShortConv(_) => "a convolution".to_owned(),
            Mixer::Latent(l) => format!("{} latent, {}", attention(&l.attention), l.q_rank.is_some()),
            Mixer::Nothing => "nothing".to_owned(),
        };
        let mlp = match &layer.mlp {
            Mlp::Dense(dense) => format!("{:?} {}", dense.activation, dense.gated),
            Mlp::Experts(e) => experts(e),
            Mlp::Both(both) => format!("both {}", experts(&both.experts)),
            Mlp::Nothing => "no network".to_owned(),
        };
        let n = &layer.norms;
        let norms = [n.mixer, n.mixer_out, n.mixer_sum, n.mlp, n.mlp_out, n.mlp_sum];
        let norms = norms.map(|norm| norm.map(|norm| norm.kind));
        [mixer, mlp, format!("{norms:?} {}", layer.parallel)]
    };
    spec.layers.iter().flat_map(of_layer).collect()
}

/// Error of `model` on the device, with many tokens or with few.
fn error(model: Model, many: bool) -> f64 {
    let tokens = tokens(model.spec().n_vocab);
    let results = |model: &Model| match (model.spec().is_encoder(), many) {
        (true, true) => embeddings(model, &tokens[..40]),
        (true, false) => embeddings(model, &tokens[..5]),
        (false, true) => of_many(model, &tokens, &options(64)),
        (false, false) => of_few(model, &tokens, &options(64)),
    };
    let want = results(&model);
    nmse(&want, &results(&on_device(model)))
}

/// Checks a recipe, with many tokens too if `many` says so; what is wrong, if something is.
fn check_recipe(name: &str, many: bool) -> Option<String> {
    let model = recipe(name, false);
    if let Some(what) = cuda::unsupported(&model) {
        return Some(format!("{name}: no kernels for {what}"));
    }
    let (depth, latent) = (depth(model.spec()), latent(model.spec()));
    let few = error(model, false);
    let many = many.then(|| error(recipe(name, true), true));
    let of_many = many.map_or("not run of many".to_owned(), |many| format!("{many:.1e} of many"));
    println!("{name}: {few:.1e} of few tokens, {of_many}");
    let fine = few <= FEW * depth && many.is_none_or(|many| many <= MANY * depth * latent);
    (!fine).then(|| format!("{name}: NMSE {few:.1e} of few tokens, {of_many}"))
}

/// Few tokens of all; many of those that have something which none before them has.
#[test]
fn every_family_agrees_with_the_cpu() {
    let mut seen = HashSet::new();
    let is_new = |name: &String| {
        let all = mechanisms(recipe(name, false).spec());
        all.into_iter().filter(|mechanism| seen.insert(mechanism.clone())).count() > 0
    };
    let mut work: Vec<(String, bool)> = names().into_iter().map(|name| (name, false)).collect();
    work.iter_mut().zip(names().iter().map(is_new)).for_each(|((_, many), new)| *many = new);
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((name, many)) = work.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let wrong = catch_unwind(|| check_recipe(name, *many));
                    let wrong = wrong.unwrap_or_else(|_| Some(format!("{name}: its check panicked")));
                    failed.lock().expect("no check panicked").extend(wrong);
                }
            });
        }
    });
    let failed = failed.into_inner().expect("no check panicked");
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn layers_that_share_keys_agree_with_the_cpu() {
    let file = NamedTempFile::new().expect("a temporary file");
    write_with("gemma4-moe", Type::F32, &[("shared_kv_layers", "2")], file.path());
    let error = error(Model::open(file.path(), Isa::Portable).expect("a model"), false);
    assert!(error <= FEW, "NMSE {error:.1e}");
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
        let [many, few] = [of_many, of_few].map(|of| of(&model, &tokens, &options));
        let model = on_device(model);
        // the CPU rounds the activations of many tokens to eight bits
        let errors = [
            nmse(&many, &of_many(&model, &tokens, &options)),
            nmse(&few, &of_few(&model, &tokens, &options)),
        ];
        println!("{:?}: {:.1e} and {:.1e}", options.kv, errors[0], errors[1]);
        assert!(errors[0] <= MANY && errors[1] <= QUANTIZED, "{:?}: {errors:?}", options.kv);
    }
}

/// What few models have, with quantized weights and caches. A value that is weighed before it is rounded to eight bits (Llama
/// 4), or comes from an exponent (Apertus), may be rounded to the other step. One of 64 that spread over five times their
/// deviation makes (5 / 254)^2 / 64 = 6e-6 of the mean square; a few such values are allowed.
#[test]
fn quantized_families_agree_with_the_cpu() {
    let file = NamedTempFile::new().expect("a temporary file");
    let options = SessionOptions { kv: KvTypes { k: KvType::Q8_0, v: KvType::Q8_0 }, ..options(64) };
    for name in ["afmoe", "apertus", "deepseek2", "gemma4", "llama4", "nemotron_h_moe-latent"] {
        write_quantized(name, Type::Q8_0, file.path());
        let model = Model::open(file.path(), Isa::Portable).expect("a model");
        let tokens = tokens(model.spec().n_vocab);
        let want = of_few(&model, &tokens, &options);
        let error = nmse(&want, &of_few(&on_device(model), &tokens, &options));
        println!("{name}: {error:.1e}");
        assert!(error <= 1e-4, "{name}: NMSE {error:.1e}");
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

/// A dense model, one of compressed keys, whose heads have maps of their own, and a mixture.
#[test]
fn products_of_warpgroups_agree_with_the_cpu() {
    let file = NamedTempFile::new().expect("a temporary file");
    for mut model in [quantized(&file), recipe("deepseek2", true), recipe("qwen3moe", true)] {
        let tokens = tokens(model.spec().n_vocab);
        let want = of_many(&model, &tokens, &options(64));
        let on_warps = {
            model.move_to(Box::new(Interpreter::default())).expect("there is room");
            of_many(&model, &tokens, &options(64))
        };
        model.move_to(Box::new(Interpreter::of_compute(Properties::WARPGROUPS))).expect("there is room");
        let got = of_many(&model, &tokens, &options(64));
        let (error, bound) = (nmse(&want, &got), MANY * latent(model.spec()));
        println!("{}: {error:.1e}", model.spec().arch);
        assert!(error <= bound, "{}: NMSE {error:.1e}", model.spec().arch);
        // rounded to the same numbers, added up in another order
        let other = nmse(&on_warps, &got);
        assert!(other <= error.max(FEW), "{}: NMSE {other:.1e} between kernels", model.spec().arch);
    }
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

/// In a long context, layers with a window give back what no token sees any more: the logits are those of a cache that keeps
/// all, to the bit, and so after tokens were forgotten, whether or not what they saw is still there.
#[test]
fn windows_that_forget_change_nothing() {
    // more than a page, and what can be forgotten without reading anything again, behind the window
    const N: usize = 850;
    let file = NamedTempFile::new().expect("a temporary file");
    write("gemma3", file.path());
    let model = on_device(Model::open(file.path(), Isa::Portable).expect("a model"));
    let n_vocab = model.spec().n_vocab;
    let tokens: Vec<u32> = (0..N).map(|i| ((i * i * 31 + i / 7) % n_vocab) as u32).collect();
    let of = |n_ctx, chunk| SessionOptions { n_ctx: Some(n_ctx), ..options(chunk) };
    // where all is read at a time, a layer keeps all
    let kv =
        |n: usize| KvCache::bytes(model.spec(), Room::of_one(n, n), KvTypes::default()).expect("few bytes");
    let on_device = |n| session(&model, &of(n, 64)).cache_bytes();
    let grown = on_device(8 * N) - on_device(4 * N);
    // half of the layers see all; page tables grow too
    assert!(grown <= (kv(8 * N) - kv(4 * N)) as u64 * 51 / 100, "{grown} bytes for a longer context");
    let (mut whole, mut short) = (session(&model, &of(N, N)), session(&model, &of(4 * N, 64)));
    let read = |session: &mut Session<'_>, range: Range<usize>| {
        tokens[range].chunks(64).fold(Vec::new(), |_, tokens| bits(eval(session, tokens, Logits::Last)))
    };
    assert!(read(&mut whole, 0..N) == read(&mut short, 0..N), "the whole text");
    for kept in [N - 6, N - 106, 64] {
        whole.truncate(kept);
        short.truncate(kept);
        let next = kept..N.min(kept + 128);
        assert!(read(&mut whole, next.clone()) == read(&mut short, next), "after {kept} tokens");
    }
}
