//! Every family against llama.cpp, on a tiny model each: prefill and decode, in chunks of several sizes; models that embed
//! texts with each kind of pooling.

use std::fmt::Write as _;
use std::ops::ControlFlow;
use std::path::Path;

use braise_engine::arch;
use braise_engine::block::Pooling;
use braise_engine::kv::{KvCache, KvTypes, Room};
use braise_engine::model::Model;
use braise_engine::session::{Logits, Session, SessionOptions};
use braise_kernels::isa::Isa;
use braise_kernels::quant::Type;
use braise_tests::families::{folder, kept, names, tokens, tokens_of, write, write_floats, write_with};

/// Of each recipe, the largest normalized mean squared error that was measured, on any level and with any chunk size: a
/// part is the half precision of the cache, and most that of attention in integers.
const WORST: &[(&str, f64)] = &[
    ("afmoe", 1.1e-07),
    ("apertus", 8.7e-08),
    ("arcee", 4.2e-07),
    ("baichuan", 1.3e-05),
    ("baichuan-13b", 3.6e-05),
    ("bailingmoe", 9.8e-07),
    ("bailingmoe2", 1.5e-07),
    ("bert", 1.4e-07),
    ("bloom", 1.6e-07),
    ("chatglm", 3.6e-07),
    ("codeshell", 1.9e-07),
    ("cohere2", 1.9e-07),
    ("command-r", 2.6e-07),
    ("dbrx", 1.6e-07),
    ("deci", 1.0e-06),
    ("deepseek", 1.1e-06),
    ("deepseek2", 3.9e-06),
    ("deepseek2-fused", 8.2e-07),
    ("deepseek2-fused-q8_0", 1.9e-04),
    ("deepseek2-lite", 3.0e-05),
    ("deepseek2-yarn", 1.2e-05),
    ("deepseek2-yarn-plain", 1.9e-07),
    ("dots1", 2.3e-07),
    ("ernie4_5", 8.4e-07),
    ("ernie4_5-moe", 1.1e-06),
    ("ernie4_5-moe-scales", 1.3e-06),
    ("eurobert", 4.3e-07),
    ("exaone", 1.3e-06),
    ("exaone-moe", 6.3e-07),
    ("exaone4", 3.2e-08),
    ("falcon", 3.8e-07),
    ("falcon-7b", 4.4e-07),
    ("falcon-h1", 8.6e-08),
    ("falcon-h1-scales", 2.6e-07),
    ("gemma", 8.9e-08),
    ("gemma-embedding", 9.3e-08),
    ("gemma2", 9.0e-08),
    ("gemma3", 8.1e-08),
    ("gemma4", 2.1e-06),
    ("gemma4-moe", 2.4e-06),
    ("glm4", 1.2e-06),
    ("glm4-0414", 1.3e-06),
    ("glm4moe", 2.0e-07),
    ("gpt-oss", 3.4e-07),
    ("gpt-oss-yarn", 4.8e-07),
    ("gpt2", 3.0e-07),
    ("gptneox", 5.0e-07),
    ("gptneox-parallel", 3.7e-07),
    ("granite", 5.2e-07),
    ("granitehybrid", 2.4e-07),
    ("granitemoe", 8.7e-07),
    ("grok", 5.4e-09),
    ("grok-2", 7.9e-09),
    ("hunyuan-dense", 1.8e-07),
    ("hunyuan-dense-alpha", 1.9e-07),
    ("hunyuan-moe", 2.2e-07),
    ("hunyuan_vl", 1.5e-07),
    ("internlm2", 8.4e-07),
    ("jais", 4.2e-08),
    ("jais2", 1.9e-07),
    ("jamba", 5.2e-09),
    ("jina-bert-v3", 8.1e-08),
    ("kimi-linear", 6.4e-08),
    ("lfm2", 1.0e-06),
    ("lfm2moe", 6.1e-07),
    ("llama", 4.8e-07),
    ("llama-embed", 5.0e-07),
    ("llama-moe", 9.2e-07),
    ("llama-scales", 2.4e-07),
    ("llama4", 5.0e-07),
    ("llama4-long", 2.1e-07),
    ("maincoder", 2.0e-07),
    ("mamba", 1.0e-12),
    ("mamba-norms", 1.2e-12),
    ("mamba-sizes", 4.5e-13),
    ("mamba2", 1.0e-12),
    ("mellum", 5.4e-07),
    ("minicpm", 3.8e-07),
    ("minicpm3", 9.0e-08),
    ("minimax-m2", 1.4e-07),
    ("mistral3", 4.8e-07),
    ("mistral3-yarn", 8.7e-07),
    ("mistral4", 2.1e-07),
    ("modern-bert", 2.7e-06),
    ("mpt", 6.3e-08),
    ("mpt-scales", 7.9e-08),
    ("nanbeige", 8.7e-07),
    ("nemotron", 3.1e-07),
    ("nemotron_h", 1.2e-08),
    ("nemotron_h_moe", 8.8e-09),
    ("nemotron_h_moe-latent", 4.0e-09),
    ("neo-bert", 1.9e-06),
    ("nomic-bert", 2.0e-07),
    ("nomic-bert-moe", 1.3e-07),
    ("olmo", 7.6e-08),
    ("olmo2", 3.2e-08),
    ("olmoe", 3.5e-07),
    ("olmoe-scales", 1.6e-07),
    ("openelm", 3.6e-07),
    ("openelm-scales", 2.0e-07),
    ("orion", 1.1e-06),
    ("paddleocr", 3.8e-07),
    ("pangu-embedded", 2.0e-07),
    ("phi2", 2.3e-07),
    ("phi3", 8.0e-07),
    ("phi3-long", 1.5e-06),
    ("phimoe", 8.9e-07),
    ("plamo", 1.2e-07),
    ("plamo3", 8.1e-08),
    ("plm", 1.4e-07),
    ("qwen", 6.4e-07),
    ("qwen2", 1.2e-06),
    ("qwen2-scales", 3.8e-07),
    ("qwen2-yarn", 1.7e-06),
    ("qwen2moe", 1.8e-06),
    ("qwen2vl", 3.4e-06),
    ("qwen2vl-scales", 4.0e-07),
    ("qwen3", 2.8e-07),
    ("qwen3-embedding", 8.5e-08),
    ("qwen35", 3.0e-09),
    ("qwen35moe", 3.9e-07),
    ("qwen3moe", 2.2e-07),
    ("qwen3moe-scales", 3.4e-08),
    ("qwen3next", 8.0e-09),
    ("qwen3next-fused", 7.5e-09),
    ("qwen3next-scales", 7.8e-10),
    ("qwen3vl", 1.6e-07),
    ("qwen3vlmoe", 2.2e-07),
    ("refact", 7.3e-07),
    ("seed_oss", 1.1e-06),
    ("smallthinker", 2.3e-06),
    ("smollm3", 8.4e-07),
    ("stablelm", 1.3e-07),
    ("stablelm-parallel", 3.8e-08),
    ("starcoder", 3.0e-07),
    ("starcoder2", 3.1e-07),
    ("xverse", 8.4e-07),
];

/// What of it is a failure.
const MARGIN: f64 = 3.0;

/// What is a failure in any case.
const LARGEST: f64 = 1e-4;

/// Bound for quantized weights: twice the most that was measured. Most of it is the rounding of activations.
const QUANTIZED: f64 = 2.5e-4;

/// Recipes with such weights.
const QUANTIZED_RECIPES: &[&str] = &["deepseek2-fused-q8_0"];

fn session(model: &Model, n_tokens: usize, chunk: usize) -> Session<'_> {
    let options = SessionOptions {
        threads: Some(2),
        chunk: Some(chunk),
        n_ctx: Some(n_tokens.max(256)),
        ..SessionOptions::default()
    };
    Session::new(model, &options).expect("a session")
}

/// The logits of all tokens.
fn eval(model: &Model, tokens: &[u32], chunk: usize) -> Vec<f32> {
    let mut session = session(model, tokens.len(), chunk);
    let mut all = Vec::new();
    let mut sink = |_, logits: &[f32]| {
        all.extend(logits);
        ControlFlow::Continue(())
    };
    session.eval(tokens, Logits::All, &mut sink).expect("the tokens are read");
    all
}

/// The embeddings with each kind of pooling, which a text read before must not change.
fn embed(model: &Model, tokens: &[u32], chunk: usize) -> [Vec<f32>; 3] {
    let mut session = session(model, tokens.len(), chunk);
    session.embed(&tokens[..7], Pooling::Mean).expect("an embedding");
    [Pooling::Mean, Pooling::First, Pooling::Last]
        .map(|pooling| session.embed(tokens, pooling).expect("an embedding"))
}

/// Mean squared error, normalized by the mean square of `exact`.
fn nmse(exact: &[f32], got: &[f32]) -> f64 {
    assert_eq!(exact.len(), got.len());
    let error: f64 = exact.iter().zip(got).map(|(e, g)| (f64::from(*e) - f64::from(*g)).powi(2)).sum();
    error / exact.iter().map(|e| f64::from(*e).powi(2)).sum::<f64>()
}

/// The largest error of the model `name` on some levels and chunk sizes, and all of them in words.
fn error(name: &str) -> Result<(f64, String), String> {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    write(name, file.path());
    let path = folder().join(format!("{name}.logits"));
    let bytes = std::fs::read(&path).map_err(|e| format!("{}: {e}", path.display()))?;
    let want: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
    let (mut worst, mut words) = (0.0_f64, String::new());
    for (isa, chunks) in [(Isa::Portable, &[7][..]), (Isa::best(), &[1, 7, 64])] {
        let model = Model::open(file.path(), isa).map_err(|e| e.to_string())?;
        let n_vocab = model.spec().n_vocab;
        for chunk in chunks {
            let errors = if model.spec().pooling.is_some() {
                let want = want.chunks_exact(model.spec().n_embd);
                let got = embed(&model, &tokens_of(name, n_vocab), *chunk);
                assert_eq!(want.len(), got.len(), "{name}: an embedding with each pooling");
                want.zip(got).map(|(want, got)| nmse(want, &got)).collect()
            } else {
                let got = eval(&model, &tokens_of(name, n_vocab), *chunk);
                let kept = kept(name).map(|t| &got[t * n_vocab..(t + 1) * n_vocab]).concat();
                vec![nmse(&want, &kept)]
            };
            for error in errors {
                worst = if error > worst || error.is_nan() { error } else { worst };
                write!(words, " {error:.1e}").expect("a string grows");
            }
        }
    }
    Ok((worst, words))
}

#[test]
fn every_family_agrees_with_llama_cpp() {
    let rows: Vec<&str> = WORST.iter().map(|(name, _)| *name).collect();
    assert_eq!(rows, names(), "a row for each recipe");
    let mut failed = Vec::new();
    for (name, worst) in WORST {
        match error(name) {
            Err(e) => failed.push(format!("{name}: {e}")),
            Ok((error, words)) => {
                println!("{name}:{words}");
                let largest = if QUANTIZED_RECIPES.contains(name) { QUANTIZED } else { LARGEST };
                let bound = (MARGIN * worst).min(largest);
                if error > bound || error.is_nan() {
                    failed.push(format!("{name}: NMSE {error:.1e}, more than {bound:.1e}"));
                }
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn every_family_has_a_recipe() {
    let of_recipe = |name: String| {
        let recipe = std::fs::read_to_string(folder().join(format!("{name}.txt"))).expect("a recipe");
        let line = recipe.lines().next().unwrap_or_default().to_owned();
        line.strip_prefix("general.architecture = str ").expect("the architecture comes first").to_owned()
    };
    let tested: Vec<_> = names().into_iter().map(of_recipe).collect();
    let untested: Vec<_> = arch::families().filter(|name| !tested.iter().any(|of| of == name)).collect();
    assert!(untested.is_empty(), "without a recipe: {untested:?}");
    let readme = std::fs::read_to_string(folder().join("../../../README.md")).expect("the README");
    let unnamed: Vec<_> = arch::families().filter(|name| !readme.contains(&format!("`{name}`"))).collect();
    assert!(unnamed.is_empty(), "not in the README: {unnamed:?}");
}

/// Of recurrent layers too, which have to read again what came before.
#[test]
fn what_was_forgotten_leaves_no_trace() {
    for name in [
        "lfm2",
        "mamba",
        "granitehybrid",
        "falcon-h1",
        "qwen35",
        "nemotron_h",
        "kimi-linear",
        "gemma3",
        "deepseek2",
    ] {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        write(name, file.path());
        let model = Model::open(file.path(), Isa::best()).expect("the model opens");
        let n_vocab = model.spec().n_vocab;
        let tokens = tokens(n_vocab);
        let whole = eval(&model, &tokens, 64);
        let options = SessionOptions { threads: Some(2), chunk: Some(64), ..SessionOptions::default() };
        let mut session = Session::new(&model, &options).expect("a session");
        let read = |session: &mut Session<'_>, tokens: &[u32]| {
            let mut last = Vec::new();
            let mut sink = |_, logits: &[f32]| {
                last = logits.to_vec();
                ControlFlow::Continue(())
            };
            session.eval(tokens, Logits::Last, &mut sink).expect("the tokens are read");
            last
        };
        read(&mut session, &tokens[..90]);
        session.truncate(41);
        read(&mut session, &tokens[..30]);
        session.truncate(41);
        let again = read(&mut session, &tokens[41..]);
        assert!(nmse(&whole[95 * n_vocab..], &again) < 1e-9, "{name}");
        session.truncate(0);
        assert!(nmse(&whole[95 * n_vocab..], &read(&mut session, &tokens)) < 1e-9, "{name}");
    }
}

/// Experts with quantized weights, of which prefill multiplies many tokens at once, and decode each by itself. All
/// experts are taken, so that the roundings of activations cannot change the choice.
#[test]
fn quantized_experts_of_many_tokens_agree_with_single_ones() {
    for ty in [Type::Q8_0, Type::MXFP4] {
        for name in ["gpt-oss", "qwen2moe"] {
            let file = tempfile::NamedTempFile::new().expect("a temporary file");
            write_with(name, ty, &[("expert_used_count", "8")], file.path());
            let logits = |isa: Isa, chunk: usize| {
                let model = Model::open(file.path(), isa).expect("the model opens");
                eval(&model, &tokens(model.spec().n_vocab), chunk)
            };
            let exact = logits(Isa::Portable, 1);
            for isa in Isa::ALL.into_iter().filter(|isa| isa.is_supported()) {
                for chunk in [1, 5, 64] {
                    let error = nmse(&exact, &logits(isa, chunk));
                    println!("{name} in {ty}, {isa}, chunks of {chunk}: {error:.1e}");
                    assert!(error <= QUANTIZED, "{name} in {ty}, {isa}, chunks of {chunk}: NMSE {error:.1e}");
                }
            }
        }
    }
}

/// A layer with a window keeps no more than that takes, if what is read at a time is small beside the context: the logits
/// are the same to the bit, and so after tokens were forgotten, whether or not the cache still holds what they saw.
#[test]
fn short_caches_of_windows_change_nothing() {
    const N: usize = 2300;
    for name in ["gemma4", "gpt-oss"] {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        write(name, file.path());
        let model = Model::open(file.path(), Isa::best()).expect("the model opens");
        let n_vocab = model.spec().n_vocab;
        let tokens: Vec<u32> = (0..N).map(|i| ((i * i * 31 + i / 7) % n_vocab) as u32).collect();
        let session = |chunk: usize| {
            let options = SessionOptions {
                threads: Some(2),
                chunk: Some(chunk),
                n_ctx: Some(N),
                ..SessionOptions::default()
            };
            Session::new(&model, &options).expect("a session")
        };
        let read = |session: &mut Session<'_>, tokens: &[u32]| {
            let mut all = Vec::new();
            let mut sink = |_, logits: &[f32]| {
                all.extend(logits.iter().map(|x| x.to_bits()));
                ControlFlow::Continue(())
            };
            session.eval(tokens, Logits::All, &mut sink).expect("the tokens are read");
            all
        };
        let whole = read(&mut session(N), &tokens);
        let mut short = session(100);
        let bytes = |chunk| {
            KvCache::bytes(model.spec(), Room::of_one(N, chunk), KvTypes::default()).expect("few bytes")
        };
        assert!(bytes(100) < bytes(N) * 9 / 10, "{name}: a cache of {} bytes", bytes(100));
        assert!(read(&mut short, &tokens) == whole, "{name}: the whole text");
        for kept in [N - 37, N - 300, N - 1500] {
            short.truncate(kept);
            assert!(
                read(&mut short, &tokens[kept..]) == whole[kept * n_vocab..],
                "{name}: after {kept} tokens"
            );
        }
    }
}

#[test]
fn keys_of_another_shape_are_refused() {
    // the fourth layer would read those of the third, whose heads are smaller
    for shared in ["3", "5", "6", "7"] {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        write_with("gemma4", Type::F32, &[("shared_kv_layers", shared)], file.path());
        let error = Model::open(file.path(), Isa::best()).expect_err("no model").to_string();
        assert!(error.contains("keys"), "{error}");
    }
}

/// For `reference.py`, and to look at the models with other engines.
#[test]
fn writes_the_models() {
    let Ok(dir) = std::env::var("BRAISE_WRITE_FAMILIES") else {
        println!("skipped: BRAISE_WRITE_FAMILIES names no folder");
        return;
    };
    for name in names() {
        write_floats(&name, &Path::new(&dir).join(format!("{name}.gguf")));
    }
}

/// Models and logits from elsewhere, such as those of llama.cpp's `test-llama-archs`: NAME.gguf, and beside it NAME.logits,
/// all logits of the [`tokens`] as f32.
#[test]
fn a_folder_of_models_agrees_with_its_logits() {
    let Ok(dir) = std::env::var("BRAISE_FAMILIES") else {
        println!("skipped: BRAISE_FAMILIES names no folder with models and logits");
        return;
    };
    let mut failed = Vec::new();
    for entry in std::fs::read_dir(dir).expect("the folder") {
        let path = entry.expect("an entry").path();
        let Ok(bytes) = std::fs::read(path.with_extension("logits")) else { continue };
        if path.extension().is_none_or(|extension| extension != "gguf") {
            continue;
        }
        let want: Vec<f32> = bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        match Model::open(&path, Isa::best()) {
            Err(e) => println!("skipped: {e}"),
            Ok(model) => {
                let tokens = tokens(model.spec().n_vocab);
                let errors = [1, 7, 64].map(|chunk| nmse(&want, &eval(&model, &tokens, chunk)));
                println!("{}: {errors:?}", path.display());
                if errors.iter().any(|error| error.is_nan() || *error > LARGEST) {
                    failed.push(format!("{}: {errors:?}", path.display()));
                }
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}
