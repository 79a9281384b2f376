//! The whole engine against the reference, on tiny models of many shapes; and how little how a text is read (chunks,
//! threads, again) changes of what comes out.

use std::ops::ControlFlow;
use std::sync::LazyLock;

use braise_engine::gguf::Gguf;
use braise_engine::kv::KvTypes;
use braise_engine::model::Model;
use braise_engine::session::{Logits, Session, SessionOptions};
use braise_kernels::isa::Isa;
use braise_kernels::ops::KvType;
use braise_kernels::quant::{Dot, Type};
use braise_tests::reference::Reference;
use braise_tests::tiny::{self, BASE, Rope, Shape};
use tempfile::NamedTempFile;

/// Tokens of each comparison: more than a tile of 64, and no multiple of anything.
const N_TOKENS: usize = 75;

/// Bound on the normalized mean squared error with float weights: 2.5 times the most that was measured (1.2e-7, the same
/// on every ISA level), nearly all of which is the cache's half precision.
const FLOATS: f64 = 3e-7;

/// The same with BF16 weights on amx, which rounds activations and what attends to bf16 too: 2.4 times the most that was
/// measured (1.7e-5). One such rounding leaves up to 2^-9 of a number, 2^-18 / 3 = 1.3e-6 of mean square, and a dozen
/// roundings lie between a token and its logits.
const BF16_TILES: f64 = 4e-5;

/// The same with a q8_0 cache, where float weights leave its rounding alone: twice the most that was measured.
const CACHE_8: f64 = 1.3e-4;

/// The same with quantized weights, which take activations of 8 bits: twice the most that was measured. The error is
/// that of the activations, so it is nearly the same for all formats (1.1e-4 to 1.8e-4).
const QUANTIZED: f64 = 4e-4;

const fn heads(n_head: usize, n_head_kv: usize) -> Shape {
    Shape { n_head, n_head_kv, ..BASE }
}

const fn head_size(head_dim: usize, head_dim_v: usize, rope_dims: usize) -> Shape {
    Shape { n_head: 2, n_head_kv: 1, head_dim, head_dim_v, rope_dims, ..BASE }
}

/// Float weights: every shape that the architecture allows.
const SHAPES: &[(&str, Shape)] = &[
    ("one query head per key head", heads(4, 4)),
    ("two query heads per key head", heads(4, 2)),
    ("three query heads per key head", heads(9, 3)),
    ("eight query heads per key head", heads(8, 1)),
    ("nine query heads per key head", heads(9, 1)),
    ("heads of 2", head_size(2, 2, 2)),
    ("heads of 64", head_size(64, 64, 64)),
    ("heads of 80", head_size(80, 80, 80)),
    ("heads of 96, a part rotated", head_size(96, 96, 32)),
    ("heads of 128, values of 64", head_size(128, 64, 128)),
    ("heads of 24, values of 40", head_size(24, 40, 24)),
    ("heads of 256", head_size(256, 256, 256)),
    ("nothing rotated", Shape { rope_dims: 0, ..BASE }),
    ("odd sizes", Shape { n_embd: 75, n_ff: 131, n_vocab: 37, ..BASE }),
    (
        "one layer, one head, one row",
        Shape { n_layer: 1, n_head: 1, n_head_kv: 1, n_ff: 1, n_vocab: 1, ..BASE },
    ),
    ("tied", Shape { tied: true, ..BASE }),
    ("biases", Shape { bias: true, ..BASE }),
    ("scales and biases", Shape { bias: true, scale: true, ..BASE }),
    ("frequency factors", Shape { rope: Rope::Factors, ..BASE }),
    ("linear scaling", Shape { rope: Rope::Linear(4.0), ..BASE }),
    ("YaRN", Shape { rope: Rope::Yarn(4.0, 512), ..BASE }),
    ("YaRN of a part", Shape { rope: Rope::Yarn(2.5, 300), ..head_size(64, 64, 48) }),
    ("F16", Shape { ty: Type::F16, ..BASE }),
    ("BF16", Shape { ty: Type::BF16, tied: true, ..BASE }),
    ("mixed floats", Shape { types: &[("attn_q", Type::F16), ("ffn_up", Type::BF16)], ..BASE }),
];

/// Whole blocks of 256 everywhere; the vocabulary is no multiple of anything.
const BLOCKS: Shape = Shape {
    n_embd: 256,
    head_dim: 64,
    head_dim_v: 64,
    rope_dims: 64,
    n_ff: 512,
    n_vocab: 203,
    ty: Type::Q4_K,
    ..BASE
};

/// Quantized weights in shapes that differ from [`BLOCKS`].
const QUANTIZED_SHAPES: &[(&str, Shape)] = &[
    ("tied", Shape { tied: true, ..BLOCKS }),
    ("biases", Shape { bias: true, ..BLOCKS }),
    (
        "nine heads of 64, blocks of 32",
        Shape { n_head: 9, n_head_kv: 3, n_embd: 576, ty: Type::Q4_1, ..BLOCKS },
    ),
    (
        "rows of 96 and 160",
        Shape { n_embd: 96, head_dim: 40, rope_dims: 40, n_ff: 160, ty: Type::Q8_0, ..BLOCKS },
    ),
    ("a mix of formats", MIX),
];

/// Formats beside each other, such that some inputs are needed both in floats and quantized.
const MIX: Shape = Shape {
    types: &[
        ("token_embd", Type::Q5_0),
        ("attn_q", Type::F16),
        ("attn_v", Type::Q6_K),
        ("ffn_up", Type::F32),
        ("ffn_down", Type::Q8_0),
        ("output", Type::Q6_K),
    ],
    ..BLOCKS
};

/// A tiny model's file.
fn file(shape: &Shape, seed: u64) -> NamedTempFile {
    let file = NamedTempFile::new().expect("a temporary file");
    tiny::write(shape, seed, file.path());
    file
}

/// Token ids that use the whole vocabulary.
fn tokens(n: usize, n_vocab: usize) -> Vec<u32> {
    (0..n).map(|i| (i * i * 31 + i * 7 + 3) % n_vocab).map(|id| id as u32).collect()
}

fn options(threads: usize, chunk: usize) -> SessionOptions {
    SessionOptions { threads: Some(threads), chunk: Some(chunk), ..SessionOptions::default() }
}

/// All logits after `tokens`.
fn eval(session: &mut Session<'_>, tokens: &[u32]) -> Vec<f32> {
    let mut all = Vec::new();
    let mut next = session.tokens().len();
    let read = session.eval(tokens, Logits::All, &mut |position, logits| {
        assert_eq!(position, next, "logits come in order");
        next += 1;
        all.extend(logits);
        ControlFlow::Continue(())
    });
    read.expect("the tokens are read");
    assert_eq!(next, session.tokens().len());
    all
}

/// Mean squared error, normalized by the mean square of `exact`.
fn nmse(exact: &[f64], got: &[f32]) -> f64 {
    assert_eq!(exact.len(), got.len());
    let error: f64 = exact.iter().zip(got).map(|(e, g)| (e - f64::from(*g)).powi(2)).sum();
    error / exact.iter().map(|e| e * e).sum::<f64>()
}

/// The ISA levels of this machine.
static SUPPORTED: LazyLock<Vec<Isa>> = LazyLock::new(|| {
    let (supported, lacking): (Vec<_>, Vec<_>) = Isa::ALL.into_iter().partition(|isa| isa.is_supported());
    lacking.iter().for_each(|isa| println!("skipped: this CPU does not have {isa}"));
    supported
});

/// Compares all ISA levels with the reference; says by how much they differ.
fn compare(name: &str, shape: &Shape, kv: KvTypes, bound: f64) -> Result<(), String> {
    let file = file(shape, 7);
    let gguf = Gguf::open(file.path()).expect("the file opens");
    let tokens = tokens(N_TOKENS, shape.n_vocab);
    let mut reference = Reference::new(&gguf);
    let exact: Vec<f64> = tokens.iter().flat_map(|token| reference.push(*token)).collect();
    for isa in &*SUPPORTED {
        let model = Model::open(file.path(), *isa).expect("the model opens");
        let options = SessionOptions { kv, ..options(2, 64) };
        let mut session = Session::new(&model, &options).expect("a session");
        let error = nmse(&exact, &eval(&mut session, &tokens));
        println!("{name}, {isa}: NMSE {error:.2e}");
        let has_bf16 = shape.ty == Type::BF16 || shape.types.iter().any(|(_, ty)| *ty == Type::BF16);
        let bound = if *isa == Isa::Amx && has_bf16 { bound.max(BF16_TILES) } else { bound };
        if error.is_nan() || error > bound {
            return Err(format!("{name}, {isa}: NMSE {error:.2e}, more than {bound:.0e}"));
        }
    }
    Ok(())
}

#[test]
fn every_shape_agrees_with_the_reference() {
    let failed: Vec<_> = SHAPES
        .iter()
        .filter_map(|(name, shape)| compare(name, shape, KvTypes::default(), FLOATS).err())
        .collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn every_format_agrees_with_the_reference() {
    let quantized = |ty: &&Type| ty.scalar().is_some_and(|scalar| matches!(scalar.dot, Dot::Q8(_)));
    let formats: Vec<_> = Type::ALL.iter().filter(quantized).collect();
    assert!(formats.len() >= 23, "{formats:?}");
    let compare =
        |ty: &&Type| compare(ty.name(), &Shape { ty: **ty, ..BLOCKS }, KvTypes::default(), QUANTIZED).err();
    let failed: Vec<_> = formats.iter().filter_map(compare).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn quantized_weights_of_every_shape_agree_with_the_reference() {
    let compare = |(name, shape): &(&str, Shape)| compare(name, shape, KvTypes::default(), QUANTIZED).err();
    let failed: Vec<_> = QUANTIZED_SHAPES.iter().filter_map(compare).collect();
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn caches_of_8_bits_agree_with_the_reference() {
    let shapes = [BASE, head_size(64, 64, 64), head_size(80, 80, 80), head_size(24, 40, 24)];
    let (f16, q8_0) = (KvType::F16, KvType::Q8_0);
    for (k, v) in [(q8_0, q8_0), (q8_0, f16), (f16, q8_0)] {
        for shape in &shapes {
            let name = format!("{k} keys, {v} values, heads of {}", shape.head_dim);
            compare(&name, shape, KvTypes { k, v }, CACHE_8).unwrap_or_else(|failed| panic!("{failed}"));
            compare(&name, shape, KvTypes { k, v }, FLOATS).expect_err("the formats differ from f16");
        }
    }
}

/// What the bounds are worth: models that differ in one option alone are far apart.
#[test]
fn the_bounds_tell_options_apart() {
    let tokens = tokens(N_TOKENS, BASE.n_vocab);
    let base = Gguf::open(file(&BASE, 7).path()).expect("the file opens");
    let mut reference = Reference::new(&base);
    let exact: Vec<f64> = tokens.iter().flat_map(|token| reference.push(*token)).collect();
    let others = [
        Shape { rope: Rope::Factors, ..BASE },
        Shape { rope: Rope::Linear(4.0), ..BASE },
        Shape { rope: Rope::Yarn(4.0, 512), ..BASE },
        Shape { rope_dims: 30, ..BASE },
        Shape { n_head_kv: 4, ..BASE },
        Shape { bias: true, ..BASE },
        Shape { scale: true, ..BASE },
    ];
    for other in others {
        let file = file(&other, 7);
        let model = Model::open(file.path(), Isa::Portable).expect("the model opens");
        let got = eval(&mut Session::new(&model, &options(1, 64)).expect("a session"), &tokens);
        let error = nmse(&exact, &got);
        assert!(error > 100.0 * FLOATS, "{other:?}: NMSE {error:.2e}");
    }
}

#[test]
fn an_error_that_is_not_a_number_is_no_small_error() {
    assert!(nmse(&[1.0, 2.0], &[1.0, f32::NAN]).is_nan());
    assert!((nmse(&[1.0, -2.0], &[1.0, -2.5]) - 0.05).abs() < 1e-12);
}

/// Runs `check` with models that use every kind of kernel, on every ISA level.
fn with_models(check: impl Fn(&Model, &[u32])) {
    for shape in [Shape { bias: true, ..BASE }, MIX] {
        let file = file(&shape, 11);
        for isa in &*SUPPORTED {
            let model = Model::open(file.path(), *isa).expect("the model opens");
            check(&model, &tokens(530, shape.n_vocab));
        }
    }
}

/// The bits, so that equal means the same number, and NaN no exception.
fn bits(logits: &[f32]) -> Vec<u32> {
    logits.iter().map(|logit| logit.to_bits()).collect()
}

/// Chunks of few tokens (up to 8, `PRIVATE_ROWS` of the CPU backend) and of many may use other kernels, which add up
/// the same integer sums in another order. Rounded differently once, an activation differs by a step of its 8 bits, so that the
/// two are as far apart as two quantizations of the same model: each is within `QUANTIZED` of the exact result, the
/// errors are independent, and so the bound holds for their difference too. Among chunks of many tokens, and where a
/// level has one kernel for both, the bound is 0.
#[test]
fn chunks_change_no_more_than_the_order_of_sums() {
    with_models(|model, tokens| {
        let with = |chunk| eval(&mut Session::new(model, &options(2, chunk)).expect("a session"), tokens);
        let one_kernel = Type::ALL
            .iter()
            .all(|ty| model.kernels().matmul(*ty).is_none_or(|matmul| matmul.packing().is_none()));
        let (one, many) = (with(1), with(10));
        for chunk in [64, 512] {
            assert!(bits(&many) == bits(&with(chunk)), "chunks of {chunk}, {:?}", model.kernels());
        }
        for chunk in [3, 5, 8] {
            assert!(bits(&one) == bits(&with(chunk)), "chunks of {chunk}, {:?}", model.kernels());
        }
        if one_kernel {
            assert!(bits(&one) == bits(&many), "chunks of 1, {:?}", model.kernels());
        }
        let exact: Vec<f64> = one.iter().map(|logit| f64::from(*logit)).collect();
        let error = nmse(&exact, &many);
        assert!(error <= QUANTIZED, "one token and many are {error:.2e} apart, {:?}", model.kernels());
    });
}

#[test]
fn threads_do_not_change_a_bit() {
    with_models(|model, tokens| {
        let with = |threads, tokens| {
            let mut session = Session::new(model, &options(threads, 64)).expect("a session");
            let prefill = eval(&mut session, tokens);
            bits(&[prefill, eval(&mut session, &tokens[..1])].concat())
        };
        let tokens = &tokens[..100];
        let alone = with(1, tokens);
        for threads in [2, 3, 5] {
            assert!(alone == with(threads, tokens), "{threads} threads, {:?}", model.kernels());
        }
    });
}

#[test]
fn what_was_forgotten_leaves_no_trace() {
    with_models(|model, tokens| {
        let tokens = &tokens[..90];
        let mut session = Session::new(model, &options(2, 64)).expect("a session");
        let first = bits(&eval(&mut session, tokens));
        session.truncate(41);
        eval(&mut session, &tokens[..30]);
        session.truncate(41);
        let n_vocab = model.spec().n_vocab;
        assert!(first[41 * n_vocab..] == bits(&eval(&mut session, &tokens[41..])));
        session.truncate(0);
        assert!(first == bits(&eval(&mut session, tokens)));
    });
}

#[test]
fn the_last_logits_are_the_last_of_all() {
    with_models(|model, tokens| {
        let new = || Session::new(model, &options(2, 16)).expect("a session");
        for n in [1, 16, 17, 50] {
            let all = bits(&eval(&mut new(), &tokens[..n]));
            let mut last = Vec::new();
            let mut sink = |position, logits: &[f32]| {
                last.push((position, bits(logits)));
                ControlFlow::Continue(())
            };
            new().eval(&tokens[..n], Logits::Last, &mut sink).expect("the tokens are read");
            assert!(last == [(n - 1, all[all.len() - model.spec().n_vocab..].to_vec())], "of {n} tokens");
        }
    });
}

#[test]
fn a_reader_that_breaks_off_leaves_the_session_usable() {
    with_models(|model, tokens| {
        let mut session = Session::new(model, &options(2, 16)).expect("a session");
        let whole = bits(&eval(&mut session, &tokens[..40]));
        session.truncate(0);
        let mut rows = 0;
        let mut sink = |_, _: &[f32]| {
            rows += 1;
            if rows < 18 { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        };
        session.eval(&tokens[..40], Logits::All, &mut sink).expect("the tokens are read");
        assert_eq!((rows, session.tokens()), (18, &tokens[..32]), "the chunk that was begun is read");
        let rest = bits(&eval(&mut session, &tokens[32..40]));
        assert!(whole[32 * model.spec().n_vocab..] == rest);
    });
}
