//! What is asked of sequences, and whether it can be.

use super::{Capacity, MAX_SEQUENCES};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Model;
use crate::plan::Request;
use crate::session::{DEFAULT_CTX, SessionOptions};

/// Whether `tokens` can follow those that are `taken` of a context of `n_ctx`.
pub(super) fn check_tokens(model: &Model, (taken, n_ctx): (usize, usize), tokens: &[u32]) -> Result<()> {
    if tokens.is_empty() {
        return Err(Error::new(ErrorKind::Input, "there are no tokens to read").next("give a prompt"));
    }
    let n_vocab = model.spec().n_vocab;
    if let Some(token) = tokens.iter().find(|t| **t as usize >= n_vocab) {
        return Err(Error::new(ErrorKind::Input, format!("the token {token} is not in the vocabulary"))
            .file(model.gguf().path())
            .next(format!("ids are 0 to {}", n_vocab - 1)));
    }
    if tokens.len() > n_ctx - taken {
        let n = tokens.len();
        let what = format!("{n} tokens do not fit the context: it holds {n_ctx}, of which {taken} are taken");
        let made_for = model.spec().n_ctx;
        return Err(Error::new(ErrorKind::ContextFull, what).next(match n_ctx < made_for {
            true => {
                format!("shorten the prompt or raise the context (the model was made for {made_for})")
            }
            false => format!("shorten it: the model was made for texts of {made_for} tokens"),
        }));
    }
    Ok(())
}

/// The error of logits that are no numbers.
pub(super) fn not_finite(model: &Model, position: usize) -> Error {
    let what = format!("the logits after token {position} are not finite numbers");
    Error::new(ErrorKind::Numeric, what)
        .file(model.gguf().path())
        .next("the file has weights that are no numbers or absurdly large: download it again")
}

/// Whether sequences of `n_ctx` tokens, which are read `chunk` at a time, can be.
fn check_sizes(model: &Model, n_ctx: usize, chunk: usize) -> Result<()> {
    let spec = model.spec();
    if n_ctx == 0 || chunk == 0 {
        return Err(Error::new(ErrorKind::Input, "a context or chunk of 0 tokens holds nothing")
            .next("choose 1 or more"));
    }
    if (spec.embedding.positions || spec.is_encoder()) && n_ctx > spec.n_ctx {
        let what = format!("a context of {n_ctx} tokens, but the model has learned {} positions", spec.n_ctx);
        return Err(Error::new(ErrorKind::Input, what)
            .file(model.gguf().path())
            .next(format!("choose at most {}", spec.n_ctx)));
    }
    Ok(())
}

/// What options ask for.
pub(super) fn request(
    model: &Model,
    capacity: Capacity,
    options: &SessionOptions,
    threads: usize,
) -> Result<Request> {
    let spec = model.spec();
    let Capacity { sequences: n_seq, tokens } = capacity;
    if !(1..=MAX_SEQUENCES).contains(&n_seq) {
        return Err(Error::new(ErrorKind::Input, format!("{n_seq} sequences"))
            .next(format!("choose 1 to {MAX_SEQUENCES}")));
    }
    let n_ctx = options.n_ctx.unwrap_or(spec.n_ctx.min(DEFAULT_CTX));
    let least = options.chunk.into_iter().chain(tokens).min().unwrap_or(1);
    check_sizes(model, n_ctx, least)?;
    Ok(Request { n_ctx, n_seq, tokens, chunk: options.chunk, kv: options.kv, threads })
}
