//! Drafts from a smaller model with the same vocabulary.

use std::ops::ControlFlow;

use super::{Draft, Drafter};
use crate::error::{Error, ErrorKind, Result};
use crate::model::Model;
use crate::sample::argmax;
use crate::session::{Logits, Session, SessionOptions};
use crate::tokenizer::Tokenizer;

/// A model that drafts the tokens that it finds likeliest. It reads the text after the large model, and forgets those of
/// its own drafts that were not accepted.
#[derive(Debug)]
pub struct DraftModel<'m> {
    session: Session<'m>,
    n_vocab: usize,
    /// So many tokens that the session has read are the text's for certain; after them come drafts.
    settled: usize,
}

impl<'m> DraftModel<'m> {
    /// `model`, whose vocabulary `own` is, drafts for a model with the vocabulary `target`. One vocabulary may have more
    /// tokens at its end, as models of one family do that round its size up.
    ///
    /// # Errors
    /// `Input` if the vocabularies differ; otherwise as [`Session::new`].
    pub fn new(
        model: &'m Model,
        own: &Tokenizer,
        target: &Tokenizer,
        options: &SessionOptions,
    ) -> Result<DraftModel<'m>> {
        if let Some(token) = own.first_difference(target) {
            let what = format!("the model cannot draft: its token {token} is not that of the large model");
            return Err(Error::new(ErrorKind::Input, what)
                .file(model.gguf().path())
                .next("choose a smaller model of the same family"));
        }
        let session = Session::new(model, options)?;
        Ok(DraftModel { session, n_vocab: model.spec().n_vocab, settled: 0 })
    }

    /// Whether the session can read all tokens of `text` that it has not read.
    fn can_read(&self, text: &[u32]) -> bool {
        let new = &text[self.session.tokens().len()..];
        text.len() <= self.session.n_ctx() && new.iter().all(|token| (*token as usize) < self.n_vocab)
    }

    /// Forgets what is not `text`, of which the last token is left to be read.
    fn settle(&mut self, text: &[u32]) {
        let read = &self.session.tokens()[self.settled..];
        let same = read.iter().zip(&text[self.settled..]).take_while(|(a, b)| a == b).count();
        self.settled = (self.settled + same).min(text.len().saturating_sub(1));
        self.session.truncate(self.settled);
    }

    /// Reads `tokens`; the likeliest next one.
    fn read(&mut self, tokens: &[u32]) -> Result<u32> {
        let mut best = 0;
        self.session.eval(tokens, Logits::Last, &mut |_, logits| {
            best = argmax(logits);
            ControlFlow::Continue(())
        })?;
        Ok(best)
    }
}

impl Drafter for DraftModel<'_> {
    fn begin(&mut self, text: &[u32]) -> Result<()> {
        self.settled = 0;
        self.settle(text);
        // so that the first draft takes no longer than others
        let before = &text[..text.len().saturating_sub(1)];
        if self.settled < before.len() && self.can_read(before) {
            self.read(&before[self.settled..])?;
        }
        Ok(())
    }

    fn draft(&mut self, text: &[u32], max: usize, drafts: &mut Vec<Draft>) -> Result<()> {
        self.settle(text);
        if !self.can_read(text) {
            return Ok(());
        }
        let max = max.min(self.session.n_ctx() - text.len() + 1); // the last draft is not read
        let mut token = self.read(&text[self.settled..])?;
        self.settled = text.len();
        for i in 0..max {
            drafts.push(Draft { token, class: 0 });
            if i + 1 < max {
                token = self.read(&[token])?;
            }
        }
        Ok(())
    }
}
