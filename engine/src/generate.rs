//! Generation: a prompt is read, then one token after the other is picked, decoded and read again.

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use crate::error::{Error, ErrorKind, Result};
use crate::sample::{Passed, Sampler, SamplerOptions, StopMatcher};
use crate::session::{Logits, Session};
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
}

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// The model ended the text.
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
    /// Forward passes of one token each, after the prompt.
    pub decode_tokens: usize,
    /// Time of these, with the picking between them.
    pub decode: Duration,
}

/// Continues `request.prompt`; gives the text to `sink` as it becomes certain.
///
/// # Errors
/// As [`Session::eval`] and [`Sampler::sample`]; the session then holds what it has read.
pub fn generate(
    session: &mut Session<'_>,
    tokenizer: &Tokenizer,
    request: &Request<'_>,
    sink: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Outcome> {
    let mut sampler = Sampler::new(request.sampler.clone())?;
    let begin = Instant::now();
    let known = known_prefix(session.tokens(), request.prompt);
    session.truncate(known);
    let mut next = read_and_pick(session, &request.prompt[known..], &mut sampler, request.prompt)?;
    let mut outcome = Outcome {
        finish: Finish::Length,
        prefill_tokens: request.prompt.len() - known,
        prefill: begin.elapsed(),
        decode_tokens: 0,
        decode: Duration::ZERO,
    };
    let begin = Instant::now();
    let mut history = request.prompt.to_vec();
    let mut decoder = tokenizer.decoder(ControlTokens::Hide);
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
        history.push(next);
        if n + 1 == max_tokens {
            break;
        }
        if session.tokens().len() == session.n_ctx() {
            outcome.finish = Finish::ContextFull;
            break;
        }
        next = read_and_pick(session, &[next], &mut sampler, &history)?;
        outcome.decode_tokens += 1;
    }
    outcome.decode = begin.elapsed();
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

/// Reads `tokens` and picks the one that comes next.
fn read_and_pick(
    session: &mut Session<'_>,
    tokens: &[u32],
    sampler: &mut Sampler,
    history: &[u32],
) -> Result<u32> {
    let mut picked = Err(Error::new(ErrorKind::Input, "no logits were computed"));
    session.eval(tokens, Logits::Last, &mut |_, logits| {
        picked = sampler.sample(logits, history);
        ControlFlow::Continue(())
    })?;
    picked
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
