//! Generation: a prompt is read, then one token after the other is picked, decoded and read again. With speculation some
//! are read before they are certain, in one pass; the text is the same. With a constraint, tokens are picked from those that
//! it allows.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::constrain::Constraint;
use crate::error::{Error, ErrorKind, Result};
use crate::sample::{Passed, Sampler, SamplerOptions, StopMatcher};
use crate::session::{Logits, MAX_BEST, Session};
use crate::speculate::{Counts, Speculation};
use crate::tokenizer::{ControlTokens, Tokenizer};

/// What to generate.
#[derive(Debug, Clone)]
pub struct Request<'a> {
    /// The prompt: the whole sequence so far. What the session has read of it already is not read again.
    pub prompt: &'a [u32],
    /// How tokens are picked.
    pub sampler: SamplerOptions,
    /// Most tokens to generate; `None`: until the model ends the text or the context is full.
    pub max_tokens: Option<usize>,
    /// Texts before which the generation ends.
    pub stop: &'a [String],
    /// What the generated text may be.
    pub constraint: Option<&'a Constraint>,
    /// Whether control tokens are part of the text. A [parser](crate::chat::parse) wants to see them.
    pub control: ControlTokens,
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model ended the text, or nothing may follow.
    End,
    /// A stop text came up.
    Stop,
    /// The most tokens asked for are reached.
    Length,
    /// The context is full.
    ContextFull,
    /// Whoever received the text wanted no more.
    Cancelled,
}

/// How a generation went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Why it ended.
    pub finish: Finish,
    /// Tokens of the prompt that had to be read.
    pub prefill_tokens: usize,
    /// Time of reading them, up to the first token picked.
    pub prefill: Duration,
    /// Tokens after the first, which comes out of the prompt.
    pub decode_tokens: usize,
    /// Time of these.
    pub decode: Duration,
    /// What speculation brought.
    pub speculation: Counts,
}

/// Continues `request.prompt`; gives the text to `sink` as it becomes certain. `speculation` changes the time alone: it
/// may be used for any sessions of the model, one after the other.
///
/// # Errors
/// As [`Session::eval`], [`Sampler::sample`] and [`Constraint::mask`], and what a drafter says; the session then holds what
/// it has read.
pub fn generate(
    session: &mut Session<'_>,
    tokenizer: &Tokenizer,
    request: &Request<'_>,
    mut speculation: Option<&mut Speculation<'_>>,
    sink: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Outcome> {
    let sampler = Sampler::new(request.sampler.clone())?;
    let begin = Instant::now();
    let known = known_prefix(session.tokens(), request.prompt);
    session.truncate(known);
    // to take back a draft that was not picked would mean to read everything again
    speculation = speculation.filter(|_| !session.model().spec().is_recurrent());
    if let Some(speculation) = &mut speculation {
        speculation.begin();
    }
    let n_ctx = session.n_ctx();
    let text = request.prompt.to_vec();
    let constraint = request.constraint.cloned();
    let (taken, failed, batch) = (text.len(), None, Vec::new());
    let mut tokens = Tokens { session, sampler, constraint, speculation, text, taken, failed, batch };
    let mut next = tokens.first(known)?;
    let mut outcome = Outcome {
        finish: Finish::Length,
        prefill_tokens: request.prompt.len() - known,
        prefill: begin.elapsed(),
        decode_tokens: 0,
        decode: Duration::ZERO,
        speculation: Counts::default(),
    };
    let begin = Instant::now();
    let mut decoder = tokenizer.decoder(request.control);
    let mut stops = StopMatcher::new(request.stop);
    let max_tokens = request.max_tokens.unwrap_or(usize::MAX);
    for n in 0..max_tokens {
        if tokenizer.is_end(next) {
            outcome.finish = Finish::End;
            break;
        }
        let passed = stops.push(&decoder.push(next)?);
        if !passed.text.is_empty() && sink(&passed.text).is_break() {
            outcome.finish = Finish::Cancelled;
            break;
        }
        if passed.stopped {
            outcome.finish = Finish::Stop;
            break;
        }
        if tokens.are_over() {
            outcome.finish = Finish::End;
            break;
        }
        if n + 1 == max_tokens {
            break;
        }
        if tokens.taken > n_ctx {
            outcome.finish = Finish::ContextFull;
            break;
        }
        next = tokens.next(max_tokens - n - 1)?;
        outcome.decode_tokens += 1;
    }
    outcome.decode = begin.elapsed();
    outcome.speculation = tokens.finish();
    if matches!(outcome.finish, Finish::End | Finish::Length | Finish::ContextFull) {
        let Passed { text, stopped } = stops.push(&decoder.finish());
        let rest = if stopped { text } else { text + &stops.finish() };
        if !rest.is_empty() && sink(&rest).is_break() {
            outcome.finish = Finish::Cancelled;
        }
    }
    Ok(outcome)
}

/// How many tokens of `prompt` a session that has read `read` need not read again; at least one is left to read.
fn known_prefix(read: &[u32], prompt: &[u32]) -> usize {
    let same = read.iter().zip(prompt).take_while(|(a, b)| a == b).count();
    same.min(prompt.len().saturating_sub(1))
}

/// The tokens of a text, picked one or several at a time and taken one by one.
struct Tokens<'a, 'm, 'd> {
    session: &'a mut Session<'m>,
    sampler: Sampler,
    /// Has been told of all tokens picked.
    constraint: Option<Constraint>,
    speculation: Option<&'a mut Speculation<'d>>,
    /// The prompt and all tokens picked. The session has read all but the last.
    text: Vec<u32>,
    /// How many of them are the prompt or were taken.
    taken: usize,
    /// Why no token can be picked after the last.
    failed: Option<Error>,
    /// The tokens of a pass; kept to spare an allocation a step.
    batch: Vec<u32>,
}

impl Tokens<'_, '_, '_> {
    /// Reads the prompt, of which `known` tokens are read, and takes the first token after it.
    fn first(&mut self, known: usize) -> Result<u32> {
        let prompt = self.text.clone();
        self.read(&prompt[known..], Logits::Last, &[]);
        self.take()
    }

    /// Takes the next token; `wanted` says how many will be at most, with this one.
    fn next(&mut self, wanted: usize) -> Result<u32> {
        if self.taken == self.text.len() && self.failed.is_none() {
            self.step(wanted)?;
        }
        self.take()
    }

    /// Whether the constraint allows nothing after the tokens taken.
    fn are_over(&self) -> bool {
        self.taken == self.text.len()
            && self.constraint.as_ref().is_some_and(|constraint| constraint.is_over())
    }

    fn take(&mut self) -> Result<u32> {
        match (self.text.get(self.taken), self.failed.take()) {
            (Some(token), failed) => {
                (self.taken, self.failed) = (self.taken + 1, failed);
                Ok(*token)
            }
            (None, Some(error)) => Err(error),
            (None, None) => Err(Error::new(ErrorKind::Input, "no logits were computed")),
        }
    }

    /// One forward pass, over the last token and what is drafted after it.
    fn step(&mut self, wanted: usize) -> Result<()> {
        let read = self.session.tokens().len();
        let room = wanted.min(self.session.n_ctx() - read).saturating_sub(1);
        let n_vocab = self.session.model().spec().n_vocab;
        let mut batch = std::mem::take(&mut self.batch);
        batch.clear();
        batch.push(self.text[read]);
        if let Some(speculation) = &mut self.speculation {
            let drafts = speculation.propose(&self.text, room, n_vocab)?;
            batch.extend(drafts.iter().map(|draft| draft.token));
            if let Some(constraint) = &mut self.constraint {
                batch.truncate(1 + constraint.allowed(&batch[1..]));
            }
        }
        let begin = Instant::now();
        self.read(&batch, Logits::All, &batch[1..]);
        if let Some(speculation) = &mut self.speculation {
            speculation.learn(batch.len() - 1, &self.text[read + 1..], begin.elapsed());
        }
        self.batch = batch;
        Ok(())
    }

    /// Reads `tokens`, and picks a token at each position that logits are asked for, as long as the one picked is the
    /// draft that was read there.
    fn read(&mut self, tokens: &[u32], logits: Logits, drafts: &[u32]) {
        let Self { session, sampler, constraint, text, failed, .. } = self;
        let mut drafts = drafts.iter();
        let mut take = |text: &mut Vec<u32>, picked: Result<(u32, bool)>| match picked {
            Ok((picked, over)) => {
                text.push(picked);
                match drafts.next() {
                    Some(draft) if *draft == picked && !over => ControlFlow::Continue(()),
                    _ => ControlFlow::Break(()),
                }
            }
            Err(error) => {
                *failed = Some(error);
                ControlFlow::Break(())
            }
        };
        // where a GPU finds the best logits, the others need not leave it
        let best = sampler.best().filter(|k| session.finds_best() && *k <= MAX_BEST);
        let read = match best.filter(|_| constraint.is_none()) {
            Some(k) => session.eval_best(tokens, logits, k, &mut |_, best| {
                let picked = sampler.sample_best(best).map(|token| (token, false));
                take(text, picked)
            }),
            None => session.eval(tokens, logits, &mut |_, logits| {
                let picked = pick(sampler, constraint, logits, text);
                take(text, picked)
            }),
        };
        if let Err(error) = read {
            *failed = Some(error);
        }
        session.truncate(text.len().saturating_sub(1));
    }

    /// Leaves the session as it would be had each pass read one token.
    fn finish(self) -> Counts {
        self.session.truncate(self.taken - 1);
        self.speculation.map_or(Counts::default(), |speculation| speculation.counts())
    }
}

/// The next token, and whether the constraint allows nothing after it.
fn pick(
    sampler: &mut Sampler,
    constraint: &mut Option<Constraint>,
    logits: &[f32],
    text: &[u32],
) -> Result<(u32, bool)> {
    let Some(constraint) = constraint else { return Ok((sampler.sample(logits, text)?, false)) };
    let picked = sampler.sample(constraint.mask(logits)?, text)?;
    constraint.accept(picked)?;
    Ok((picked, constraint.is_over()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_token_is_always_left_to_read() {
        assert_eq!(known_prefix(&[], &[1, 2]), 0);
        assert_eq!(known_prefix(&[1, 2, 3], &[1, 2, 4, 5]), 2);
        assert_eq!(known_prefix(&[1, 2, 3], &[1, 2]), 1);
        assert_eq!(known_prefix(&[1, 2], &[]), 0);
    }
}
