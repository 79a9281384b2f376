//! Sequences that share steps on the CUDA backend, in an interpreter of the very PTX that a driver loads: they get what each
//! gets alone, and what they get on the CPU; they fork, forget, end and leave their pages to others.
//!
//! Alone and together the same kernels compute, but for how many blocks share the positions of a token: sums of long texts
//! are added in another order, which changes a float by some 2^-24 of it. Now and then that moves a number across the border
//! between two of bf16 or two codes of eight bits, by 2^-8 of it. If it is one of the some hundred numbers of a row, the mean
//! square of the error is 2^-16 / 100 of theirs.

use std::ops::{ControlFlow, Range};

use braise_engine::error::ErrorKind;
use braise_engine::kv::KvTypes;
use braise_engine::model::Model;
use braise_engine::sequences::{Capacity, SequenceId, Sequences, Work};
use braise_engine::session::{Logits, SessionOptions};
use braise_kernels::isa::Isa;
use braise_kernels::ops::KvType;
use braise_kernels::quant::Type;
use braise_tests::families::write;
use braise_tests::interpreter::Interpreter;
use braise_tests::tiny;
use tempfile::NamedTempFile;

/// Largest error (NMSE) of a sequence among others relative to itself alone.
const TOGETHER: f64 = 2e-7;

/// Largest error of the backend relative to the CPU, where steps have many tokens: see the tests of whole models.
const MANY: f64 = 1e-3;

/// Up to so many tokens, or logits, the kernels of few compute.
const FEW: usize = 8;

/// Tokens of a page.
const PAGE: usize = 256;

/// Tokens of each sequence's prompt: few and many, one, and more than a page.
const PROMPTS: [usize; 9] = [5, 40, 1, 12, 270, 9, 3, 17, 33];

/// Steps after the last prompt: the first is launched, the second captured, the third replayed.
const STEPS: usize = 3;

fn open(name: &str) -> Model {
    let file = NamedTempFile::new().expect("a temporary file");
    write(name, file.path());
    Model::open(file.path(), Isa::Portable).expect("a model")
}

/// A small model with weights of several types.
fn quantized() -> Model {
    let shape = tiny::Shape {
        n_embd: 128,
        n_ff: 256,
        head_dim: 32,
        head_dim_v: 32,
        rope_dims: 32,
        ty: Type::Q8_0,
        types: &[("ffn_up", Type::Q5_0), ("ffn_down", Type::Q4_0)],
        ..tiny::BASE
    };
    let file = NamedTempFile::new().expect("a temporary file");
    tiny::write(&shape, 5, file.path());
    Model::open(file.path(), Isa::Portable).expect("a model")
}

fn on_device(mut model: Model) -> Model {
    model.move_to(Box::new(Interpreter::default())).expect("there is room");
    model
}

fn with_room(model: &Model, capacity: Capacity, kv: KvTypes) -> Sequences<'_> {
    let spec = model.spec();
    let n_ctx = if spec.embedding.positions { spec.n_ctx } else { 2 * PAGE };
    let options = SessionOptions { n_ctx: Some(n_ctx), threads: Some(1), chunk: Some(n_ctx), kv };
    Sequences::new(model, capacity, &options).expect("there is room")
}

fn sequences(model: &Model, n: usize, kv: KvTypes) -> Sequences<'_> {
    with_room(model, Capacity { sequences: n, tokens: None }, kv)
}

/// The tokens of sequence `seq` at some positions.
fn text(model: &Model, seq: usize, positions: Range<usize>) -> Vec<u32> {
    let n_vocab = model.spec().n_vocab;
    positions.map(|p| ((p * p * 31 + p * 7 + seq * 13 + 3) % n_vocab) as u32).collect()
}

/// Mean squared error, normalized by the mean square of `exact`.
fn nmse(exact: &[f32], got: &[f32]) -> f64 {
    assert_eq!(exact.len(), got.len());
    let error: f64 = exact.iter().zip(got).map(|(e, g)| (f64::from(*e) - f64::from(*g)).powi(2)).sum();
    error / exact.iter().map(|e| f64::from(*e).powi(2)).sum::<f64>()
}

/// The logits of each work.
fn step(all: &mut Sequences<'_>, work: &[Work<'_>]) -> Vec<Vec<f32>> {
    let mut got = vec![Vec::new(); work.len()];
    let mut sink = |row: braise_engine::sequences::Row<'_>| {
        got[row.work].extend(row.logits.expect("finite numbers"));
        ControlFlow::Continue(())
    };
    all.step(work, &mut sink).expect("the step is taken");
    got
}

/// A step that reads the next tokens of some sequences, by their numbers.
fn read(all: &mut Sequences<'_>, parts: &[(SequenceId, usize, usize)]) -> Vec<Vec<f32>> {
    let texts: Vec<_> = parts
        .iter()
        .map(|(id, seq, n)| {
            let first = all.tokens(*id).expect("is there").len();
            text(all.model(), *seq, first..first + n)
        })
        .collect();
    let work = parts.iter().zip(&texts);
    let work: Vec<_> = work
        .map(|((sequence, ..), tokens)| Work { sequence: *sequence, tokens, logits: Logits::Last })
        .collect();
    step(all, &work)
}

/// What a sequence read in one step, in how large a step, and the logits of its last token.
struct Turn {
    n: usize,
    n_step: usize,
    n_seq: usize,
    logits: Vec<f32>,
}

/// Each sequence begins with its prompt beside single tokens of those before it; then all read single tokens.
fn together(model: &Model, n: usize, kv: KvTypes) -> Vec<Vec<Turn>> {
    let mut all = sequences(model, n, kv);
    let mut turns: Vec<Vec<Turn>> = Vec::new();
    let mut ids = Vec::new();
    let prompts = PROMPTS.into_iter().take(n).map(Some).chain([None; STEPS]);
    for (i, prompt) in prompts.enumerate() {
        let mut parts: Vec<_> = ids.iter().enumerate().map(|(seq, id)| (*id, seq, 1)).collect();
        if let Some(prompt) = prompt {
            let id = all.add().expect("there is room");
            ids.push(id);
            turns.push(Vec::new());
            // not always behind the others
            parts.insert(parts.len() / 2, (id, i, prompt));
        }
        let (n_step, n_seq) = (parts.iter().map(|(.., n)| n).sum(), parts.len());
        for ((_, seq, n), logits) in parts.iter().zip(read(&mut all, &parts)) {
            turns[*seq].push(Turn { n: *n, n_step, n_seq, logits });
        }
    }
    turns
}

/// Sequence `seq` without the others; where their steps had many tokens, or logits, another one reads as many, so that the
/// same kernels compute.
fn alone(model: &Model, seq: usize, turns: &[Turn], n: usize, kv: KvTypes) -> Vec<f32> {
    let mut all = sequences(model, if n <= FEW { 2 } else { FEW + 1 }, kv);
    let [id, other] = [0, 1].map(|_| all.add().expect("there is room"));
    let filling = text(model, 99, 0..FEW + 1);
    let mut logits = Vec::new();
    for turn in turns {
        all.truncate(other, 0).expect("is there");
        let first = all.tokens(id).expect("is there").len();
        let tokens = text(model, seq, first..first + turn.n);
        let mut work = vec![Work { sequence: id, tokens: &tokens, logits: Logits::Last }];
        if turn.n_step > FEW {
            let logits = if turn.n_seq > FEW { Logits::All } else { Logits::None };
            work.push(Work { sequence: other, tokens: &filling, logits });
        }
        logits.extend(step(&mut all, &work).swap_remove(0));
    }
    logits
}

/// Checks `n` sequences of a model against each alone, and against the CPU.
fn check(name: &str, open: &dyn Fn() -> Model, n: usize, kv: KvTypes) {
    let model = on_device(open());
    let got = together(&model, n, kv);
    let of_cpu = together(&open(), n, kv);
    for (seq, (turns, of_cpu)) in got.iter().zip(of_cpu).enumerate() {
        let [logits, of_cpu] = [turns, &of_cpu]
            .map(|turns| turns.iter().flat_map(|turn| turn.logits.clone()).collect::<Vec<_>>());
        let by_itself = nmse(&alone(&model, seq, turns, n, kv), &logits);
        let of_cpu = nmse(&of_cpu, &logits);
        println!("{name}, sequence {seq} of {n}: {by_itself:.1e} from itself, {of_cpu:.1e} from the CPU");
        assert!(by_itself <= TOGETHER, "{name}, sequence {seq} of {n}: NMSE {by_itself:.1e} from itself");
        assert!(of_cpu <= MANY, "{name}, sequence {seq} of {n}: NMSE {of_cpu:.1e} from the CPU");
    }
}

#[test]
fn sequences_get_what_they_get_alone() {
    for n in [1, 2, 5, 9] {
        check("quantized", &quantized, n, KvTypes::default());
    }
    check("quantized, a cache of 8 bits", &quantized, 4, KvTypes { k: KvType::Q8_0, v: KvType::Q8_0 });
}

#[test]
fn sequences_of_other_families_get_what_they_get_alone() {
    for (i, name) in ["gemma3", "mpt", "lfm2", "mamba", "falcon-h1", "qwen3next"].into_iter().enumerate() {
        // the fifth one's prompt is longer than what some were made for
        check(name, &|| open(name), if i == 0 { 5 } else { 4 }, KvTypes::default());
    }
}

/// What was read is shared, until somebody writes into the same page; what is given back is used again.
#[test]
fn forks_share_pages_and_copy_them_when_they_write() {
    let model = on_device(quantized());
    let capacity = Capacity { sequences: 4, tokens: Some(4 * PAGE) };
    let mut all = with_room(&model, capacity, KvTypes::default());
    // of a sequence that nobody forks
    let mut expected = Vec::new();
    {
        let mut all = sequences(&model, 1, KvTypes::default());
        let id = all.add().expect("there is room");
        for n in [300, 10, 10] {
            expected.push(read(&mut all, &[(id, 0, n)]).swap_remove(0));
        }
    }
    let a = all.add().expect("there is room");
    assert_eq!(read(&mut all, &[(a, 0, 300)])[0], expected[0]);
    let [b, c] = [300, PAGE].map(|n| all.fork(a, n).expect("there is room"));
    let d = all.fork(b, 300).expect("there is room");
    assert_eq!(all.free_tokens(), 2 * PAGE, "all of it is shared");
    assert_eq!(read(&mut all, &[(b, 0, 10)])[0], expected[1], "in a copy of the page");
    assert_eq!(all.free_tokens(), PAGE);
    // a page of its own for each of two, and one is there: nothing happens
    let texts = [text(&model, 0, 300..310), text(&model, 5, PAGE..PAGE + 4)];
    let work =
        [(d, 0), (c, 1)].map(|(sequence, i)| Work { sequence, tokens: &texts[i], logits: Logits::Last });
    let error = all.step(&work, &mut |_| panic!("nothing is computed")).expect_err("there is one page");
    assert_eq!(error.kind(), ErrorKind::CacheFull);
    let lengths = [a, b, c, d].map(|id| all.tokens(id).expect("is there").len());
    assert_eq!((lengths, all.free_tokens()), ([300, 310, PAGE, 300], PAGE));
    // another text in the same page leaves that of the others alone
    read(&mut all, &[(d, 5, 10)]);
    assert_eq!(read(&mut all, &[(a, 0, 10)])[0], expected[1]);
    assert_eq!(read(&mut all, &[(b, 0, 10)])[0], expected[2]);
    // what others have too stays; what nobody has is given to the next
    all.remove(a).expect("is there");
    all.remove(d).expect("is there");
    assert_eq!(all.free_tokens(), 2 * PAGE);
    let e = all.add().expect("there is room");
    read(&mut all, &[(e, 7, 300)]);
    all.truncate(b, 300).expect("is there");
    assert_eq!(read(&mut all, &[(b, 0, 10)])[0], expected[1]);
    all.truncate(e, 0).expect("is there");
    assert_eq!(read(&mut all, &[(e, 0, 300)])[0], expected[0], "in pages that another one had");
}

/// What recurrent layers remember goes with a fork; where tokens were forgotten, they are read again.
#[test]
fn forks_of_recurrent_models_remember() {
    for name in ["mamba", "qwen3next", "lfm2"] {
        let model = on_device(open(name));
        let mut all = sequences(&model, 3, KvTypes::default());
        let a = all.add().expect("there is room");
        read(&mut all, &[(a, 0, 5)]);
        read(&mut all, &[(a, 0, 1)]);
        let b = all.fork(a, 6).expect("there is room");
        let c = all.fork(a, 4).expect("there is room");
        read(&mut all, &[(c, 1, 3)]);
        let of_a = read(&mut all, &[(a, 0, 2)]).swap_remove(0);
        assert_eq!(read(&mut all, &[(b, 0, 2)])[0], of_a, "{name}: a fork goes on");
        let of_c = read(&mut all, &[(c, 1, 2)]).swap_remove(0);
        all.remove(a).expect("is there");
        let d = all.add().expect("there is room");
        let prompt = [text(&model, 0, 0..4), text(&model, 1, 4..7)].concat();
        let work = [Work { sequence: d, tokens: &prompt, logits: Logits::None }];
        step(&mut all, &work);
        let error = nmse(&of_c, &read(&mut all, &[(d, 1, 2)])[0]);
        assert!(error <= TOGETHER, "{name}: NMSE {error:.1e} where tokens were forgotten");
        assert!(nmse(&of_a, &of_c) > 1e-3, "{name}: they have read other texts");
    }
}

#[test]
fn the_best_logits_of_many_sequences_are_found() {
    let model = on_device(quantized());
    let n_vocab = model.spec().n_vocab;
    let mut all = sequences(&model, 9, KvTypes::default());
    let ids: Vec<_> = (0..9).map(|_| all.add().expect("there is room")).collect();
    let texts: Vec<_> = (0..9).map(|seq| text(&model, seq, 0..2)).collect();
    // the logits of some in the middle are not asked for
    let wants = |i: usize| if i % 3 == 1 { Logits::None } else { Logits::Last };
    let work: Vec<_> = ids
        .iter()
        .zip(&texts)
        .enumerate()
        .map(|(i, (id, tokens))| Work { sequence: *id, tokens, logits: wants(i) })
        .collect();
    let rows = step(&mut all, &work);
    for k in [1, 4] {
        ids.iter().for_each(|id| all.truncate(*id, 0).expect("is there"));
        let mut seen = Vec::new();
        let mut sink = |row: braise_engine::sequences::Row<'_, (u32, f32)>| {
            assert_eq!(rows[row.work].len(), n_vocab);
            let mut want: Vec<_> = (0..).zip(rows[row.work].iter().copied()).collect();
            want.sort_by(|a: &(u32, f32), b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            assert_eq!(row.logits.expect("finite numbers"), &want[..k], "the {k} best");
            seen.push((row.work, row.position));
            ControlFlow::Continue(())
        };
        all.step_best(&work, k, &mut sink).expect("the step is taken");
        assert_eq!(seen, [(0, 1), (2, 1), (3, 1), (5, 1), (6, 1), (8, 1)]);
    }
}
