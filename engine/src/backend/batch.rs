//! The tokens of a forward pass, and whose they are.

use std::ops::Range;

/// The tokens of one forward pass.
#[derive(Debug, Clone, Copy)]
pub struct Batch<'a> {
    /// Their ids.
    pub tokens: &'a [u32],
    /// Whose they are, in order, each sequence once.
    pub runs: &'a [Run],
    /// Those of them whose logits are asked for.
    pub logits: &'a [u32],
}

/// Tokens of a batch that are neighbours in one sequence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The sequence's place in the cache.
    pub seq: usize,
    /// Which of the batch's tokens.
    pub tokens: Range<usize>,
    /// Position of the first in its sequence.
    pub first: usize,
}

impl Run {
    /// Position after the last.
    pub(crate) fn end(&self) -> usize {
        self.first + self.tokens.len()
    }
}

impl Batch<'_> {
    /// Which run a token belongs to.
    pub(crate) fn run_of(&self, token: usize) -> usize {
        self.runs.partition_point(|run| run.tokens.end <= token)
    }

    /// The position of a token in its sequence.
    pub(crate) fn position(&self, token: usize) -> usize {
        let run = &self.runs[self.run_of(token)];
        run.first + token - run.tokens.start
    }
}
