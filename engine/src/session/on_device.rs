//! A session on a GPU, or on several devices: what these know of a sequence, and which tokens that is.

use std::ops::{ControlFlow, Range};

use super::pipeline::Pipeline;
use super::{Logits, Row, SessionOptions, Sink};
use crate::backend::cpu::PRIVATE_ROWS;
use crate::backend::cuda;
use crate::error::Result;
use crate::model::{Model, OnDevices};
use crate::plan::Plan;
use crate::sequences::{check_sizes, check_tokens, not_finite};

/// Tokens whose logits are computed at a time.
const LOGITS_ROWS: usize = PRIVATE_ROWS;

#[derive(Debug)]
pub(super) struct OnDevice<'m> {
    model: &'m Model,
    n_ctx: usize,
    chunk: usize,
    sequence: Pipeline<'m>,
    tokens: Vec<u32>,
    /// Whether layers remember tokens that were forgotten: those before them have to be read again.
    stale: bool,
}

impl<'m> OnDevice<'m> {
    pub(super) fn new(model: &'m Model, on: &'m OnDevices, options: &SessionOptions) -> Result<OnDevice<'m>> {
        let (n_ctx, chunk) = options.sizes(model.spec());
        check_sizes(model, n_ctx, chunk)?;
        let sequence = Pipeline::new(model, on, (n_ctx, chunk), options)?;
        Ok(OnDevice { model, n_ctx, chunk, sequence, tokens: Vec::new(), stale: false })
    }

    pub(super) fn model(&self) -> &'m Model {
        self.model
    }

    pub(super) fn n_ctx(&self) -> usize {
        self.n_ctx
    }

    pub(super) fn max_step(&self) -> usize {
        self.chunk
    }

    /// See [`super::Session::cache_bytes`].
    pub(super) fn bytes(&self) -> u64 {
        self.sequence.bytes()
    }

    /// Worker threads: none where no part is on the CPU.
    pub(super) fn threads(&self) -> usize {
        self.sequence.threads()
    }

    /// What the parts on the CPU take of the machine's memory, if there are such.
    pub(super) fn plan(&self) -> Option<&Plan> {
        self.sequence.plan()
    }

    /// See [`super::Session::warning`].
    pub(super) fn warning(&self) -> Option<&str> {
        self.sequence.warning()
    }

    /// See [`super::Session::finds_best`].
    pub(super) fn finds_best(&self) -> bool {
        self.sequence.finds_best()
    }

    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub(super) fn check(&self, tokens: &[u32]) -> Result<()> {
        check_tokens(self.model, (self.tokens.len(), self.n_ctx), tokens)
    }

    pub(super) fn truncate(&mut self, n: usize) {
        let keeps = || !self.model.spec().is_recurrent() && self.sequence.holds(n);
        self.stale |= n < self.tokens.len() && !keeps();
        self.tokens.truncate(n);
    }

    pub(super) fn settle(&mut self) -> Result<()> {
        if std::mem::take(&mut self.stale) {
            let known = std::mem::take(&mut self.tokens);
            for tokens in known.chunks(self.chunk) {
                let n = tokens.len();
                self.read(tokens, n..n, None)?;
            }
        }
        Ok(())
    }

    /// See [`super::Session::eval_best`].
    pub(super) fn eval(
        &mut self,
        tokens: &[u32],
        logits: Logits,
        best: Option<usize>,
        sink: Sink<'_>,
    ) -> Result<()> {
        self.check(tokens)?;
        self.settle()?;
        let end = self.tokens.len() + tokens.len();
        for tokens in tokens.chunks(self.chunk) {
            let (first, n) = (self.tokens.len(), tokens.len());
            let wanted = match logits {
                Logits::None => n..n,
                Logits::Last => n - usize::from(first + n == end)..n,
                Logits::All => 0..n,
            };
            let part = |start: usize| start..wanted.end.min(start + LOGITS_ROWS);
            let mut rows = part(wanted.start);
            self.read(tokens, rows.clone(), best)?;
            while !rows.is_empty() {
                if self.hand_out(first, rows.clone(), best, sink)?.is_break() {
                    return Ok(());
                }
                rows = part(rows.end);
                if !rows.is_empty() {
                    self.sequence.logits(&cuda::Step { tokens, first, logits: rows.clone(), best })?;
                }
            }
        }
        Ok(())
    }

    /// Reads `tokens`, no more than a chunk; what the wanted ones became.
    pub(super) fn values(&mut self, tokens: &[u32], wanted: Range<usize>) -> Result<Vec<f32>> {
        let n = tokens.len();
        self.read(tokens, n..n, None)?;
        self.sequence.download_values(wanted)
    }

    /// Reads `tokens`, no more than a chunk, and computes the logits of those wanted, or the best of them.
    fn read(&mut self, tokens: &[u32], logits: Range<usize>, best: Option<usize>) -> Result<()> {
        let first = self.tokens.len();
        self.sequence.read(&cuda::Step { tokens, first, logits, best })?;
        self.tokens.extend(tokens);
        Ok(())
    }

    /// Gives the logits of rows of the batch that begins at position `first` to `sink`, or the best of them.
    fn hand_out(
        &mut self,
        first: usize,
        rows: Range<usize>,
        best: Option<usize>,
        sink: Sink<'_>,
    ) -> Result<ControlFlow<()>> {
        let positions = rows.clone().map(|row| first + row);
        let mut give = |position: usize, finite: bool, row: Row<'_>| match finite {
            true => Ok(sink(position, row)),
            false => Err(not_finite(self.model, position)),
        };
        match best {
            None => {
                let logits = self.sequence.download_logits(rows.len())?;
                for (row, position) in logits.chunks_exact(self.model.spec().n_vocab).zip(positions) {
                    if give(position, row.iter().all(|l| l.is_finite()), Row::All(row))?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
            Some(k) => {
                for (row, position) in self.sequence.download_best(rows.len(), k)?.iter().zip(positions) {
                    let finite = row.iter().all(|(_, logit)| logit.is_finite());
                    if give(position, finite, Row::Best(row))?.is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}
