//! Running a test.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use super::Usage;
use crate::backend::cuda::{self, Loaded};
use crate::error::Result;
use crate::kv::KvTypes;
use crate::model::Model;
use crate::sequences::{Capacity, Planned, SequenceId, Sequences, Work};
use crate::session::{Logits, SessionOptions, default_chunk};

/// What is timed: reading a prompt, then generating; of several sequences, one prompt after the other and then all
/// together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Test {
    /// Tokens of the prompt.
    pub n_prompt: usize,
    /// Tokens generated after it.
    pub n_gen: usize,
    /// Tokens that are in the context before, which are not timed.
    pub n_depth: usize,
    /// Sequences, each with so many tokens.
    pub n_parallel: usize,
}

impl Test {
    /// Tokens that are timed, of all sequences.
    pub fn n_tokens(&self) -> usize {
        self.n_parallel * (self.n_prompt + self.n_gen)
    }

    /// Tokens that the context of a sequence must hold.
    pub fn n_ctx(&self) -> usize {
        self.n_depth + self.n_prompt + self.n_gen
    }

    /// Tokens of the longest forward pass of one sequence, with chunks of `chunk` tokens: more need no room.
    fn longest_pass(self, chunk: usize) -> usize {
        self.n_depth.max(self.n_prompt).clamp(1, chunk)
    }

    /// The forward passes, with chunks of `chunk` tokens.
    pub(super) fn passes(self, chunk: usize) -> impl Iterator<Item = Pass> {
        let Test { n_prompt, n_gen, n_depth, n_parallel } = self;
        let prompt = (0..n_prompt).step_by(chunk).map(move |start| {
            let n = chunk.min(n_prompt - start);
            let n_logits = usize::from(start + n == n_prompt);
            Pass { n_seq: 1, first: n_depth + start, n, n_logits }
        });
        let prompts = (0..n_parallel).flat_map(move |_| prompt.clone());
        let generated = (0..n_gen).map(move |i| {
            let first = n_depth + n_prompt + i;
            Pass { n_seq: n_parallel, first, n: 1, n_logits: 1 }
        });
        prompts.chain(generated)
    }
}

/// A forward pass over equally long sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pass {
    /// Sequences.
    pub n_seq: usize,
    /// Of each: position of the first token, tokens, and how many of them ask for logits.
    pub first: usize,
    /// Tokens.
    pub n: usize,
    /// Tokens that ask for logits.
    pub n_logits: usize,
}

impl Pass {
    /// The first token of one sequence.
    pub const TOKEN: Pass = Pass { n_seq: 1, first: 0, n: 1, n_logits: 1 };
}

impl std::fmt::Display for Test {
    /// As llama-bench names tests: `pp512`, `tg128 @ d4096`, `pp512+tg128`; of several sequences `8 x tg128`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Test { n_prompt, n_gen, n_depth, n_parallel } = self;
        if *n_parallel > 1 {
            write!(f, "{n_parallel} x ")?;
        }
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
    /// What the sequences take of the memory.
    pub plan: Planned,
    /// Bytes of the memory of GPUs that were taken at the end, weights and all; `None` where the CPU computes alone.
    pub device_bytes: Option<u64>,
    /// What a user should know of the memory, see [`Sequences::warning`].
    pub warning: Option<String>,
    /// Time to get the session ready.
    pub start: Duration,
}

/// Runs `test`, with a key/value cache of the formats `kv`, once to warm up (of the generation only one token), then
/// `reps` times where the model is, on the CPU on `n_threads` threads, with random tokens. Logits are computed of the last token alone, as generation needs them.
///
/// # Errors
/// As [`Sequences::new`] and [`Sequences::step`]; or a logit is not a finite number.
pub fn run(model: &Model, test: &Test, n_threads: usize, kv: KvTypes, reps: usize) -> Result<Runs> {
    let begin = Instant::now();
    let chunk = Some(test.longest_pass(default_chunk(model.spec())));
    let options = SessionOptions { n_ctx: Some(test.n_ctx()), threads: Some(n_threads), chunk, kv };
    let capacity = Capacity { sequences: test.n_parallel, tokens: None };
    let mut all = Sequences::new(model, capacity, &options)?;
    let ids = (0..test.n_parallel).map(|_| all.add()).collect::<Result<Vec<_>>>()?;
    let start = begin.elapsed();
    let mut random = fastrand::Rng::with_seed(1);
    let tokens: Vec<u32> = (0..test.n_ctx()).map(|_| random.u32(..model.spec().n_vocab as u32)).collect();
    let (depth, timed) = tokens.split_at(test.n_depth);
    for id in &ids {
        read(&mut all, *id, depth)?;
    }
    repetition(&mut all, &ids, &timed[..test.n_prompt + test.n_gen.min(1)], test)?;
    let before = Usage::now();
    let (mut samples, mut first_token) = (Vec::with_capacity(reps), Duration::MAX);
    for _ in 0..reps {
        let (first, whole) = repetition(&mut all, &ids, timed, test)?;
        samples.push(whole);
        first_token = first_token.min(first);
    }
    let usage = Usage::now().since(before);
    let taken = cuda::on_each(model, Loaded::taken)?;
    let device_bytes = (!taken.is_empty()).then(|| taken.iter().map(|bytes| *bytes as u64).sum());
    let (plan, warning) = (all.plan().clone(), all.warning().map(str::to_owned));
    Ok(Runs { samples, first_token, usage, plan, device_bytes, warning, start })
}

/// Reads the prompts one by one and then the rest, a token of every sequence at a time; the time to the first logits, and
/// to the last.
fn repetition(
    all: &mut Sequences<'_>,
    ids: &[SequenceId],
    tokens: &[u32],
    test: &Test,
) -> Result<(Duration, Duration)> {
    for id in ids {
        all.truncate(*id, test.n_depth)?;
        all.settle(*id)?;
    }
    let (prompt, generated) = tokens.split_at(test.n_prompt);
    let mut work: Vec<_> =
        ids.iter().map(|id| Work { sequence: *id, tokens: &[], logits: Logits::Last }).collect();
    let begin = Instant::now();
    let mut first = None;
    if !prompt.is_empty() {
        for id in ids {
            read(all, *id, prompt)?;
            first.get_or_insert_with(|| begin.elapsed());
        }
    }
    for token in generated.chunks(1) {
        work.iter_mut().for_each(|work| work.tokens = token);
        step(all, &work)?;
        first.get_or_insert_with(|| begin.elapsed());
    }
    let whole = begin.elapsed();
    Ok((first.unwrap_or(whole), whole))
}

/// Reads tokens of one sequence; logits are computed of the last one.
fn read(all: &mut Sequences<'_>, sequence: SequenceId, tokens: &[u32]) -> Result<()> {
    let chunks = tokens.chunks(all.max_step());
    let last = chunks.len();
    for (i, tokens) in (1..).zip(chunks) {
        let logits = if i == last { Logits::Last } else { Logits::None };
        step(all, &[Work { sequence, tokens, logits }])?;
    }
    Ok(())
}

fn step(all: &mut Sequences<'_>, work: &[Work<'_>]) -> Result<()> {
    let mut failed = None;
    all.step(work, &mut |row| match row.logits {
        Ok(_) => ControlFlow::Continue(()),
        Err(error) => {
            failed = Some(error);
            ControlFlow::Break(())
        }
    })?;
    failed.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::measure::{Mix, Shape, synthetic};
    use braise_kernels::isa::Isa;

    fn test(n_prompt: usize, n_gen: usize, n_depth: usize) -> Test {
        Test { n_prompt, n_gen, n_depth, n_parallel: 1 }
    }

    #[test]
    fn passes_are_those_of_a_session() {
        let passes =
            |t: Test| t.passes(256).map(|pass| (pass.first, pass.n, pass.n_logits)).collect::<Vec<_>>();
        assert_eq!(
            passes(test(1100, 0, 7)),
            [(7, 256, 0), (263, 256, 0), (519, 256, 0), (775, 256, 0), (1031, 76, 1)]
        );
        assert_eq!(passes(test(512, 0, 0)), [(0, 256, 0), (256, 256, 1)]);
        assert_eq!(passes(test(3, 2, 1)), [(1, 3, 1), (4, 1, 1), (5, 1, 1)]);
        assert_eq!(passes(test(0, 1, 9)), [(9, 1, 1)]);
        let three: Vec<_> = Test { n_parallel: 3, ..test(300, 2, 4) }.passes(256).collect();
        let prompt =
            [(4, 256, 0), (260, 44, 1)].map(|(first, n, n_logits)| Pass { n_seq: 1, first, n, n_logits });
        let together = [304, 305].map(|first| Pass { n_seq: 3, first, n: 1, n_logits: 1 });
        assert_eq!(three, [&prompt[..], &prompt, &prompt, &together].concat());
    }

    #[test]
    fn the_longest_pass_is_a_chunk_or_all_tokens() {
        let longest = [test(0, 5, 0), test(7, 5, 0), test(7, 0, 90), test(300, 1, 2), test(0, 9, 300)];
        assert_eq!(longest.map(|t| t.longest_pass(256)), [1, 7, 90, 256, 256]);
    }

    #[test]
    fn tests_are_named_as_llama_bench_names_them() {
        assert_eq!(test(512, 0, 0).to_string(), "pp512");
        assert_eq!(test(0, 128, 4096).to_string(), "tg128 @ d4096");
        assert_eq!(test(512, 128, 0).to_string(), "pp512+tg128");
        assert_eq!(Test { n_parallel: 8, ..test(0, 64, 7) }.to_string(), "8 x tg64 @ d7");
    }

    #[test]
    fn each_repetition_is_timed() {
        let gguf = synthetic("test", &Shape::TINY, Mix::by_name("Q8_0").expect("is known"));
        let model = Model::new(gguf.expect("is made"), Isa::best()).expect("is a model");
        let three = Test { n_parallel: 3, ..test(8, 4, 2) };
        for (t, reps) in [(test(20, 0, 0), 3), (test(0, 4, 5), 1), (test(8, 4, 2), 2), (three, 2)] {
            let runs = run(&model, &t, 2, KvTypes::default(), reps).expect("runs");
            assert_eq!(runs.samples.len(), reps);
            assert!(runs.samples.iter().all(|all| runs.first_token <= *all && !all.is_zero()), "{runs:?}");
            assert!(runs.plan.machine.is_some_and(|plan| plan.session() > 0) && runs.plan.gpus.is_empty());
        }
        assert_eq!(
            run(&model, &test(0, 1, 0), 0, KvTypes::default(), 1).expect_err("no threads").kind(),
            ErrorKind::Input
        );
    }
}
