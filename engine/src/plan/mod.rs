//! How much memory a model takes, by what takes it: the one computation for all who ask, from opening a session to what is
//! said of a model that nobody has downloaded. Keys, values and buffers are counted by the code that takes them
//! ([`LayerBytes`], [`Allocator`]).
//!
//! ```text
//! weights        the whole file: of each layer, experts apart; tables; the output matrix; norms, metadata, vocabulary
//! cache          keys and values of all positions that a layer keeps, and the states of recurrent layers, a sequence
//! activations    what the workers share of a batch
//! scratch        what each has for itself
//! tokenizer      its tables
//! program        code, libraries and what is small
//! ```
//!
//! Weights that are mapped are different from all others: the system drops them where it needs the memory, and reads them
//! again. A session whose weights do not fit runs, but for each token it waits for the disk; one of which the rest does not
//! fit must not begin ([`Plan::fit`]).

mod device;
mod fit;
mod split;
mod weights;

pub use device::{DEVICE_OVERHEAD, DevicePlan};
pub use fit::Fit;
pub(crate) use fit::warning;
pub use split::{GpuLayers, GpuRoom, Needs, PartNeeds, Refusal};
pub use weights::{LayerWeights, Weights};

use braise_kernels::isa::Isa;
use braise_kernels::ops::PAGE;
use braise_kernels::sync::Team;
use braise_kernels::table::Kernels;

use crate::arch;
use crate::backend::cpu::{Allocator, Buffers, Operands, Scratch};
use crate::block::Spec;
use crate::error::{Error, ErrorKind, Result};
use crate::gguf::Gguf;
use crate::kv::{KvTypes, LayerBytes, Room};
use crate::measure::{Mix, Shape, outline};
use crate::model::Model;
use crate::parts::Part;
use crate::sequences::n_logits;
use crate::session::default_chunk;

/// What a session is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Tokens of each sequence.
    pub n_ctx: usize,
    /// Sequences.
    pub n_seq: usize,
    /// Tokens of all of them together; `None`: all can be as long as the context is.
    pub tokens: Option<usize>,
    /// Tokens that are read at a time; `None`: [`default_chunk`].
    pub chunk: Option<usize>,
    /// Formats of the cache.
    pub kv: KvTypes,
    /// Worker threads.
    pub threads: usize,
}

impl Request {
    /// What the cache and the batches must have room for. Of a context no more is read at a time than it holds, and encoders
    /// read it whole.
    pub fn room(&self, spec: &Spec) -> Room {
        let Request { n_ctx, n_seq, .. } = *self;
        let chunk = match spec.is_encoder() {
            true => n_ctx,
            false => self.chunk.unwrap_or_else(|| default_chunk(spec)).min(n_ctx),
        };
        let all = n_ctx.div_ceil(PAGE).saturating_mul(n_seq);
        let n_pages = self.tokens.map_or(all, |tokens| tokens.div_ceil(PAGE).min(all));
        // each sequence can have a token in a step
        Room { n_seq, n_ctx, chunk: chunk.max(n_seq), n_pages }
    }
}

/// What plans are made of: all that must be known of a model. A file's header tells it, and so does a shape.
#[derive(Debug, Clone)]
pub struct Outline {
    spec: Spec,
    operands: Operands,
    weights: Weights,
}

/// Bytes of a vocabulary in a file for each token: 35 to 61 of the byte-level ones that llama.cpp tests with, and fewer of
/// others.
const VOCABULARY: u64 = 60;

/// Bytes of a [`Tokenizer`](crate::tokenizer::Tokenizer) for each token: 85 to 130 of the same vocabularies.
const TOKENIZER: u64 = 120;

/// What a process has resident without a model: code, libraries, and memory that the allocator keeps. Measured: 8.3 MB of
/// pages from files, and 1 to 4 MB more.
const PROGRAM: u64 = 10 << 20;

impl Outline {
    /// Of a model that is open.
    pub fn of(model: &Model) -> Outline {
        let weights = model.weights().map(|weight| (weight.matmul, weight.cols()));
        Outline {
            spec: model.spec().clone(),
            operands: Operands::new(model.kernels(), weights),
            weights: Weights::of(model.gguf(), model.spec().layers.len()).with_copies(model.copied_bytes()),
        }
    }

    /// Of a shape in a quantization, as a file of it would be, for the kernels of level `isa`.
    ///
    /// # Errors
    /// No model has such a shape, or the machine does not have the level.
    pub fn of_shape(shape: &Shape, mix: Mix, isa: Isa) -> Result<Outline> {
        let kernels = Kernels::new(isa).map_err(|e| Error::new(ErrorKind::Input, e.to_string()))?;
        let outline = Outline::of_header(&outline(mix.name(), shape, mix)?, kernels)?;
        let vocabulary = VOCABULARY.saturating_mul(outline.spec.n_vocab as u64);
        Ok(Outline { weights: outline.weights.with_vocabulary(vocabulary), ..outline })
    }

    /// Of a file, of which nothing is read but the header.
    fn of_header(file: &Gguf, kernels: Kernels) -> Result<Outline> {
        let spec = arch::spec(file)?;
        let weights = Weights::of(file, spec.layers.len());
        Ok(Outline { operands: operands(file, kernels), weights, spec })
    }

    /// The same where a session runs some parts of the model alone.
    pub(crate) fn only(self, has: impl Fn(Part) -> bool) -> Outline {
        let (spec, weights) = (self.spec.only(&has), self.weights.only(has));
        Outline { spec, weights, ..self }
    }

    /// The model's spec.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// What its matrices take.
    pub(crate) fn operands(&self) -> &Operands {
        &self.operands
    }

    /// Its weights.
    pub fn weights(&self) -> &Weights {
        &self.weights
    }

    /// What `request` takes in the memory of the machine. `None` if it is more than an address can name.
    pub fn plan(&self, request: &Request) -> Option<Plan> {
        let (spec, room) = (&self.spec, request.room(&self.spec));
        let layers = spec.layers.iter().map(|layer| LayerBytes::new(&layer.mixer, room, request.kv));
        let cache = layers.collect::<Option<Vec<_>>>()?;
        let team = Team::new(1);
        let allocator = Allocator::counting(&team);
        Buffers::new(&allocator, spec, &self.operands, room, n_logits(room))?;
        let scratch = Scratch::bytes(spec, &self.operands, room.chunk).checked_mul(request.threads)?;
        let plan = Plan {
            weights: self.weights.bytes(),
            cache,
            activations: allocator.bytes() as u64,
            scratch: scratch as u64,
            tokenizer: TOKENIZER.saturating_mul(spec.n_vocab as u64),
            program: PROGRAM,
        };
        plan.checked_session()?;
        Some(plan)
    }
}

/// What the matrices of a file take: all tables of it that have a kernel, of layers and for logits.
fn operands(file: &Gguf, kernels: Kernels) -> Operands {
    let has_output = file.tensor("output.weight").is_some();
    let logits = if has_output { "output.weight" } else { "token_embd.weight" };
    let matrices = file.tensors().iter().filter(|t| t.rows() > 1);
    let multiplied = matrices.filter(|t| t.name.starts_with("blk.") || t.name == logits);
    Operands::new(
        kernels,
        multiplied.filter_map(|t| Some((kernels.matmul(t.ty)?.for_rows_of(t.row_len()), t.row_len()))),
    )
}

/// Bytes that a session takes in the memory of the machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Of all weights, with what else is in their file.
    pub weights: u64,
    /// Of each layer's cache, of all sequences.
    pub cache: Vec<LayerBytes>,
    /// Of what the workers share of a batch.
    pub activations: u64,
    /// Of what all workers have for themselves: an estimate.
    pub scratch: u64,
    /// Of the tokenizer: an estimate.
    pub tokenizer: u64,
    /// Of the program itself: an estimate.
    pub program: u64,
}

impl Plan {
    /// Bytes of keys and values.
    pub fn keys_and_values(&self) -> u64 {
        self.cache.iter().map(|layer| layer.positions as u64).sum()
    }

    /// Bytes of states.
    pub fn states(&self) -> u64 {
        self.cache.iter().map(|layer| layer.states as u64).sum()
    }

    /// Bytes that a session adds to those of an open model.
    pub fn session(&self) -> u64 {
        // a plan is made only where this is a number
        self.checked_session().unwrap_or(u64::MAX)
    }

    fn checked_session(&self) -> Option<u64> {
        let cache = self.cache.iter().try_fold(0_u64, |sum, layer| {
            sum.checked_add(layer.positions as u64)?.checked_add(layer.states as u64)
        })?;
        cache.checked_add(self.activations)?.checked_add(self.scratch)
    }

    /// All bytes of a process that runs the session and has no tokenizer.
    pub fn without_tokenizer(&self) -> u64 {
        [self.weights, self.session(), self.program].into_iter().fold(0, u64::saturating_add)
    }

    /// All bytes of a process that runs the session.
    pub fn total(&self) -> u64 {
        self.without_tokenizer().saturating_add(self.tokenizer)
    }
}

#[cfg(test)]
mod tests;
