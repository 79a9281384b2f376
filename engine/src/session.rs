//! A session: one sequence of tokens being read and continued.

use std::ops::{ControlFlow, Range};

use crate::backend::cpu::{Buffers, normalize};
use crate::backend::cuda;
use crate::block::{Pooling, Spec};
use crate::error::{Error, ErrorKind, Result};
use crate::kv::KvTypes;
use crate::model::Model;
use crate::plan::Plan;
use crate::sample::Scored;
use crate::sequences::{Capacity, Row, SequenceId, Sequences, Work};

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

/// Most logits that [`Session::eval_best`] and [`Sequences::step_best`] find.
pub const MAX_BEST: usize = cuda::MAX_BEST;

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

impl Logits {
    /// Those of some neighbouring tokens that are wanted.
    pub(crate) fn of(self, tokens: Range<usize>) -> Range<usize> {
        match self {
            Logits::None => tokens.end..tokens.end,
            Logits::Last => tokens.end.saturating_sub(1).max(tokens.start)..tokens.end,
            Logits::All => tokens,
        }
    }

    /// What is wanted of a part of the tokens.
    fn of_part(self, is_last: bool) -> Logits {
        if self == Logits::Last && !is_last { Logits::None } else { self }
    }
}

/// One sequence of tokens, with the model's memory of it: one of [`Sequences`] that is alone there.
#[derive(Debug)]
pub struct Session<'m> {
    all: Sequences<'m>,
    id: SequenceId,
}

/// The one sequence is never removed.
const IS_THERE: &str = "a session has a sequence";

impl<'m> Session<'m> {
    /// A session without tokens, on the device that the model is on.
    ///
    /// # Errors
    /// An option is 0 or absurd, there is too little memory, or the threads cannot be started.
    pub fn new(model: &'m Model, options: &SessionOptions) -> Result<Session<'m>> {
        let mut all = Sequences::new(model, Capacity::ONE, options)?;
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

    /// Worker threads: none where a GPU computes.
    pub fn threads(&self) -> usize {
        self.all.threads()
    }

    /// Whether [`Session::eval_best`] spares the transfer of all logits.
    pub fn finds_best(&self) -> bool {
        self.all.finds_best()
    }

    /// What it takes of the machine's memory when its context is full; `None` where a GPU computes.
    pub fn plan(&self) -> Option<&Plan> {
        self.all.plan().machine.as_ref()
    }

    /// What a user should know of the memory that the session found: nothing, if all of it fits.
    pub fn warning(&self) -> Option<&str> {
        self.all.warning()
    }

    /// Bytes that were taken for keys, values and states; of a GPU all that the session takes there.
    pub fn cache_bytes(&self) -> u64 {
        self.all.cache_bytes()
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
    ///
    /// # Errors
    /// Those of a GPU; the tokens are to be read again then.
    pub fn settle(&mut self) -> Result<()> {
        self.all.settle(self.id)
    }

    /// Reads `tokens` and gives the logits that are asked for to `sink`, in order: position and n_vocab numbers.
    /// `sink` may break off; what was read until then stays read.
    ///
    /// # Errors
    /// There are no tokens or one that is not in the vocabulary; they do not fit the context (then nothing was
    /// read); a logit is not a finite number; the model is an encoder; or a GPU's errors.
    pub fn eval(
        &mut self,
        tokens: &[u32],
        logits: Logits,
        sink: &mut dyn FnMut(usize, &[f32]) -> ControlFlow<()>,
    ) -> Result<()> {
        self.eval_parts(tokens, logits, sink, |all, work, sink| all.step(work, sink))
    }

    /// The same, with the `k` largest logits alone, see [`Sequences::step_best`].
    ///
    /// # Errors
    /// As [`Session::eval`]; of logits beside the best it is not known whether they are finite.
    pub fn eval_best(
        &mut self,
        tokens: &[u32],
        logits: Logits,
        k: usize,
        sink: &mut dyn FnMut(usize, &[Scored]) -> ControlFlow<()>,
    ) -> Result<()> {
        self.eval_parts(tokens, logits, sink, |all, work, sink| all.step_best(work, k, sink))
    }

    /// Reads `tokens` in as many steps as it takes.
    fn eval_parts<T>(
        &mut self,
        tokens: &[u32],
        logits: Logits,
        sink: &mut dyn FnMut(usize, &[T]) -> ControlFlow<()>,
        step: impl Fn(
            &mut Sequences<'m>,
            &[Work<'_>],
            &mut dyn FnMut(Row<'_, T>) -> ControlFlow<()>,
        ) -> Result<()>,
    ) -> Result<()> {
        self.all.check(self.id, tokens)?;
        let parts = tokens.chunks(self.all.max_step());
        let (last, mut flow, mut result) = (parts.len(), ControlFlow::Continue(()), Ok(()));
        for (i, tokens) in (1..).zip(parts) {
            let work = [Work { sequence: self.id, tokens, logits: logits.of_part(i == last) }];
            step(&mut self.all, &work, &mut |row| {
                flow = match row.logits {
                    Ok(logits) => sink(row.position, logits),
                    Err(error) => {
                        result = Err(error);
                        ControlFlow::Break(())
                    }
                };
                flow
            })?;
            if flow.is_break() {
                break;
            }
        }
        result
    }

    /// Forgets what was read, reads `tokens` as a text of their own, and gives its embedding: n_embd numbers, a vector of
    /// length 1.
    ///
    /// # Errors
    /// There are no tokens or one that is not in the vocabulary, they do not fit the context, or the embedding has no
    /// length or one that is not finite.
    pub fn embed(&mut self, tokens: &[u32], pooling: Pooling) -> Result<Vec<f32>> {
        self.truncate(0);
        self.settle()?;
        let (model, n_embd) = (self.model(), self.model().spec().n_embd);
        self.all.check(self.id, tokens)?;
        let (mut sum, mut row) = (vec![0.0_f64; n_embd], vec![0.0; n_embd]);
        for part in tokens.chunks(self.all.max_step()) {
            let (first, n) = (self.tokens().len(), part.len());
            let pooled = match pooling {
                Pooling::Mean => 0..n,
                Pooling::First => 0..usize::from(first == 0),
                Pooling::Last => n - usize::from(first + n == tokens.len())..n,
            };
            let x = self.all.values(self.id, part, pooled)?;
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
