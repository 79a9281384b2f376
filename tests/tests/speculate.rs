//! Speculation changes the time alone: the same text, the same end, the same tokens read, whatever is drafted.
//!
//! The length of drafts is fixed in most tests, so that what is tried does not depend on the time that anything takes.

use std::cell::RefCell;
use std::ops::ControlFlow;

use braise_engine::error::{ErrorKind, Result};
use braise_engine::generate::{Finish, Outcome, Request, generate};
use braise_engine::model::Model;
use braise_engine::sample::SamplerOptions;
use braise_engine::session::{Session, SessionOptions};
use braise_engine::speculate::{Draft, DraftModel, Drafter, MAX_DRAFT, NGram, Speculation};
use braise_engine::tokenizer::{ControlTokens, Tokenizer, Vocab};
use braise_kernels::isa::Isa;
use braise_kernels::quant::Type;
use braise_tests::tiny::{self, BASE, Shape};
use tempfile::NamedTempFile;

/// Formats with kernels of each kind, in rows of whole blocks.
const QUANTIZED: Shape = Shape {
    n_embd: 256,
    head_dim: 64,
    head_dim_v: 64,
    rope_dims: 64,
    n_ff: 512,
    ty: Type::Q4_K,
    types: &[("attn_q", Type::F16), ("ffn_down", Type::Q8_0), ("output", Type::Q6_K)],
    ..BASE
};

fn model(shape: &Shape, seed: u64, isa: Isa) -> (NamedTempFile, Model) {
    let file = NamedTempFile::new().expect("a temporary file");
    tiny::write(shape, seed, file.path());
    let model = Model::open(file.path(), isa).expect("the model opens");
    (file, model)
}

/// A vocabulary whose token 7 is the text `7,`; what ends a text is a token more, which no model has.
fn tokenizer(n_vocab: usize) -> Tokenizer {
    let texts: Vec<String> = (0..=n_vocab).map(|id| format!("{id},")).collect();
    let vocab = Vocab {
        model: "llama",
        tokens: texts.iter().map(String::as_bytes).collect(),
        scores: vec![0.0; texts.len()],
        eos: Some(n_vocab as u32),
        add_bos: Some(false),
        ..Vocab::default()
    };
    Tokenizer::new(&vocab).expect("a vocabulary")
}

fn session(model: &Model, n_ctx: usize) -> Session<'_> {
    Session::new(model, &options(n_ctx)).expect("a session")
}

fn options(n_ctx: usize) -> SessionOptions {
    SessionOptions { n_ctx: Some(n_ctx), threads: Some(1), ..SessionOptions::default() }
}

/// What a generation gives, but for times and counts.
#[derive(Debug, PartialEq)]
struct Run {
    text: String,
    finish: Finish,
    prefill_tokens: usize,
    decode_tokens: usize,
    read: Vec<u32>,
}

fn run(
    session: &mut Session<'_>,
    request: &Request<'_>,
    drafts: Option<&mut Speculation<'_>>,
) -> (Run, Outcome) {
    let tokenizer = tokenizer(session.model().spec().n_vocab);
    let mut text = String::new();
    let outcome = generate(session, &tokenizer, request, drafts, &mut |part| {
        text.push_str(part);
        ControlFlow::Continue(())
    });
    let outcome = outcome.expect("it generates");
    let Outcome { finish, prefill_tokens, decode_tokens, .. } = outcome;
    (Run { text, finish, prefill_tokens, decode_tokens, read: session.tokens().to_vec() }, outcome)
}

/// `n` tokens that repeat themselves a little.
fn prompt(n: usize) -> Vec<u32> {
    (0..n).map(|i| (i % 13 * 11 + i / 40) as u32).collect()
}

fn greedy() -> SamplerOptions {
    SamplerOptions { temperature: 0.0, ..SamplerOptions::default() }
}

fn request<'a>(prompt: &'a [u32], sampler: SamplerOptions, max_tokens: usize) -> Request<'a> {
    Request {
        prompt,
        sampler,
        max_tokens: Some(max_tokens),
        stop: &[],
        constraint: None,
        control: ControlTokens::Hide,
    }
}

/// Drafts what it was told to, right or wrong.
struct Told(Vec<u32>);

impl Drafter for Told {
    fn begin(&mut self, _: &[u32]) -> Result<()> {
        Ok(())
    }

    fn draft(&mut self, text: &[u32], max: usize, drafts: &mut Vec<Draft>) -> Result<()> {
        let rest = self.0.get(text.len()..).unwrap_or_default();
        drafts.extend(rest.iter().take(max).map(|token| Draft { token: *token, class: 0 }));
        Ok(())
    }
}

#[test]
fn the_text_is_the_same_whatever_is_drafted() {
    let tokenizer = tokenizer(BASE.n_vocab);
    let samplers = [
        greedy(),
        SamplerOptions { temperature: 0.3, seed: Some(5), ..SamplerOptions::default() },
        SamplerOptions { temperature: 1.0, seed: Some(6), repeat_penalty: 1.2, ..SamplerOptions::default() },
    ];
    let mut accepted = [0; 4];
    for isa in Isa::ALL {
        if !isa.is_supported() {
            println!("skipped: this CPU does not have {isa}");
            continue;
        }
        let (_other_file, other) = model(&BASE, 4, isa);
        for shape in [BASE, QUANTIZED] {
            let (_file, model) = model(&shape, 3, isa);
            let drafts_by = |model| {
                let drafter = DraftModel::new(model, &tokenizer, &tokenizer, &options(128));
                Speculation::new(drafter.expect("drafts"))
            };
            for (sampler, n_prompt) in samplers.iter().flat_map(|sampler| [(sampler, 1), (sampler, 60)]) {
                let prompt = prompt(n_prompt);
                let request = request(&prompt, sampler.clone(), 60);
                let (plain, _) = run(&mut session(&model, 128), &request, None);
                assert_eq!(plain.decode_tokens, 59);
                let speculations = [
                    Speculation::new(NGram::new()).with_length(2),
                    Speculation::new(NGram::new()).with_length(MAX_DRAFT),
                    drafts_by(&model).with_length(MAX_DRAFT),
                    drafts_by(&other).with_length(3),
                ];
                for (i, mut speculation) in speculations.into_iter().enumerate() {
                    let (with, outcome) = run(&mut session(&model, 128), &request, Some(&mut speculation));
                    assert_eq!(with, plain, "{isa}, drafter {i}, {sampler:?}");
                    accepted[i] += outcome.speculation.accepted;
                }
            }
        }
    }
    assert!(accepted.iter().all(|n| *n > 10), "each drafter was right sometimes: {accepted:?}");
}

#[test]
fn measured_lengths_give_the_same_text_too() {
    let (_file, model) = model(&QUANTIZED, 3, Isa::best());
    let mut speculation = Speculation::new(NGram::new());
    for n in [20, 60, 3] {
        let prompt = prompt(n);
        let request = request(&prompt, greedy(), 400);
        let (plain, _) = run(&mut session(&model, 512), &request, None);
        let (with, outcome) = run(&mut session(&model, 512), &request, Some(&mut speculation));
        assert_eq!(with, plain);
        assert!(outcome.speculation.accepted <= outcome.speculation.drafted);
    }
}

#[test]
fn a_model_drafts_for_itself_without_error() {
    let (_file, model) = model(&QUANTIZED, 3, Isa::best());
    let tokenizer = tokenizer(QUANTIZED.n_vocab);
    let drafter = DraftModel::new(&model, &tokenizer, &tokenizer, &options(256)).expect("drafts");
    let mut speculation = Speculation::new(drafter).with_length(4);
    let prompt = prompt(40);
    let (_, outcome) =
        run(&mut session(&model, 256), &request(&prompt, greedy(), 101), Some(&mut speculation));
    // 100 tokens after the first, in 20 passes of which each makes one more than it has drafts
    assert_eq!((outcome.speculation.drafted, outcome.speculation.accepted), (80, 80));
}

#[test]
fn right_and_wrong_drafts_are_counted() {
    let (_file, model) = model(&BASE, 3, Isa::best());
    let prompt = prompt(10);
    let request = request(&prompt, greedy(), 21);
    let (plain, _) = run(&mut session(&model, 64), &request, None);
    let mut told = plain.read.clone(); // all but the last token
    told.push(0);
    let counts = |told: &[u32]| {
        let mut speculation = Speculation::new(Told(told.to_vec())).with_length(3);
        let (with, outcome) = run(&mut session(&model, 64), &request, Some(&mut speculation));
        assert_eq!(with, plain);
        (outcome.speculation.drafted, outcome.speculation.accepted)
    };
    assert_eq!(counts(&told), (15, 15), "20 tokens after the first in passes of 4");
    assert_eq!(counts(&told[..prompt.len()]), (0, 0), "no drafts");
    let wrong: Vec<u32> = told.iter().map(|token| (token + 1) % BASE.n_vocab as u32).collect();
    assert_eq!(counts(&wrong).1, 0);
    let no_tokens = vec![BASE.n_vocab as u32; told.len()];
    assert_eq!(counts(&no_tokens), (0, 0), "ids outside of the vocabulary are no drafts");
}

#[test]
fn a_text_that_ends_inside_accepted_drafts_leaves_the_session_as_without() {
    let (_file, model) = model(&BASE, 3, Isa::best());
    let prompt = prompt(25);
    let whole = request(&prompt, greedy(), 40);
    let (plain, _) = run(&mut session(&model, 128), &whole, None);
    let pieces: Vec<String> = plain.text.split_inclusive(',').map(String::from).collect();
    for at in 1..pieces.len() - 1 {
        // the end by a stop text, which may come earlier too, and by the number of tokens
        let stop = [pieces[at..=at + 1].concat()];
        let requests =
            [Request { stop: &stop, ..whole.clone() }, Request { max_tokens: Some(at), ..whole.clone() }];
        for (request, finish) in requests.into_iter().zip([Finish::Stop, Finish::Length]) {
            let mut without = session(&model, 128);
            let (expected, _) = run(&mut without, &request, None);
            assert_eq!(expected.finish, finish);
            let mut speculation = Speculation::new(Told(plain.read.clone())).with_length(MAX_DRAFT);
            let mut with = session(&model, 128);
            assert_eq!(run(&mut with, &request, Some(&mut speculation)).0, expected, "{at}");
            // and so does what is said next
            let mut next = expected.read.clone();
            next.extend([5, 6, 7]);
            let again = self::request(&next, greedy(), 9);
            assert_eq!(run(&mut with, &again, None).0, run(&mut without, &again, None).0);
        }
    }
}

#[test]
fn the_end_of_the_context_is_the_same() {
    let (_file, model) = model(&BASE, 3, Isa::best());
    let tokenizer = tokenizer(BASE.n_vocab);
    let prompt = prompt(20);
    for n_ctx in 20..40 {
        let request = Request { max_tokens: None, ..request(&prompt, greedy(), 1) };
        let (plain, _) = run(&mut session(&model, n_ctx), &request, None);
        assert_eq!((plain.finish, plain.read.len()), (Finish::ContextFull, n_ctx));
        // a draft model whose context ends before, with, and after that of the large one
        for n_draft in [5, n_ctx - 2, n_ctx, n_ctx + 9] {
            let drafter = DraftModel::new(&model, &tokenizer, &tokenizer, &options(n_draft)).expect("drafts");
            let mut speculation = Speculation::new(drafter).with_length(MAX_DRAFT);
            let (with, outcome) = run(&mut session(&model, n_ctx), &request, Some(&mut speculation));
            assert_eq!(with, plain, "{n_ctx}, {n_draft}");
            assert_eq!(outcome.speculation.accepted > 0, n_draft > 20 && n_ctx > 21, "{n_ctx}, {n_draft}");
        }
        let mut speculation = Speculation::new(NGram::new()).with_length(MAX_DRAFT);
        assert_eq!(run(&mut session(&model, n_ctx), &request, Some(&mut speculation)).0, plain);
    }
}

#[test]
fn one_speculation_serves_text_after_text() {
    let (_file, model) = model(&BASE, 3, Isa::best());
    let tokenizer = tokenizer(BASE.n_vocab);
    let drafter = DraftModel::new(&model, &tokenizer, &tokenizer, &options(256)).expect("drafts");
    let mut speculations =
        [Speculation::new(drafter), Speculation::new(NGram::new())].map(|s| s.with_length(3));
    let mut with = session(&model, 256);
    let mut without = session(&model, 256);
    // longer, shorter, another, the first again
    for text in [prompt(30), prompt(90), prompt(7), vec![3; 40], prompt(30)] {
        for (i, speculation) in speculations.iter_mut().enumerate() {
            speculation_is_reused(&mut with, &mut without, &text, speculation, i == 0);
        }
    }
}

fn speculation_is_reused(
    with: &mut Session<'_>,
    without: &mut Session<'_>,
    text: &[u32],
    speculation: &mut Speculation<'_>,
    is_the_model: bool,
) {
    let request = request(text, greedy(), 30);
    let (expected, _) = run(without, &request, None);
    let (got, outcome) = run(with, &request, Some(speculation));
    assert_eq!(got, expected);
    if is_the_model {
        let counts = outcome.speculation;
        assert!(counts.accepted == counts.drafted && counts.drafted > 20, "the draft model knows the text");
    }
}

/// Notes what a draft model drafts.
struct Noted<'m, 'n> {
    drafter: DraftModel<'m>,
    notes: &'n RefCell<Vec<(Vec<u32>, u32)>>,
}

impl Drafter for Noted<'_, '_> {
    fn begin(&mut self, text: &[u32]) -> Result<()> {
        self.drafter.begin(text)
    }

    fn draft(&mut self, text: &[u32], max: usize, drafts: &mut Vec<Draft>) -> Result<()> {
        self.drafter.draft(text, max, drafts)?;
        self.notes.borrow_mut().push((text.to_vec(), drafts[0].token));
        Ok(())
    }
}

#[test]
fn what_was_not_accepted_leaves_no_trace_in_the_draft_model() {
    let (_file, model) = model(&BASE, 3, Isa::Portable);
    let tokenizer = tokenizer(BASE.n_vocab);
    let (prompt, notes) = (prompt(30), RefCell::default());
    let drafter = DraftModel::new(&model, &tokenizer, &tokenizer, &options(128)).expect("drafts");
    let mut speculation = Speculation::new(Noted { drafter, notes: &notes }).with_length(4);
    // at this temperature the likeliest token is picked sometimes
    let sampler = SamplerOptions { temperature: 0.5, seed: Some(2), ..SamplerOptions::default() };
    let request = request(&prompt, sampler, 60);
    let counts = run(&mut session(&model, 128), &request, Some(&mut speculation)).1.speculation;
    assert!(counts.accepted > 5 && counts.accepted + 20 < counts.drafted, "{counts:?}");
    for (text, draft) in notes.borrow().iter() {
        let again = self::request(text, greedy(), 1);
        // on this level a text gives the same bits however it is cut
        assert_eq!(run(&mut session(&model, 128), &again, None).0.text, format!("{draft},"));
    }
}

#[test]
fn another_vocabulary_is_refused_and_a_longer_one_is_not() {
    let (_file, model) = model(&BASE, 3, Isa::best());
    let n = BASE.n_vocab;
    let (_small_file, small) = self::model(&Shape { n_vocab: n - 20, ..BASE }, 3, Isa::best());
    let (_large_file, large) = self::model(&Shape { n_vocab: n + 20, ..BASE }, 3, Isa::best());
    let texts: Vec<String> =
        (0..n).map(|id| if id == 9 { "nine".into() } else { format!("{id},") }).collect();
    let vocab = Vocab {
        model: "llama",
        tokens: texts.iter().map(String::as_bytes).collect(),
        scores: vec![0.0; n],
        ..Vocab::default()
    };
    let other = Tokenizer::new(&vocab).expect("a vocabulary");
    let error = DraftModel::new(&model, &other, &tokenizer(n), &options(64)).expect_err("differs");
    assert_eq!(error.kind(), ErrorKind::Input);
    let text = error.to_string();
    assert!(text.contains("token 9 ") && text.contains(".tmp") && text.contains("same family"), "{text}");

    let prompt = prompt(30);
    for (draft, n_draft) in [(&small, n - 20), (&large, n + 20)] {
        let drafter =
            DraftModel::new(draft, &tokenizer(n_draft), &tokenizer(n), &options(256)).expect("drafts");
        let mut speculation = Speculation::new(drafter).with_length(3);
        let request = request(&prompt, greedy(), 60);
        let (plain, _) = run(&mut session(&model, 256), &request, None);
        assert_eq!(run(&mut session(&model, 256), &request, Some(&mut speculation)).0, plain);
    }
}

#[test]
fn what_a_drafter_cannot_do_is_said() {
    struct Broken;
    impl Drafter for Broken {
        fn begin(&mut self, _: &[u32]) -> Result<()> {
            Err(braise_engine::Error::new(ErrorKind::Numeric, "broken"))
        }
        fn draft(&mut self, _: &[u32], _: usize, _: &mut Vec<Draft>) -> Result<()> {
            unreachable!("it could not begin")
        }
    }
    let (_file, model) = model(&BASE, 3, Isa::best());
    let (prompt, tokenizer) = (prompt(9), tokenizer(BASE.n_vocab));
    let mut speculation = Speculation::new(Broken);
    let request = request(&prompt, greedy(), 5);
    let mut session = session(&model, 64);
    let sink = &mut |_: &str| ControlFlow::Continue(());
    let error = generate(&mut session, &tokenizer, &request, Some(&mut speculation), sink);
    assert_eq!(error.expect_err("is broken").kind(), ErrorKind::Numeric);
}
