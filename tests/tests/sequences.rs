//! Sequences that share steps get what each gets without the others, to the bit: of different lengths and ages, coming,
//! going and forgetting, in models of every kind of memory.

use std::ops::{ControlFlow, Range};
use std::path::Path;

use braise_engine::error::ErrorKind;
use braise_engine::model::Model;
use braise_engine::sequences::{Capacity, MAX_SEQUENCES, SequenceId, Sequences, Work};
use braise_engine::session::{Logits, Session, SessionOptions};
use braise_kernels::isa::Isa;
use braise_kernels::quant::Type;
use braise_tests::families;
use braise_tests::tiny::{self, BASE, Shape};
use fastrand::Rng;
use tempfile::NamedTempFile;

/// Up to so many tokens, or logits, the kernels of few compute.
const FEW: usize = 8;

/// Tokens that a sequence can hold, where a model has not learned fewer positions: more than two pages, and than a span.
const N_CTX: usize = 640;

fn n_ctx(model: &Model) -> usize {
    if model.spec().embedding.positions { N_CTX.min(model.spec().n_ctx) } else { N_CTX }
}

const CHUNK: usize = 160;

/// Models with every kind of mixer, window, position and network.
const FAMILIES: [&str; 14] = [
    "llama",
    "gpt2",
    "mpt",
    "gemma4",
    "gpt-oss",
    "llama4",
    "deepseek2",
    "qwen3moe",
    "lfm2",
    "mamba",
    "granitehybrid",
    "falcon-h1",
    "qwen3next",
    "kimi-linear",
];

fn open(isa: Isa, write: impl Fn(&Path)) -> Model {
    let file = NamedTempFile::new().expect("a temporary file");
    write(file.path());
    Model::open(file.path(), isa).expect("the model opens")
}

fn sequences(model: &Model, n: usize, threads: usize) -> Sequences<'_> {
    let options = SessionOptions {
        n_ctx: Some(n_ctx(model)),
        threads: Some(threads),
        chunk: Some(CHUNK),
        ..SessionOptions::default()
    };
    Sequences::new(model, Capacity { sequences: n, tokens: None }, &options).expect("there is room")
}

/// The token of sequence `seq` at `position`, after it has forgotten some `times` times.
fn token(seq: usize, position: usize, times: usize, n_vocab: usize) -> u32 {
    ((position * position * 31 + position * 7 + seq * 13 + times * 5 + 3) % n_vocab) as u32
}

/// What a sequence does in one step.
#[derive(Clone)]
struct Turn {
    /// Before the step it forgets what is behind this position.
    kept: usize,
    tokens: Vec<u32>,
    logits: Logits,
    /// Tokens of the step in all, and tokens that asked for logits.
    n_step: usize,
    n_wanted: usize,
    /// The bits that it got.
    got: Vec<u32>,
}

/// A sequence from its first step to its last.
struct Life {
    id: SequenceId,
    /// Which of all that ever were it is.
    seq: usize,
    length: usize,
    forgot: usize,
    /// With those of the sequence that it began as, if it did not begin empty.
    turns: Vec<Turn>,
}

/// Runs steps of up to `n` sequences that come and go until `steps` steps are over.
fn live_together(model: &Model, n: usize, threads: usize, steps: usize) -> Vec<Life> {
    let (n_vocab, n_ctx) = (model.spec().n_vocab, n_ctx(model));
    let mut random = Rng::with_seed(n as u64);
    let mut all = sequences(model, n, threads);
    let (mut lives, mut over, mut n_ever) = (Vec::<Life>::new(), Vec::new(), 0);
    for _ in 0..steps {
        if lives.len() < n {
            // the first one is long, so that its keys lie in several pages and spans
            let length = if n_ever % 5 == 0 { n_ctx } else { random.usize(1..90) };
            let (id, turns) = match lives.is_empty() || random.bool() {
                true => (all.add().expect("there is room"), Vec::new()),
                false => {
                    let parent = &lives[random.usize(..lives.len())];
                    let n_tokens = all.tokens(parent.id).expect("is there").len();
                    let n_taken = if random.bool() { n_tokens } else { random.usize(..=n_tokens) };
                    (all.fork(parent.id, n_taken).expect("there is room"), parent.turns.clone())
                }
            };
            let length = length.max(all.tokens(id).expect("is there").len() + 1).min(n_ctx);
            lives.push(Life { id, seq: n_ever, length, forgot: 0, turns });
            n_ever += 1;
        }
        let mut room = CHUNK.min(all.max_step()) - lives.len();
        for life in &mut lives {
            let mut kept = all.tokens(life.id).expect("is there").len();
            if kept > 0 && random.u8(..12) == 0 {
                kept = random.usize(..kept);
                all.truncate(life.id, kept).expect("is there");
                life.forgot += 1;
            }
            // a prompt, now and then a part of one, and else single tokens
            let burst = if life.length == n_ctx { 130 } else { 30 };
            let most = if kept == 0 || random.u8(..5) == 0 { random.usize(1..=burst) } else { 1 };
            let n_tokens = most.min(life.length - kept).min(1 + room);
            room -= n_tokens - 1;
            let tokens = (kept..kept + n_tokens).map(|i| token(life.seq, i, life.forgot, n_vocab)).collect();
            let logits = match random.u8(..8) {
                0 => Logits::None,
                1 => Logits::All,
                _ => Logits::Last,
            };
            life.turns.push(Turn { kept, tokens, logits, n_step: 0, n_wanted: 0, got: Vec::new() });
        }
        let work: Vec<_> = lives
            .iter()
            .map(|life| {
                let Turn { tokens, logits, .. } = life.turns.last().expect("was pushed");
                Work { sequence: life.id, tokens, logits: *logits }
            })
            .collect();
        let (got, n_wanted) = step(&mut all, &work, n_vocab);
        let n_step = work.iter().map(|work| work.tokens.len()).sum();
        for (life, got) in lives.iter_mut().zip(got) {
            let turn = life.turns.last_mut().expect("was pushed");
            (turn.n_step, turn.n_wanted, turn.got) = (n_step, n_wanted, got);
        }
        let ended = |life: &mut Life| all.tokens(life.id).expect("is there").len() >= life.length;
        for life in lives.extract_if(.., ended).collect::<Vec<_>>() {
            all.remove(life.id).expect("is there");
            over.push(life);
        }
    }
    over.extend(lives);
    over
}

/// The bits of the logits of each work, and how many tokens asked for them.
fn step(all: &mut Sequences<'_>, work: &[Work<'_>], n_vocab: usize) -> (Vec<Vec<u32>>, usize) {
    let mut got = vec![Vec::new(); work.len()];
    let befores: Vec<_> = work.iter().map(|w| all.tokens(w.sequence).expect("is there").len()).collect();
    let mut wanted: Vec<(usize, usize)> = Vec::new();
    for (i, (work, before)) in work.iter().zip(befores).enumerate() {
        let end = before + work.tokens.len();
        let positions: Range<usize> = match work.logits {
            Logits::None => end..end,
            Logits::Last => end - 1..end,
            Logits::All => before..end,
        };
        wanted.extend(positions.map(|position| (i, position)));
    }
    let mut next = wanted.iter();
    let mut sink = |row: braise_engine::sequences::Row<'_>| {
        let logits = row.logits.expect("finite numbers");
        assert_eq!(
            (Some(&(row.work, row.position)), logits.len()),
            (next.next(), n_vocab),
            "rows are in order"
        );
        got[row.work].extend(logits.iter().map(|logit| logit.to_bits()));
        ControlFlow::Continue(())
    };
    all.step(work, &mut sink).expect("the step is taken");
    assert!(next.next().is_none(), "every row was given");
    (got, wanted.len())
}

/// Does what a sequence did without the others. Where steps had many tokens, or logits, one other sequence reads and
/// asks for some, so that the same kernels compute.
fn live_alone(model: &Model, life: &Life, n: usize) {
    let n_vocab = model.spec().n_vocab;
    let mut all = sequences(model, if n <= FEW { 2 } else { FEW + 1 }, 1);
    let other = all.add().expect("there is room");
    let id = all.add().expect("there is room");
    let filling: Vec<u32> = (0..=FEW).map(|i| token(1000, i, 0, n_vocab)).collect();
    for (i, turn) in life.turns.iter().enumerate() {
        all.truncate(id, turn.kept).expect("is there");
        all.truncate(other, 0).expect("is there");
        let mine = Work { sequence: id, tokens: &turn.tokens, logits: turn.logits };
        let logits = if turn.n_wanted > FEW { Logits::All } else { Logits::None };
        let filler = Work { sequence: other, tokens: &filling, logits };
        // of a sequence that began as another one, that one's turns come first
        let got = match turn.n_step > FEW {
            true => step(&mut all, &[mine, filler], n_vocab).0.swap_remove(0),
            false => step(&mut all, &[mine], n_vocab).0.swap_remove(0),
        };
        assert!(
            got == turn.got,
            "{n} sequences: turn {i} of sequence {}, {} tokens after {}, of a step of {}",
            life.seq,
            turn.tokens.len(),
            turn.kept,
            turn.n_step
        );
    }
}

fn check(name: &str, model: &Model, n: usize, threads: usize, steps: usize) {
    let lives = live_together(model, n, threads, steps);
    let turns = || lives.iter().flat_map(|life| &life.turns);
    let forgot: usize = lives.iter().map(|life| life.forgot).sum();
    println!("{name}, {n} at a time, {threads} threads: {} sequences, {forgot} times shorter", lives.len());
    assert!(forgot > 0 && turns().any(|turn| turn.n_step > FEW), "{name}: the schedule is too simple");
    assert!(n > FEW || turns().any(|turn| turn.n_step <= FEW), "{name}: the schedule is too simple");
    for life in &lives {
        live_alone(model, life, n);
    }
}

#[test]
fn sequences_of_every_family_do_not_see_each_other() {
    const AT_A_TIME: [usize; 7] = [1, 2, 3, 7, 8, 9, 17];
    for (i, name) in FAMILIES.into_iter().enumerate() {
        let model = open(Isa::best(), |path| families::write(name, path));
        // few, many and some number more; the first family has them all
        let others = AT_A_TIME.into_iter().enumerate().filter(|(j, n)| i == 0 || *n == 17 || j % 6 == i % 6);
        for (j, n) in others {
            check(name, &model, n, 1 + (i + j) % 3, 40);
        }
    }
}

/// Quantized weights: kernels of few and of many tokens round differently, and attention of many in fewer bits.
#[test]
fn sequences_do_not_see_each_other_in_quantized_models() {
    for isa in Isa::ALL.into_iter().filter(|isa| {
        let is_supported = isa.is_supported();
        if !is_supported {
            println!("skipped: this CPU does not have {isa}");
        }
        is_supported
    }) {
        let model = open(isa, |path| tiny::write(&Shape { ty: Type::Q8_0, ..BASE }, 7, path));
        for (n, threads) in [(1, 1), (3, 2), (8, 3), (9, 2), (17, 1)] {
            check(isa.name(), &model, n, threads, 30);
        }
    }
}

/// A session is a sequence alone: with float weights, which all kernels multiply in the same way, 17 sequences in common
/// steps get its logits.
#[test]
fn a_sequence_among_others_is_a_session() {
    let model = open(Isa::best(), |path| families::write("llama", path));
    let n_vocab = model.spec().n_vocab;
    for life in live_together(&model, 17, 2, 30) {
        let options = SessionOptions { n_ctx: Some(N_CTX), threads: Some(1), ..SessionOptions::default() };
        let mut session = Session::new(&model, &options).expect("a session");
        for turn in &life.turns {
            session.truncate(turn.kept);
            let mut got = Vec::new();
            let mut sink = |_, logits: &[f32]| {
                got.extend(logits.iter().map(|logit| logit.to_bits()));
                ControlFlow::Continue(())
            };
            session.eval(&turn.tokens, turn.logits, &mut sink).expect("the tokens are read");
            assert!(got == turn.got, "{} logits", got.len() / n_vocab);
        }
    }
}

#[test]
fn as_many_sequences_as_can_be_share_a_step() {
    let model = open(Isa::best(), |path| families::write("llama", path));
    let n_vocab = model.spec().n_vocab;
    let mut all = sequences(&model, MAX_SEQUENCES, 2);
    let ids: Vec<_> = (0..MAX_SEQUENCES).map(|_| all.add().expect("there is room")).collect();
    assert_eq!(all.add().expect_err("there is no place").kind(), ErrorKind::CacheFull);
    let mut another = sequences(&model, MAX_SEQUENCES, 1);
    let others: Vec<_> = (0..MAX_SEQUENCES).map(|_| another.add().expect("there is room")).collect();
    for position in 0..3 {
        let tokens: Vec<u32> = (0..MAX_SEQUENCES).map(|i| token(i, position, 0, n_vocab)).collect();
        let work = |ids: &[SequenceId]| -> Vec<Work<'_>> {
            let of = ids.iter().zip(tokens.chunks(1));
            of.map(|(id, tokens)| Work { sequence: *id, tokens, logits: Logits::Last }).collect()
        };
        let (got, n_wanted) = step(&mut all, &work(&ids), n_vocab);
        assert_eq!(n_wanted, MAX_SEQUENCES);
        let mut reversed = work(&others);
        reversed.reverse();
        let (mut other, _) = step(&mut another, &reversed, n_vocab);
        other.reverse();
        assert!(got == other, "the order of a step's works changes their logits at position {position}");
        assert!(got[0] != got[1], "they have read other tokens");
    }
}

#[test]
fn a_full_cache_refuses_and_changes_nothing() {
    let model = open(Isa::best(), |path| families::write("llama", path));
    let n_vocab = model.spec().n_vocab;
    let options = SessionOptions {
        n_ctx: Some(N_CTX),
        threads: Some(2),
        chunk: Some(N_CTX),
        ..SessionOptions::default()
    };
    // three pages of 256 tokens
    let capacity = Capacity { sequences: 3, tokens: Some(600) };
    let mut all = Sequences::new(&model, capacity, &options).expect("there is room");
    assert_eq!(all.free_tokens(), 768);
    let tokens: Vec<u32> = (0..N_CTX).map(|i| token(0, i, 0, n_vocab)).collect();
    let read =
        |sequence, range: Range<usize>| Work { sequence, tokens: &tokens[range], logits: Logits::Last };
    let [a, b] = [0, 1].map(|_| all.add().expect("there is room"));
    step(&mut all, &[read(a, 0..500)], n_vocab);
    let (last, _) = step(&mut all, &[read(b, 0..200)], n_vocab);
    assert_eq!(all.free_tokens(), 0);

    assert_eq!(all.add().expect_err("no page is free").kind(), ErrorKind::CacheFull);
    let mut nothing = |_: braise_engine::sequences::Row<'_>| panic!("nothing is computed");
    for work in [vec![read(a, 500..530)], vec![read(b, 200..201), read(a, 500..530)]] {
        let error = all.step(&work, &mut nothing).expect_err("there is no room");
        assert_eq!(error.kind(), ErrorKind::CacheFull);
        assert!(error.to_string().contains("3 pages of 256 tokens, of which 0 are free"), "{error}");
        assert_eq!([a, b].map(|id| all.tokens(id).expect("is there").len()), [500, 200]);
    }
    // what fits goes on, and one that ends makes room
    let (more, _) = step(&mut all, &[read(b, 200..256)], n_vocab);
    all.truncate(b, 199).expect("is there");
    assert!(step(&mut all, &[read(b, 199..200)], n_vocab).0 == last);
    assert!(step(&mut all, &[read(b, 200..256)], n_vocab).0 == more);
    all.remove(b).expect("is there");
    assert_eq!(all.free_tokens(), 256);
    let c = all.add().expect("there is room again");
    assert!(step(&mut all, &[read(c, 0..200)], n_vocab).0 == last, "in pages that another one had");
}

#[test]
fn what_sequences_have_in_common_takes_no_memory() {
    let model = open(Isa::best(), |path| families::write("llama", path));
    let n_vocab = model.spec().n_vocab;
    let options = SessionOptions { n_ctx: Some(N_CTX), threads: Some(2), ..SessionOptions::default() };
    let capacity = Capacity { sequences: 4, tokens: Some(4 * 256) };
    let mut all = Sequences::new(&model, capacity, &options).expect("there is room");
    let tokens: Vec<u32> = (0..N_CTX).map(|i| token(0, i, 0, n_vocab)).collect();
    let read =
        |sequence, range: Range<usize>| Work { sequence, tokens: &tokens[range], logits: Logits::Last };
    let a = all.add().expect("there is room");
    let (mut next, mut expected) = (0, Vec::new());
    for end in [300, 310, 520] {
        expected.push(step(&mut all, &[read(a, next..end)], n_vocab).0);
        next = end;
    }
    all.truncate(a, 300).expect("is there");
    assert_eq!(all.free_tokens(), 2 * 256);
    let [b, c] = [300, 256].map(|n| all.fork(a, n).expect("there is room"));
    let d = all.fork(b, 300).expect("there is room");
    assert_eq!(all.fork(b, 300).expect_err("no place is free").kind(), ErrorKind::CacheFull);
    assert_eq!(all.fork(b, 301).expect_err("it has less").kind(), ErrorKind::Input);
    assert_eq!(all.free_tokens(), 2 * 256, "all of it is shared");
    // each gets a page of its own when it writes into a common one, but for the last that has it
    assert!(step(&mut all, &[read(b, 300..310)], n_vocab).0 == expected[1]);
    assert_eq!(all.free_tokens(), 256);
    let mut nothing = |_: braise_engine::sequences::Row<'_>| panic!("nothing is computed");
    let both = all.step(&[read(a, 300..310), read(d, 300..310), read(c, 256..257)], &mut nothing);
    assert_eq!(both.expect_err("there is one page").kind(), ErrorKind::CacheFull);
    assert!(step(&mut all, &[read(a, 300..310)], n_vocab).0 == expected[1]);
    assert_eq!(all.free_tokens(), 0);
    assert!(step(&mut all, &[read(d, 300..310)], n_vocab).0 == expected[1]);
    all.remove(a).expect("is there");
    assert_eq!(all.free_tokens(), 256, "what others have too stays");
    assert!(step(&mut all, &[read(b, 310..520)], n_vocab).0 == expected[2]);
    [b, c, d].into_iter().for_each(|id| all.remove(id).expect("is there"));
    assert_eq!(all.free_tokens(), 4 * 256);
}

#[test]
fn wrong_steps_are_refused_and_change_nothing() {
    let model = open(Isa::best(), |path| families::write("llama", path));
    let n_vocab = model.spec().n_vocab as u32;
    let mut all = sequences(&model, 2, 1);
    let [a, b] = [0, 1].map(|_| all.add().expect("there is room"));
    all.remove(b).expect("is there");
    let (unknown, long, longer) = ([1, n_vocab], vec![1; CHUNK + 1], vec![1; N_CTX + 1]);
    let work = |sequence, tokens| Work { sequence, tokens, logits: Logits::Last };
    let cases = [
        (vec![work(a, &[][..])], ErrorKind::Input, "no tokens"),
        (vec![work(a, &unknown)], ErrorKind::Input, "not in the vocabulary"),
        (vec![work(a, &[1]), work(a, &[2])], ErrorKind::Input, "two works"),
        (vec![work(a, &[1]), work(b, &[2])], ErrorKind::Input, "no such sequence"),
        (vec![work(a, &long)], ErrorKind::Input, "a step of 161 tokens"),
        (vec![work(a, &longer)], ErrorKind::ContextFull, "do not fit the context"),
    ];
    for (work, kind, part) in cases {
        let error = all.step(&work, &mut |_| panic!("nothing is computed")).expect_err(part);
        assert!(error.kind() == kind && error.to_string().contains(part), "{error}");
        assert!(all.tokens(a).expect("is there").is_empty());
    }
    all.step(&[], &mut |_| panic!("nothing is computed")).expect("nothing to do");
    for error in [all.remove(b), all.truncate(b, 0), all.settle(b), all.tokens(b).map(|_| ())] {
        assert_eq!(error.expect_err("it was removed").kind(), ErrorKind::Input);
    }
    for n in [0, MAX_SEQUENCES + 1] {
        let capacity = Capacity { sequences: n, tokens: None };
        let error = Sequences::new(&model, capacity, &SessionOptions::default()).expect_err("no such number");
        assert_eq!(error.kind(), ErrorKind::Input);
    }
}
