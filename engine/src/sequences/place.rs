//! Where sequences are computed, and what remembers them there: a team of threads, or a device.

use std::fmt;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use braise_kernels::sync::Team;

use crate::backend::Batch;
use crate::backend::cpu::{Allocator, Buffers, CpuWorker, Scratch};
use crate::error::{Error, ErrorKind, Result};
use crate::forward;
use crate::kv::{KvCache, KvTypes, PageTables, Room};
use crate::model::Model;
use crate::parts::Parts;
use crate::plan::Outline;
use crate::sample::{self, Scored};

use super::n_logits;

/// The best logits of a token in descending order.
pub(crate) type Best = Vec<Scored>;

/// Where sequences are computed. After an error nothing is known of what the sequences in question remember.
pub(crate) trait Place: fmt::Debug + Send {
    /// Who has which pages of the cache; of several caches one, as the others have as many.
    fn pages(&self) -> &PageTables;

    /// See [`PageTables::holds`].
    fn holds(&self, seq: usize, n: usize) -> bool;

    /// See [`PageTables::truncate`].
    fn truncate(&mut self, seq: usize, n: usize);

    /// See [`PageTables::make_room`]; copies what must be.
    fn make_room(&mut self, seq: usize, next: usize, n: usize) -> Result<()>;

    /// Gives sequence `to`, which is empty, what `from` has of its first `n` tokens; what layers remember of all tokens
    /// together is that of all that `from` has.
    fn share(&mut self, from: usize, to: usize, n: usize) -> Result<()>;

    /// Reads a batch, and computes the logits that it asks for, or the `best` of them.
    fn forward(&mut self, batch: Batch<'_>, best: Option<usize>) -> Result<()>;

    /// Computes logits of other tokens of the batch that was read last.
    fn logits(&mut self, batch: Batch<'_>, best: Option<usize>) -> Result<()>;

    /// The `n` rows of logits (n, n_vocab) that were computed last.
    fn rows(&mut self, n: usize) -> Result<&[f32]>;

    /// The `k` best of each of these rows, if so many were asked for. One that is no number is among them, if the row is known
    /// to have one.
    fn best(&mut self, n: usize, k: usize) -> Result<&[Best]>;

    /// Values (tokens, n_embd) behind the last layer, of some tokens of the batch that was read last.
    fn values(&mut self, tokens: Range<usize>) -> Result<&[f32]>;

    /// Bytes that were taken for keys, values and states; of a device all that it takes.
    fn bytes(&self) -> u64;
}

/// The CPU, for all parts of the model or for some.
#[derive(Debug)]
pub(super) struct OnCpu<'m> {
    model: &'m Model,
    pool: rayon::ThreadPool,
    team: Team,
    buffers: Buffers,
    kv: KvCache,
    scratch: Vec<Mutex<Scratch>>,
    best: Vec<Best>,
}

impl<'m> OnCpu<'m> {
    /// For the parts that `outline` is of. `None` if there is not that much memory.
    pub(super) fn new(
        model: &'m Model,
        outline: &Outline,
        room: Room,
        kv: KvTypes,
        n_threads: usize,
    ) -> Result<Option<OnCpu<'m>>> {
        let pool = rayon::ThreadPoolBuilder::new()
            .num_threads(n_threads)
            .thread_name(|i| format!("braise-{i}"))
            .build()
            .map_err(|e| {
                let what = format!("cannot start {n_threads} threads: {e}");
                Error::new(ErrorKind::Io, what).next("choose fewer")
            })?;
        let team = Team::new(n_threads);
        let allocator = Allocator::real(&team);
        let spec = outline.spec();
        let buffers = Buffers::new(&allocator, spec, outline.operands(), room, n_logits(room));
        let Some((buffers, kv)) = buffers.zip(KvCache::new(&team, spec, room, kv)) else {
            return Ok(None);
        };
        let scratch = (0..n_threads).map(|_| Mutex::default()).collect();
        Ok(Some(OnCpu { model, pool, team, buffers, kv, scratch, best: Vec::new() }))
    }

    /// Runs parts of the model that follow each other; if the last of them is the output, it computes the logits that are
    /// asked for.
    pub(super) fn run_parts(&self, batch: Batch<'_>, parts: &Parts) {
        self.run(batch, |worker, model| forward::forward_parts(worker, model, parts));
    }

    /// The values between parts (tokens, n_embd) of the first tokens of the batch.
    pub(super) fn x(&mut self, n: usize) -> &mut [f32] {
        &mut self.buffers.x.get_mut()[..n * self.model.spec().n_embd]
    }

    /// Runs `program` on all workers.
    fn run(&self, batch: Batch<'_>, program: impl Fn(&mut CpuWorker<'_, '_>, &Model) + Sync) {
        self.pool.broadcast(|context| {
            let index = context.index();
            // a panic in an earlier run cannot have left anything in the scratch memory that is read again
            let mut scratch = self.scratch[index].lock().unwrap_or_else(PoisonError::into_inner);
            self.team.join(index, |worker| {
                let mut worker = CpuWorker {
                    worker,
                    model: self.model,
                    batch,
                    buffers: &self.buffers,
                    kv: &self.kv,
                    scratch: &mut scratch,
                };
                program(&mut worker, self.model);
            });
        });
    }
}

impl Place for OnCpu<'_> {
    fn pages(&self) -> &PageTables {
        &self.kv.pages
    }

    fn holds(&self, seq: usize, n: usize) -> bool {
        self.kv.pages.holds(seq, n)
    }

    fn truncate(&mut self, seq: usize, n: usize) {
        self.kv.pages.truncate(seq, n);
    }

    fn make_room(&mut self, seq: usize, next: usize, n: usize) -> Result<()> {
        self.kv.make_room(seq, next, n);
        Ok(())
    }

    fn share(&mut self, from: usize, to: usize, n: usize) -> Result<()> {
        self.kv.share(from, to, n);
        Ok(())
    }

    fn forward(&mut self, batch: Batch<'_>, _: Option<usize>) -> Result<()> {
        self.run(batch, |worker, model| forward::forward(worker, model));
        Ok(())
    }

    fn logits(&mut self, batch: Batch<'_>, _: Option<usize>) -> Result<()> {
        self.run(batch, |worker, model| forward::logits(worker, model));
        Ok(())
    }

    fn rows(&mut self, n: usize) -> Result<&[f32]> {
        Ok(&self.buffers.logits.get_mut()[..n * self.model.spec().n_vocab])
    }

    fn best(&mut self, n: usize, k: usize) -> Result<&[Best]> {
        self.best.resize_with(n, Vec::new);
        let rows = self.buffers.logits.get_mut().chunks_exact(self.model.spec().n_vocab);
        for (row, best) in rows.zip(&mut self.best) {
            match are_finite(row) {
                true => sample::best(row, k, best),
                false => *best = vec![(0, f32::NAN)],
            }
        }
        Ok(&self.best)
    }

    fn values(&mut self, tokens: Range<usize>) -> Result<&[f32]> {
        let n_embd = self.model.spec().n_embd;
        Ok(&self.buffers.x.get_mut()[tokens.start * n_embd..tokens.end * n_embd])
    }

    fn bytes(&self) -> u64 {
        self.kv.taken() as u64
    }
}

/// Whether all logits of a row are numbers.
pub(super) fn are_finite(row: &[f32]) -> bool {
    // without an early end the test of a chunk takes an instruction for several logits
    row.chunks(1024).all(|chunk| chunk.iter().fold(true, |all, l| all & l.is_finite()))
}
