//! Running a test.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::Usage;
use crate::error::Result;
use crate::kv::KvTypes;
use crate::model::Model;
use crate::session::{Logits, Session, SessionOptions};

/// What is timed: reading a prompt, then generating.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Test {
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Tokens generated after it.
    pub n_gen: usize,
    /// Tokens that are in the context before, which are not timed.
    pub n_depth: usize,
}

impl Test {
    /// Tokens that are timed.
    pub fn n_tokens(&self) -> usize {
        self.n_prompt + self.n_gen
    }

    /// Tokens that the context must hold.
    pub fn n_ctx(&self) -> usize {
        self.n_depth + self.n_tokens()
    }

    /// The forward passes, with chunks of `chunk` tokens: position of the first token, tokens, and how many ask for
    /// logits.
    pub(super) fn passes(self, chunk: usize) -> impl Iterator<Item = (usize, usize, usize)> {
        let Test { n_prompt, n_gen, n_depth } = self;
        let prompt = (0..n_prompt).step_by(chunk).map(move |start| {
            let n = chunk.min(n_prompt - start);
            (n_depth + start, n, usize::from(start + n == n_prompt))
        });
        prompt.chain((0..n_gen).map(move |i| (n_depth + n_prompt + i, 1, 1)))
    }
}

impl std::fmt::Display for Test {
    /// As llama-bench names tests: `pp512`, `tg128 @ d4096`, `pp512+tg128`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Test { n_prompt, n_gen, n_depth } = self;
        match (n_prompt, n_gen) {
            (_, 0) => write!(f, "pp{n_prompt}")?,
            (0, _) => write!(f, "tg{n_gen}")?,
            _ => write!(f, "pp{n_prompt}+tg{n_gen}")?,
        }
        if *n_depth > 0 { write!(f, " @ d{n_depth}") } else { Ok(()) }
    }
}

/// The repetitions of a test.
#[derive(Debug, Clone)]
pub struct Runs {
    /// Time of each.
    pub samples: Vec<Duration>,
    /// Time to the first logits, the shortest of all repetitions: that of the whole prompt, or of one token where
    /// there is no prompt.
    pub first_token: Duration,
    /// What the process used during them.
    pub usage: Usage,
    /// Most bytes that the session takes: key/value cache and activations.
    pub session_bytes: u64,
    /// Time to get the session ready.
    pub start: Duration,
}

/// Runs `test`, with a key/value cache of the formats `kv`, once to warm up (of the generation only one token), then
/// `reps` times on `n_threads` threads, with random tokens. Logits are computed of the last token alone, as generation needs them.
///
/// # Errors
/// As [`Session::new`] and [`Session::eval`].
pub fn run(model: &Model, test: &Test, n_threads: usize, kv: KvTypes, reps: usize) -> Result<Runs> {
    let begin = Instant::now();
    let options = SessionOptions { n_ctx: Some(test.n_ctx()), threads: Some(n_threads), chunk: None, kv };
    let mut session = Session::new(model, &options)?;
    let start = begin.elapsed();
    let mut random = fastrand::Rng::with_seed(1);
    let tokens: Vec<u32> = (0..test.n_ctx()).map(|_| random.u32(..model.spec().n_vocab as u32)).collect();
    let (depth, timed) = tokens.split_at(test.n_depth);
    if !depth.is_empty() {
        read(&mut session, depth)?;
    }
    repetition(&mut session, &timed[..test.n_prompt + test.n_gen.min(1)], test)?;
    let before = Usage::now();
    let (mut samples, mut first_token) = (Vec::with_capacity(reps), Duration::MAX);
    for _ in 0..reps {
        let (first, all) = repetition(&mut session, timed, test)?;
        samples.push(all);
        first_token = first_token.min(first);
    }
    let usage = Usage::now().since(before);
    Ok(Runs { samples, first_token, usage, session_bytes: session.bytes(), start })
}

/// Reads the prompt at once and the rest one by one; the time to the first logits, and to the last.
fn repetition(session: &mut Session<'_>, tokens: &[u32], test: &Test) -> Result<(Duration, Duration)> {
    session.truncate(test.n_depth);
    session.settle()?;
    let (prompt, generated) = tokens.split_at(test.n_prompt);
    let begin = Instant::now();
    let mut first = None;
    if !prompt.is_empty() {
        read(session, prompt)?;
        first = Some(begin.elapsed());
    }
    for token in generated.chunks(1) {
        read(session, token)?;
        first.get_or_insert_with(|| begin.elapsed());
    }
    let all = begin.elapsed();
    Ok((first.unwrap_or(all), all))
}

fn read(session: &mut Session<'_>, tokens: &[u32]) -> Result<()> {
    session.eval(tokens, Logits::Last, &mut |_, _| ControlFlow::Continue(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::measure::{Mix, Shape, synthetic};
    use braise_kernels::isa::Isa;

    fn test(n_prompt: usize, n_gen: usize, n_depth: usize) -> Test {
        Test { n_prompt, n_gen, n_depth }
    }

    #[test]
    fn passes_are_those_of_a_session() {
        let passes = |t: Test| t.passes(256).collect::<Vec<_>>();
        assert_eq!(
            passes(test(1100, 0, 7)),
            [(7, 256, 0), (263, 256, 0), (519, 256, 0), (775, 256, 0), (1031, 76, 1)]
        );
        assert_eq!(passes(test(512, 0, 0)), [(0, 256, 0), (256, 256, 1)]);
        assert_eq!(passes(test(3, 2, 1)), [(1, 3, 1), (4, 1, 1), (5, 1, 1)]);
        assert_eq!(passes(test(0, 1, 9)), [(9, 1, 1)]);
    }

    #[test]
    fn tests_are_named_as_llama_bench_names_them() {
        assert_eq!(test(512, 0, 0).to_string(), "pp512");
        assert_eq!(test(0, 128, 4096).to_string(), "tg128 @ d4096");
        assert_eq!(test(512, 128, 0).to_string(), "pp512+tg128");
    }

    #[test]
    fn each_repetition_is_timed() {
        let gguf = synthetic("test", &Shape::TINY, Mix::by_name("Q8_0").expect("is known"));
        let model = Model::new(gguf.expect("is made"), Isa::best()).expect("is a model");
        for (t, reps) in [(test(20, 0, 0), 3), (test(0, 4, 5), 1), (test(8, 4, 2), 2)] {
            let runs = run(&model, &t, 2, KvTypes::default(), reps).expect("runs");
            assert_eq!(runs.samples.len(), reps);
            assert!(runs.samples.iter().all(|all| runs.first_token <= *all && !all.is_zero()), "{runs:?}");
            assert!(runs.session_bytes > 0);
        }
        assert_eq!(
            run(&model, &test(0, 1, 0), 0, KvTypes::default(), 1).expect_err("no threads").kind(),
            ErrorKind::Input
        );
    }
}
