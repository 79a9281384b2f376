//! A session: one sequence of tokens being read and continued.

use std::ops::ControlFlow;

use crate::backend::cpu::{Buffers, normalize};
use crate::block::{Pooling, Spec};
use crate::error::{Error, ErrorKind, Result};
use crate::kv::KvTypes;
use crate::model::Model;
use crate::sequences::{Capacity, SequenceId, Sequences, Work};

/// How a session runs.
#[derive(Debug, Clone, Default)]
pub struct SessionOptions {
    /// Tokens that it can hold; `None`: what the model was made for, at most [`DEFAULT_CTX`].
    pub n_ctx: Option<usize>,
    /// Worker threads; `None`: [`default_threads`](crate::threads::default_threads).
    pub threads: Option<usize>,
    /// Tokens that are read at a time; `None`: [`default_chunk`]. Encoders read a whole text at a time.
    pub chunk: Option<usize>,
    /// Formats of the key/value cache.
    pub kv: KvTypes,
}

/// Tokens that a session can hold unless told otherwise.
pub const DEFAULT_CTX: usize = 8192;

/// Most tokens that are read at a time unless told otherwise: with so many, what is done once for a chunk, above all to
/// unpack the weights, takes little of its time.
pub const MAX_CHUNK: usize = 512;

/// Tokens that are read at a time unless told otherwise: [`MAX_CHUNK`], and fewer where the values between wide layers
/// would take more than 48 MiB.
pub fn default_chunk(spec: &Spec) -> usize {
    const BYTES: usize = 48 << 20;
    let bytes = Buffers::values_a_token(spec).saturating_mul(size_of::<f32>());
    (BYTES / bytes.max(1) / 32 * 32).clamp(64, MAX_CHUNK)
}

/// Which tokens' logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logits {
    /// Of none.
    None,
    /// Of the last token alone: what comes next.
    Last,
    /// Of every token.
    All,
}

/// One sequence of tokens, with the model's memory of it.
#[derive(Debug)]
pub struct Session<'m> {
    all: Sequences<'m>,
    id: SequenceId,
}

/// The one sequence is never removed.
const IS_THERE: &str = "a session has a sequence";

impl<'m> Session<'m> {
    /// A session without tokens.
    ///
    /// # Errors
    /// An option is 0 or absurd, there is too little memory, or the threads cannot be started.
    pub fn new(model: &'m Model, options: &SessionOptions) -> Result<Session<'m>> {
        let mut all = Sequences::new(model, Capacity { sequences: 1, tokens: None }, options)?;
        let id = all.add()?;
        Ok(Session { all, id })
    }

    /// The model.
    pub fn model(&self) -> &'m Model {
        self.all.model()
    }

    /// Tokens that the session can hold.
    pub fn n_ctx(&self) -> usize {
        self.all.n_ctx()
    }

    /// Worker threads.
    pub fn threads(&self) -> usize {
        self.all.threads()
    }

    /// Memory that the session takes when its context is full, in bytes, see [`Sequences::bytes`].
    pub fn bytes(&self) -> u64 {
        self.all.bytes()
    }

    /// The tokens that it has read.
    pub fn tokens(&self) -> &[u32] {
        self.all.tokens(self.id).expect(IS_THERE)
    }

    /// Forgets all tokens from position `n` on. Where layers are recurrent, or see windows that the cache no longer holds,
    /// those before are read again by the next [`Session::eval`], or by [`Session::settle`].
    pub fn truncate(&mut self, n: usize) {
        self.all.truncate(self.id, n).expect(IS_THERE);
    }

    /// Reads again what [`Session::truncate`] made it necessary to.
    pub fn settle(&mut self) {
        self.all.settle(self.id).expect(IS_THERE);
    }

    /// Reads `tokens` and gives the logits that are asked for to `sink`, in order: position and n_vocab numbers.
    /// `sink` may break off; what was read until then stays read.
    ///
    /// # Errors
    /// There are no tokens or one that is not in the vocabulary; they do not fit the context (then nothing was
    /// read); a logit is not a finite number; or the model is an encoder.
    pub fn eval(
        &mut self,
        tokens: &[u32],
        logits: Logits,
        sink: &mut dyn FnMut(usize, &[f32]) -> ControlFlow<()>,
    ) -> Result<()> {
        self.all.check(self.id, tokens)?;
        let mut read = 0;
        let (mut failed, mut flow) = (None, ControlFlow::Continue(()));
        for tokens_here in tokens.chunks(self.all.max_step()) {
            read += tokens_here.len();
            let logits = match logits {
                Logits::Last if read < tokens.len() => Logits::None,
                _ => logits,
            };
            let work = [Work { sequence: self.id, tokens: tokens_here, logits }];
            self.all.step(&work, &mut |row| {
                flow = match row.logits {
                    Ok(logits) => sink(row.position, logits),
                    Err(error) => {
                        failed = Some(error);
                        ControlFlow::Break(())
                    }
                };
                flow
            })?;
            if flow.is_break() {
                break;
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Forgets what was read, reads `tokens` as a text of their own, and gives its embedding: n_embd numbers, a vector of
    /// length 1.
    ///
    /// # Errors
    /// There are no tokens or one that is not in the vocabulary, they do not fit the context, or the embedding has no
    /// length or one that is not finite.
    pub fn embed(&mut self, tokens: &[u32], pooling: Pooling) -> Result<Vec<f32>> {
        self.truncate(0);
        self.settle();
        self.all.check(self.id, tokens)?;
        let (model, n_embd) = (self.model(), self.model().spec().n_embd);
        let (mut sum, mut row) = (vec![0.0_f64; n_embd], vec![0.0; n_embd]);
        for part in tokens.chunks(self.all.max_step()) {
            let (first, n) = (self.tokens().len(), part.len());
            self.all.read(self.id, part)?;
            let pooled = match pooling {
                Pooling::Mean => 0..n,
                Pooling::First => 0..usize::from(first == 0),
                Pooling::Last => n - usize::from(first + n == tokens.len())..n,
            };
            let x = &self.all.buffers.x.get_mut()[pooled.start * n_embd..pooled.end * n_embd];
            for x in x.chunks_exact(n_embd) {
                match &model.output_norm {
                    Some(norm) => normalize(model.kernels(), norm, x, &mut row),
                    None => row.copy_from_slice(x),
                }
                sum.iter_mut().zip(&row).for_each(|(sum, x)| *sum += f64::from(*x));
            }
        }
        // a mean has the direction of the sum
        let length = sum.iter().map(|x| x * x).sum::<f64>().sqrt();
        if !length.is_normal() {
            return Err(Error::new(ErrorKind::Numeric, format!("an embedding of length {length}"))
                .file(model.gguf().path())
                .next("the file has weights that are no numbers or absurdly large: download it again"));
        }
        Ok(sum.into_iter().map(|x| (x / length) as f32).collect())
    }
}
