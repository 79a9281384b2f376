//! WordPiece, as BERT has it: text is cleaned and cut into words, and each word into the longest tokens that it
//! begins with; a word that cannot be spelled is one unknown token.
//!
//! A token that begins a word is written with `▁` before it, one inside a word as it is.

use regex_automata::meta::Regex;
use unicode_normalization::UnicodeNormalization;

use super::SPACE;
use super::prefix::PrefixIndex;
use super::unicode::{Replacer, lower, regex};
use crate::Result;

/// What a match of the patterns of [`WordPiece::new`] is, by the number of the pattern.
const SPACES: usize = 0;
const DROPPED: usize = 1;
const MARK: usize = 2;
const WORD_BY_ITSELF: usize = 3;

/// How text is cleaned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Normalizer {
    pub(super) lowercase: bool,
    pub(super) strip_accents: bool,
}

pub(super) struct WordPiece {
    pieces: PrefixIndex,
    parts: Regex,
    replacer: Replacer,
    normalizer: Normalizer,
    unknown: u32,
}

impl WordPiece {
    /// From the tokens, of which `unknown` is what words become that cannot be spelled.
    pub(super) fn new<'a>(
        tokens: impl Iterator<Item = (u32, &'a [u8])>,
        normalizer: Normalizer,
        unknown: u32,
    ) -> Result<Self> {
        let parts = regex(&[
            r"\s+",
            // Control characters, and what a decoder wrote for bytes that are no text.
            r"[[\p{Cc}\p{Cf}\p{Co}\u{fffd}&&\p{age:15.1}]--\s]+",
            r"\p{M}+",
            // Punctuation, ASCII symbols, and Chinese characters. (One block of these begins at U+2B920, where
            // U+2B820 is meant, in the implementation that vocabularies are used with.)
            concat!(
                r"[\p{P}$+<=>^`|~\u{4e00}-\u{9fff}\u{3400}-\u{4dbf}\u{20000}-\u{2a6df}\u{2a700}-\u{2b81f}",
                r"\u{2b920}-\u{2ceaf}\u{f900}-\u{faff}\u{2f800}-\u{2fa1f}]"
            ),
            r"(?s:.)",
        ])?;
        Ok(Self { pieces: PrefixIndex::new(tokens), parts, replacer: Replacer::new()?, normalizer, unknown })
    }

    /// Appends the ids of `text` to `ids`.
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) {
        let Normalizer { lowercase, strip_accents } = self.normalizer;
        let text = self.replacer.replace(text, |c| {
            let base = if strip_accents { base(c) } else { c };
            if lowercase { lower(base) } else { base }
        });
        let mut word = String::new();
        for found in self.parts.find_iter(&text) {
            let part = &text[found.range()];
            match found.pattern().as_usize() {
                SPACES => self.end_word(&mut word, ids),
                DROPPED => {}
                MARK if strip_accents => {}
                WORD_BY_ITSELF => {
                    self.end_word(&mut word, ids);
                    word.push_str(part);
                    self.end_word(&mut word, ids);
                }
                _ => word.push_str(part),
            }
        }
        self.end_word(&mut word, ids);
    }

    fn end_word(&self, word: &mut String, ids: &mut Vec<u32>) {
        if word.is_empty() {
            return;
        }
        word.insert_str(0, SPACE);
        let (mut rest, n_before) = (word.as_bytes(), ids.len());
        while !rest.is_empty() {
            let Some((len, id)) = self.pieces.longest(rest) else {
                ids.truncate(n_before);
                ids.push(self.unknown);
                break;
            };
            ids.push(id);
            rest = &rest[len..];
        }
        word.clear();
    }
}

/// The first character of what `c` decomposes to: a letter without its accents.
fn base(c: char) -> char {
    c.nfd().next().unwrap_or(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wordpiece(normalizer: Normalizer) -> WordPiece {
        let tokens = ["[UNK]", "▁un", "▁unaffable", "aff", "able", "▁!", "▁語", "▁é", "▁e", "s", "▁A"];
        WordPiece::new((0..).zip(tokens.map(str::as_bytes)), normalizer, 0).unwrap()
    }

    fn encode(text: &str, lowercase: bool, strip_accents: bool) -> Vec<u32> {
        let mut ids = Vec::new();
        wordpiece(Normalizer { lowercase, strip_accents }).encode(text, &mut ids);
        ids
    }

    #[test]
    fn the_longest_piece_first_and_a_word_that_cannot_be_spelled_is_unknown() {
        assert_eq!(encode("unaffable  unaffs UNable", true, true), [2, 1, 3, 9, 1, 4]);
        assert_eq!(encode("unx uns", true, true), [0, 1, 9]);
    }

    #[test]
    fn punctuation_and_chinese_stand_alone_and_control_characters_nowhere() {
        assert_eq!(encode("e!語s\u{200b}\u{0}e", true, true), [8, 5, 6, 0]);
        assert_eq!(encode("u\u{0}n\u{200d}s", true, true), [1, 9]);
        assert_eq!(encode("e\u{0}\u{c}\u{1}e", true, true), [8, 8], "the form feed is white space first");
    }

    #[test]
    fn accents_and_case_as_the_file_says() {
        assert_eq!(encode("É e\u{301}", true, true), [8, 8]);
        assert_eq!(encode("É", true, false), [7]);
        assert_eq!(encode("A É", false, false), [10, 0]);
    }
}
