//! Speculative decoding: several tokens a forward pass, and the same text.
//!
//! A pass over a few tokens reads the weights once, as a pass over one does. So a [`Drafter`] guesses what comes next,
//! the model reads the guesses in one pass, and each is kept that the model would have picked itself (Leviathan et al.
//! 2023, arXiv 2211.17192). A draft is a plain guess here, no distribution: the tokens are picked as without it, one
//! position after the other with the same random numbers, and the first that differs from the draft ends the pass. What
//! comes out is what comes out without speculation, to the token, at any temperature.
//!
//! That needs logits that do not depend on how many tokens share a pass: a pass has at most [`MAX_DRAFT`] drafts, for
//! which the backend uses the kernels of single tokens.
//!
//! Trying costs next to nothing: `pace.rs` decides how many tokens are drafted, from what was measured.

mod draft_model;
mod ngram;
mod pace;

use std::fmt;
use std::time::{Duration, Instant};

pub use draft_model::DraftModel;
pub use ngram::NGram;

use crate::backend::cpu;
use crate::error::Result;
use pace::Pace;

/// Most drafts in a pass: with the token before them they are as many as single-token kernels are used for.
pub const MAX_DRAFT: usize = cpu::PRIVATE_ROWS - 1;

/// A guess of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Draft {
    /// The token's id.
    pub token: u32,
    /// How sure the drafter is, from 0 to [`CLASSES`] - 1: how often drafts are accepted is measured for each class.
    pub class: usize,
}

/// Classes of drafts.
pub const CLASSES: usize = 5;

/// Guesses how a text goes on.
pub trait Drafter {
    /// Takes up a text that may have nothing to do with the one before, or is that with many more tokens.
    ///
    /// # Errors
    /// The drafter's own model cannot read it.
    fn begin(&mut self, text: &[u32]) -> Result<()>;

    /// Puts up to `max` guesses of what follows `text` into `drafts`, which is empty. `text` is the one before with a few
    /// more tokens at its end.
    ///
    /// # Errors
    /// As [`Drafter::begin`].
    fn draft(&mut self, text: &[u32], max: usize, drafts: &mut Vec<Draft>) -> Result<()>;
}

/// A drafter, and what is known of how well it does.
pub struct Speculation<'d> {
    drafter: Box<dyn Drafter + 'd>,
    /// How many tokens are drafted for each pass, where that was fixed.
    length: Option<usize>,
    pace: Pace,
    /// What was drafted for the next pass, also what is not worth a place in it.
    drafts: Vec<Draft>,
    /// Whether the drafter knows the text, and whether it knows all but what the last pass brought.
    begun: bool,
    in_step: bool,
    counts: Counts,
}

/// How many drafts were read by the model, and how many of them were what it picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Drafts that took part in a pass.
    pub drafted: usize,
    /// Those of them that are part of the text.
    pub accepted: usize,
}

impl<'d> Speculation<'d> {
    /// Speculation with `drafter`, about which nothing is known yet. It learns from all texts that it is used for.
    pub fn new(drafter: impl Drafter + 'd) -> Speculation<'d> {
        Speculation {
            drafter: Box::new(drafter),
            length: None,
            pace: Pace::new(),
            drafts: Vec::new(),
            begun: false,
            in_step: false,
            counts: Counts::default(),
        }
    }

    /// The same with always `length` drafts, at most [`MAX_DRAFT`], whether that pays or not: what then happens does not
    /// depend on the time that anything takes.
    #[must_use]
    pub fn with_length(mut self, length: usize) -> Speculation<'d> {
        self.length = Some(length.min(MAX_DRAFT));
        self
    }

    /// Begins another text.
    pub(crate) fn begin(&mut self) {
        (self.begun, self.in_step, self.counts) = (false, false, Counts::default());
        self.pace.begin();
    }

    /// The counts of this text.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// Drafts that are worth a place in the pass that reads the last token of `text`, at most `max`, with ids below
    /// `n_vocab`.
    pub(crate) fn propose(&mut self, text: &[u32], max: usize, n_vocab: usize) -> Result<&[Draft]> {
        self.drafts.clear();
        let ask = self.length.unwrap_or_else(|| self.pace.ask()).min(max);
        if ask == 0 {
            self.pace.not_drafted();
            self.in_step = false;
            return Ok(&[]);
        }
        let begin = Instant::now();
        if !self.in_step {
            self.drafter.begin(text)?;
        }
        // whoever wants drafts wants the prompt read for them; reading on after a pause has to pay
        let caught_up = if self.begun { begin.elapsed() } else { Duration::ZERO };
        (self.begun, self.in_step) = (true, true);
        let begin = Instant::now();
        self.drafter.draft(text, ask, &mut self.drafts)?;
        self.pace.drafted(ask, begin.elapsed(), caught_up);
        let known = self.drafts.iter().take_while(|draft| (draft.token as usize) < n_vocab).count();
        self.drafts.truncate(known);
        let length = self.length.unwrap_or_else(|| self.pace.length(&self.drafts));
        Ok(&self.drafts[..length.min(self.drafts.len())])
    }

    /// Learns from a pass with `n` drafts, after which `picked` tokens are certain, and which took `time`. What was
    /// drafted but not read by the model is compared too: that tells how good drafts are while they are not used.
    pub(crate) fn learn(&mut self, n: usize, picked: &[u32], time: Duration) {
        for (draft, picked) in self.drafts.iter().zip(picked) {
            self.pace.compared(draft.class, draft.token == *picked);
            if draft.token != *picked {
                break;
            }
        }
        self.pace.passed(n, picked.len(), time);
        self.counts.drafted += n;
        self.counts.accepted += picked.len().saturating_sub(1);
    }
}

impl fmt::Debug for Speculation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Speculation")
            .field("pace", &self.pace)
            .field("counts", &self.counts)
            .finish_non_exhaustive()
    }
}
