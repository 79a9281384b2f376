//! A session: one sequence of tokens being read and continued.

use std::ops::ControlFlow;
use std::sync::{Mutex, PoisonError};

use braise_kernels::sync::Team;

use crate::backend::cpu::{Batch, Buffers, CpuWorker, PRIVATE_ROWS, Scratch, normalize};
use crate::backend::cuda;
use crate::block::{Pooling, Spec};
use crate::error::{Error, ErrorKind, Result};
use crate::forward;
use crate::kv::{KvCache, KvTypes};
use crate::memory;
use crate::model::Model;
use crate::sample::{self, Scored};
use crate::threads;

/// How a session runs.
#[derive(Debug, Clone, Default)]
pub struct SessionOptions {
    /// Tokens that it can hold; `None`: what the model was made for, at most [`DEFAULT_CTX`].
    pub n_ctx: Option<usize>,
    /// Worker threads; `None`: [`threads::default_threads`].
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

/// Tokens whose logits are computed at a time: as many as can be without changing a bit of them.
const LOGITS_ROWS: usize = PRIVATE_ROWS;

/// Most logits that [`Session::eval_best`] finds.
pub const MAX_BEST: usize = cuda::MAX_BEST;

/// Most threads that a session takes: beyond, something is wrong with the number.
const MAX_THREADS: usize = 1024;

/// Which tokens' logits are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Logits {
    /// Of the last token alone: what comes next.
    Last,
    /// Of every token.
    All,
}

/// One sequence of tokens, with the model's memory of them.
#[derive(Debug)]
pub struct Session<'m> {
    model: &'m Model,
    n_ctx: usize,
    chunk: usize,
    place: Place<'m>,
    tokens: Vec<u32>,
    /// Whether layers remember tokens that were forgotten: those before them have to be read again.
    stale: bool,
}

/// Where a session runs.
#[derive(Debug)]
enum Place<'m> {
    Cpu(Box<OnCpu<'m>>),
    Device(Box<cuda::Sequence<'m>>),
}

/// A session's threads, and its memory.
#[derive(Debug)]
struct OnCpu<'m> {
    model: &'m Model,
    pool: rayon::ThreadPool,
    team: Team,
    buffers: Buffers,
    kv: KvCache,
    kv_bytes: u64,
    scratch: Vec<Mutex<Scratch>>,
}

/// The logits after a token, as they were asked for.
enum Row<'a> {
    /// All of them.
    All(&'a [f32]),
    /// The best, see [`Session::eval_best`].
    Best(&'a [Scored]),
}

impl<'m> Session<'m> {
    /// A session without tokens.
    ///
    /// # Errors
    /// An option is 0 or absurd, there is too little memory, or the threads cannot be started.
    pub fn new(model: &'m Model, options: &SessionOptions) -> Result<Session<'m>> {
        let spec = model.spec();
        let (n_ctx, chunk) = options.sizes(spec);
        if n_ctx == 0 || chunk == 0 {
            return Err(Error::new(ErrorKind::Input, "a context or chunk of 0 tokens holds nothing")
                .next("choose 1 or more"));
        }
        if (spec.embedding.positions || spec.is_encoder()) && n_ctx > spec.n_ctx {
            let what =
                format!("a context of {n_ctx} tokens, but the model has learned {} positions", spec.n_ctx);
            return Err(Error::new(ErrorKind::Input, what)
                .file(model.gguf().path())
                .next(format!("choose at most {}", spec.n_ctx)));
        }
        let place = match &model.on_device {
            Some(loaded) => {
                let sequence = cuda::Sequence::new(model, loaded, (n_ctx, chunk), options.kv)?;
                Place::Device(Box::new(sequence))
            }
            None => Place::Cpu(Box::new(OnCpu::new(model, n_ctx, chunk, options)?)),
        };
        Ok(Session { model, n_ctx, chunk, place, tokens: Vec::new(), stale: false })
    }

    /// The model.
    pub fn model(&self) -> &'m Model {
        self.model
    }

    /// Tokens that the session can hold.
    pub fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    /// Worker threads: none where a GPU computes.
    pub fn threads(&self) -> usize {
        match &self.place {
            Place::Cpu(cpu) => cpu.team.size(),
            Place::Device(_) => 0,
        }
    }

    /// Whether [`Session::eval_best`] spares the transfer of all logits.
    pub fn finds_best(&self) -> bool {
        matches!(self.place, Place::Device(_))
    }

    /// Memory that the session takes when its context is full, in bytes, of the GPU if that is where it runs: the
    /// key/value cache, and the activations of a chunk. What each thread has for itself, a few hundred KiB, is not counted.
    pub fn bytes(&self) -> u64 {
        match &self.place {
            Place::Cpu(cpu) => cpu.bytes(),
            Place::Device(sequence) => sequence.bytes() as u64,
        }
    }

    /// The tokens that it has read.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Forgets all tokens from position `n` on. Where layers are recurrent, or see windows that the cache no longer holds,
    /// those before are read again by the next [`Session::eval`], or by [`Session::settle`].
    pub fn truncate(&mut self, n: usize) {
        let holds = || match &self.place {
            Place::Cpu(cpu) => cpu.kv.holds(n),
            Place::Device(sequence) => sequence.holds(n),
        };
        self.stale |= n < self.tokens.len() && (self.model.spec().is_recurrent() || !holds());
        self.tokens.truncate(n);
    }

    /// Reads again what [`Session::truncate`] made it necessary to.
    ///
    /// # Errors
    /// Those of a GPU; the session has then forgotten what it could not read.
    pub fn settle(&mut self) -> Result<()> {
        if std::mem::take(&mut self.stale) {
            let known = std::mem::take(&mut self.tokens);
            for tokens in known.chunks(self.chunk) {
                let n = tokens.len();
                self.read(&Batch { tokens, first: self.tokens.len(), logits: n..n }, None)?;
                self.tokens.extend(tokens);
            }
        }
        Ok(())
    }

    /// Reads `tokens` and gives the logits that are asked for to `sink`, in order: position and n_vocab numbers.
    /// `sink` may break off; what was read until then stays read.
    ///
    /// # Errors
    /// There are no tokens or one that is not in the vocabulary; they do not fit the context (then nothing was
    /// read); a logit is not a finite number; the model is an encoder; or a GPU fails.
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
        let k = k.clamp(1, MAX_BEST.min(self.model.spec().n_vocab));
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
        sink: &mut dyn FnMut(usize, Row<'_>) -> ControlFlow<()>,
    ) -> Result<()> {
        if self.model.spec().is_encoder() {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the model is an encoder, which continues no text",
            )
            .file(self.model.gguf().path())
            .next("ask it for embeddings"));
        }
        self.check(tokens)?;
        self.settle()?;
        let end = self.tokens.len() + tokens.len();
        for tokens in tokens.chunks(self.chunk) {
            let (first, n) = (self.tokens.len(), tokens.len());
            let wanted = match logits {
                Logits::All => 0..n,
                Logits::Last if first + n == end => n - 1..n,
                Logits::Last => n..n,
            };
            let part = |start: usize| start..wanted.end.min(start + LOGITS_ROWS);
            let mut batch = Batch { tokens, first, logits: part(wanted.start) };
            self.read(&batch, best)?;
            self.tokens.extend(tokens);
            while !batch.logits.is_empty() {
                if self.hand_out(&batch, best, sink)?.is_break() {
                    return Ok(());
                }
                batch.logits = part(batch.logits.end);
                if !batch.logits.is_empty() {
                    match &mut self.place {
                        Place::Cpu(cpu) => cpu.run(&batch, |worker, model| forward::logits(worker, model)),
                        Place::Device(sequence) => sequence.logits(&step(&batch, best))?,
                    }
                }
            }
        }
        Ok(())
    }

    /// Forgets what was read, reads `tokens` as a text of their own, and gives its embedding: n_embd numbers, a vector of
    /// length 1.
    ///
    /// # Errors
    /// There are no tokens or one that is not in the vocabulary, they do not fit the context, or the embedding has no
    /// length or one that is not finite.
    pub fn embed(&mut self, tokens: &[u32], pooling: Pooling) -> Result<Vec<f32>> {
        self.tokens.clear();
        self.stale = false; // there is nothing to read again
        self.check(tokens)?;
        let (model, n_embd) = (self.model, self.model.spec().n_embd);
        let (mut sum, mut row) = (vec![0.0_f64; n_embd], vec![0.0; n_embd]);
        for part in tokens.chunks(self.chunk) {
            let (first, n) = (self.tokens.len(), part.len());
            self.read(&Batch { tokens: part, first, logits: n..n }, None)?;
            self.tokens.extend(part);
            let pooled = match pooling {
                Pooling::Mean => 0..n,
                Pooling::First => 0..usize::from(first == 0),
                Pooling::Last => n - usize::from(self.tokens.len() == tokens.len())..n,
            };
            let downloaded;
            let values = match &mut self.place {
                Place::Cpu(cpu) => &cpu.buffers.x.get_mut()[pooled.start * n_embd..pooled.end * n_embd],
                Place::Device(sequence) => {
                    downloaded = sequence.download_values(pooled)?;
                    &downloaded
                }
            };
            for x in values.chunks_exact(n_embd) {
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

    /// Gives the logits of the batch's tokens to `sink`, or the best of them.
    fn hand_out(
        &mut self,
        batch: &Batch<'_>,
        best: Option<usize>,
        sink: &mut dyn FnMut(usize, Row<'_>) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>> {
        let (model, n_rows) = (self.model, batch.logits.len());
        let not_finite = |position: usize| {
            let what = format!("the logits after token {position} are not finite numbers");
            Error::new(ErrorKind::Numeric, what)
                .file(model.gguf().path())
                .next("the file has weights that are no numbers or absurdly large: download it again")
        };
        let downloaded;
        let rows: &[f32] = match (&mut self.place, best) {
            (Place::Cpu(cpu), _) => cpu.buffers.logits.get_mut(),
            (Place::Device(sequence), None) => {
                downloaded = sequence.download_logits(n_rows)?;
                &downloaded
            }
            (Place::Device(sequence), Some(k)) => {
                for (row, token) in sequence.download_best(n_rows, k)?.iter().zip(batch.logits.clone()) {
                    let position = batch.first + token;
                    if !row.iter().all(|(_, logit)| logit.is_finite()) {
                        return Err(not_finite(position));
                    }
                    if sink(position, Row::Best(row)).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                return Ok(ControlFlow::Continue(()));
            }
        };
        let mut of_row = Vec::new();
        for (row, token) in rows.chunks_exact(model.spec().n_vocab).zip(batch.logits.clone()) {
            let position = batch.first + token;
            // without an early end the test of a chunk takes an instruction for several logits
            if !row.chunks(1024).all(|chunk| chunk.iter().fold(true, |all, l| all & l.is_finite())) {
                return Err(not_finite(position));
            }
            let row = match best {
                None => Row::All(row),
                Some(k) => {
                    sample::best(row, k, &mut of_row);
                    Row::Best(&of_row)
                }
            };
            if sink(position, row).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    fn check(&self, tokens: &[u32]) -> Result<()> {
        if tokens.is_empty() {
            return Err(Error::new(ErrorKind::Input, "there are no tokens to read").next("give a prompt"));
        }
        let n_vocab = self.model.spec().n_vocab;
        if let Some(token) = tokens.iter().find(|t| **t as usize >= n_vocab) {
            return Err(Error::new(ErrorKind::Input, format!("the token {token} is not in the vocabulary"))
                .file(self.model.gguf().path())
                .next(format!("ids are 0 to {}", n_vocab - 1)));
        }
        if tokens.len() > self.n_ctx - self.tokens.len() {
            let what = format!(
                "{} tokens do not fit the context: it holds {}, of which {} are taken",
                tokens.len(),
                self.n_ctx,
                self.tokens.len()
            );
            let made_for = self.model.spec().n_ctx;
            return Err(Error::new(ErrorKind::ContextFull, what).next(match self.n_ctx < made_for {
                true => {
                    format!("shorten the prompt or raise the context (the model was made for {made_for})")
                }
                false => format!("shorten it: the model was made for texts of {made_for} tokens"),
            }));
        }
        Ok(())
    }

    /// Reads the batch, and computes the logits that it asks for, or the best of them.
    fn read(&mut self, batch: &Batch<'_>, best: Option<usize>) -> Result<()> {
        match &mut self.place {
            Place::Cpu(cpu) => {
                cpu.kv.make_room(batch.first, batch.tokens.len());
                cpu.run(batch, |worker, model| forward::forward(worker, model));
                Ok(())
            }
            Place::Device(sequence) => sequence.read(&step(batch, best)),
        }
    }
}

/// A batch as a device reads it.
fn step<'a>(batch: &Batch<'a>, best: Option<usize>) -> cuda::Step<'a> {
    cuda::Step { tokens: batch.tokens, first: batch.first, logits: batch.logits.clone(), best }
}

impl<'m> OnCpu<'m> {
    fn new(model: &'m Model, n_ctx: usize, chunk: usize, options: &SessionOptions) -> Result<OnCpu<'m>> {
        let (spec, kv_types) = (model.spec(), options.kv);
        let n_threads = options.threads.unwrap_or_else(threads::default_threads);
        if !(1..=MAX_THREADS).contains(&n_threads) {
            let what = format!("{n_threads} threads");
            return Err(Error::new(ErrorKind::Input, what).next(format!("choose 1 to {MAX_THREADS}")));
        }
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(n_threads)
            .thread_name(|i| format!("braise-{i}"))
            .build()
            .map_err(|e| {
                let what = format!("cannot start {n_threads} threads: {e}");
                Error::new(ErrorKind::Io, what).next("choose fewer")
            })?;
        let team = Team::new(n_threads);
        let no_memory = || no_memory(spec, n_ctx, chunk, kv_types);
        let cpu = OnCpu {
            model,
            pool,
            buffers: Buffers::new(&team, model, chunk, LOGITS_ROWS, n_ctx).ok_or_else(no_memory)?,
            kv: KvCache::new(&team, spec, n_ctx, chunk, kv_types).ok_or_else(no_memory)?,
            kv_bytes: KvCache::bytes(spec, n_ctx, chunk, kv_types).map_or(u64::MAX, |bytes| bytes as u64),
            scratch: (0..n_threads).map(|_| Mutex::default()).collect(),
            team,
        };
        // the system promises more than it has: what can never be filled must not be begun
        match memory::total() {
            Some(total) if cpu.bytes() > total => Err(no_memory()),
            _ => Ok(cpu),
        }
    }

    /// See [`Session::bytes`].
    fn bytes(&self) -> u64 {
        self.kv_bytes.saturating_add(self.buffers.bytes() as u64)
    }

    /// Runs `program` on all workers.
    fn run(&self, batch: &Batch<'_>, program: fn(&mut CpuWorker<'_, '_>, &Model)) {
        self.pool.broadcast(|context| {
            let index = context.index();
            // a panic in an earlier run cannot have left anything in the scratch memory that is read again
            let mut scratch = self.scratch[index].lock().unwrap_or_else(PoisonError::into_inner);
            self.team.join(index, |worker| {
                let mut worker = CpuWorker {
                    worker,
                    model: self.model,
                    batch: batch.clone(),
                    buffers: &self.buffers,
                    kv: &self.kv,
                    scratch: &mut scratch,
                };
                program(&mut worker, self.model);
            });
        });
    }
}

/// The error of a session whose memory cannot be had.
fn no_memory(spec: &Spec, n_ctx: usize, chunk: usize, types: KvTypes) -> Error {
    let gb = |bytes: u64| format!("{:.1} GB", bytes as f64 / 1e9);
    let size = KvCache::bytes(spec, n_ctx, chunk, types)
        .map_or("more than an address can name".into(), |n| gb(n as u64));
    let there_is =
        memory::total().map_or(String::new(), |bytes| format!(", and there are {} in all", gb(bytes)));
    let what = format!(
        "there is not enough memory for a context of {n_ctx} tokens: its keys and values take {size}{there_is}"
    );
    Error::new(ErrorKind::Input, what).next("choose a smaller context")
}
