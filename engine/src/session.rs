//! A session: one sequence of tokens being read and continued.

mod on_device;
mod pipeline;

use std::ops::ControlFlow;

use crate::backend::cpu::{Buffers, normalize};
use crate::backend::cuda;
use crate::block::{Pooling, Spec};
use crate::error::{Error, ErrorKind, Result};
use crate::kv::KvTypes;
use crate::model::Model;
use crate::plan::Plan;
use crate::sample::{self, Scored};
use crate::sequences::{Capacity, SequenceId, Sequences, Work};
use on_device::OnDevice;

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

impl SessionOptions {
    /// Tokens that a session can hold, and that it reads at a time.
    pub(crate) fn sizes(&self, spec: &Spec) -> (usize, usize) {
        let n_ctx = self.n_ctx.unwrap_or(spec.n_ctx.min(DEFAULT_CTX));
        let chunk = match spec.is_encoder() {
            true => n_ctx,
            false => self.chunk.unwrap_or_else(|| default_chunk(spec)).min(n_ctx),
        };
        (n_ctx, chunk)
    }
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

/// Most logits that [`Session::eval_best`] finds.
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

/// One sequence of tokens, with the model's memory of it.
#[derive(Debug)]
pub struct Session<'m> {
    place: Place<'m>,
}

/// Where a session runs.
#[derive(Debug)]
enum Place<'m> {
    /// On the CPU alone.
    Cpu(Box<Sequences<'m>>, SequenceId),
    /// On a GPU, or on several devices.
    Device(Box<OnDevice<'m>>),
}

/// The logits after a token, as they were asked for.
enum Row<'a> {
    /// All of them.
    All(&'a [f32]),
    /// The best, see [`Session::eval_best`].
    Best(&'a [Scored]),
}

/// What takes rows: positions and logits.
type Sink<'a> = &'a mut dyn FnMut(usize, Row<'_>) -> ControlFlow<()>;

/// The one sequence is never removed.
const IS_THERE: &str = "a session has a sequence";

impl<'m> Session<'m> {
    /// A session without tokens, on the device that the model is on.
    ///
    /// # Errors
    /// An option is 0 or absurd, there is too little memory, or the threads cannot be started.
    pub fn new(model: &'m Model, options: &SessionOptions) -> Result<Session<'m>> {
        let place = match &model.on_device {
            Some(on) => Place::Device(Box::new(OnDevice::new(model, on, options)?)),
            None => {
                let mut all = Sequences::new(model, Capacity { sequences: 1, tokens: None }, options)?;
                let id = all.add()?;
                Place::Cpu(Box::new(all), id)
            }
        };
        Ok(Session { place })
    }

    /// The model.
    pub fn model(&self) -> &'m Model {
        match &self.place {
            Place::Cpu(all, _) => all.model(),
            Place::Device(device) => device.model(),
        }
    }

    /// Tokens that the session can hold.
    pub fn n_ctx(&self) -> usize {
        match &self.place {
            Place::Cpu(all, _) => all.n_ctx(),
            Place::Device(device) => device.n_ctx(),
        }
    }

    /// Worker threads: none where GPUs alone compute.
    pub fn threads(&self) -> usize {
        match &self.place {
            Place::Cpu(all, _) => all.threads(),
            Place::Device(device) => device.threads(),
        }
    }

    /// Whether [`Session::eval_best`] spares the transfer of all logits.
    pub fn finds_best(&self) -> bool {
        matches!(&self.place, Place::Device(device) if device.finds_best())
    }

    /// What it takes of the machine's memory when its context is full; `None` where GPUs alone compute.
    pub fn plan(&self) -> Option<&Plan> {
        match &self.place {
            Place::Cpu(all, _) => Some(all.plan()),
            Place::Device(device) => device.plan(),
        }
    }

    /// What a user should know of the memory that the session found: nothing, if all of it fits.
    pub fn warning(&self) -> Option<&str> {
        match &self.place {
            Place::Cpu(all, _) => all.warning(),
            Place::Device(device) => device.warning(),
        }
    }

    /// Bytes that were taken for keys, values and states; of GPUs all that the session takes there.
    pub fn cache_bytes(&self) -> u64 {
        match &self.place {
            Place::Cpu(all, _) => all.cache_bytes(),
            Place::Device(device) => device.bytes(),
        }
    }

    /// The tokens that it has read.
    pub fn tokens(&self) -> &[u32] {
        match &self.place {
            Place::Cpu(all, id) => all.tokens(*id).expect(IS_THERE),
            Place::Device(device) => device.tokens(),
        }
    }

    /// Forgets all tokens from position `n` on. Where layers are recurrent, or see windows that the cache no longer holds,
    /// those before are read again by the next [`Session::eval`], or by [`Session::settle`].
    pub fn truncate(&mut self, n: usize) {
        match &mut self.place {
            Place::Cpu(all, id) => all.truncate(*id, n).expect(IS_THERE),
            Place::Device(device) => device.truncate(n),
        }
    }

    /// Reads again what [`Session::truncate`] made it necessary to.
    ///
    /// # Errors
    /// Those of a GPU; the session has then forgotten what it could not read.
    pub fn settle(&mut self) -> Result<()> {
        match &mut self.place {
            Place::Cpu(all, id) => all.settle(*id),
            Place::Device(device) => device.settle(),
        }
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
        self.eval_rows(tokens, logits, None, &mut |position, row| match row {
            Row::All(logits) => sink(position, logits),
            Row::Best(_) => ControlFlow::Continue(()),
        })
    }

    /// The same, with the `k` largest logits alone (at least one, and no more than there are or than [`MAX_BEST`]): tokens
    /// and logits, in descending order, of equal ones the first before the others.
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
        let k = k.clamp(1, MAX_BEST.min(self.model().spec().n_vocab));
        self.eval_rows(tokens, logits, Some(k), &mut |position, row| match row {
            Row::Best(best) => sink(position, best),
            Row::All(_) => ControlFlow::Continue(()),
        })
    }

    fn eval_rows(
        &mut self,
        tokens: &[u32],
        logits: Logits,
        best: Option<usize>,
        sink: Sink<'_>,
    ) -> Result<()> {
        match &mut self.place {
            Place::Cpu(all, id) => eval_on_cpu(all, *id, tokens, logits, best, sink),
            Place::Device(device) => device.eval(tokens, logits, best, sink),
        }
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
        let max_step = match &self.place {
            Place::Cpu(all, id) => {
                all.check(*id, tokens)?;
                all.max_step()
            }
            Place::Device(device) => {
                device.check(tokens)?;
                device.max_step()
            }
        };
        let (mut sum, mut row) = (vec![0.0_f64; n_embd], vec![0.0; n_embd]);
        for part in tokens.chunks(max_step) {
            let (first, n) = (self.tokens().len(), part.len());
            let pooled = match pooling {
                Pooling::Mean => 0..n,
                Pooling::First => 0..usize::from(first == 0),
                Pooling::Last => n - usize::from(first + n == tokens.len())..n,
            };
            let downloaded;
            let x = match &mut self.place {
                Place::Cpu(all, id) => {
                    all.read(*id, part)?;
                    &all.buffers.x.get_mut()[pooled.start * n_embd..pooled.end * n_embd]
                }
                Place::Device(device) => {
                    downloaded = device.values(part, pooled)?;
                    &downloaded
                }
            };
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

/// See [`Session::eval`].
fn eval_on_cpu(
    all: &mut Sequences<'_>,
    id: SequenceId,
    tokens: &[u32],
    logits: Logits,
    best: Option<usize>,
    sink: Sink<'_>,
) -> Result<()> {
    all.check(id, tokens)?;
    let (mut read, mut of_row) = (0, Vec::new());
    let (mut failed, mut flow) = (None, ControlFlow::Continue(()));
    for tokens_here in tokens.chunks(all.max_step()) {
        read += tokens_here.len();
        let logits = match logits {
            Logits::Last if read < tokens.len() => Logits::None,
            _ => logits,
        };
        let work = [Work { sequence: id, tokens: tokens_here, logits }];
        all.step(&work, &mut |row| {
            flow = match (row.logits, best) {
                (Ok(logits), None) => sink(row.position, Row::All(logits)),
                (Ok(logits), Some(k)) => {
                    sample::best(logits, k, &mut of_row);
                    sink(row.position, Row::Best(&of_row))
                }
                (Err(error), _) => {
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
