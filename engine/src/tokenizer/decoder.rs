//! Token ids to text, one at a time, as they are generated.

use super::Tokenizer;
use crate::Result;

/// Whether control tokens (`<|im_end|>` and the like) appear in decoded text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ControlTokens {
    /// As the text the vocabulary has for them.
    Show,
    /// Not at all.
    Hide,
}

/// Decodes a stream of ids. A character whose bytes are spread over tokens comes out with the last of them;
/// bytes that no continuation can make valid come out as U+FFFD.
pub struct Decoder<'t> {
    tokenizer: &'t Tokenizer,
    control: ControlTokens,
    /// Bytes of a character that is not complete yet; at most three.
    pending: Vec<u8>,
    /// The next text loses one leading space, which encoding put before it.
    strip_space: bool,
}

impl<'t> Decoder<'t> {
    pub(super) fn new(tokenizer: &'t Tokenizer, control: ControlTokens, strip_space: bool) -> Self {
        Self { tokenizer, control, pending: Vec::new(), strip_space }
    }

    /// Takes one token; returns the text that is certain now, which may be empty.
    ///
    /// # Errors
    /// `Input` if `id` is outside the vocabulary.
    pub fn push(&mut self, id: u32) -> Result<String> {
        let piece = self.tokenizer.token_bytes(id, self.control)?;
        let mut piece = piece.as_slice();
        if self.strip_space && !piece.is_empty() && !self.tokenizer.is_control(id) {
            piece = piece.strip_prefix(b" ").unwrap_or(piece);
            self.strip_space = false;
        }
        self.pending.extend_from_slice(piece);
        Ok(self.take_certain())
    }

    /// Ends the text; a character that was left incomplete comes out as U+FFFD.
    pub fn finish(self) -> String {
        String::from_utf8_lossy(&self.pending).into_owned()
    }

    fn take_certain(&mut self) -> String {
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    let Some(invalid) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[invalid..];
                }
            }
        }
        self.pending = rest.to_vec();
        text
    }
}
