//! SentencePiece's unigram model, as T5 and XLM-RoBERTa have it: of all ways to cut a text into tokens, the one with
//! the greatest sum of scores (log probabilities), found with Viterbi's algorithm.

use super::charsmap::CharsMap;
use super::prefix::PrefixIndex;
use super::{SPACE, TokenType};
use crate::Result;

/// How much less an unknown character scores than the worst token.
const UNKNOWN_PENALTY: f32 = 10.0;

/// What a file says of how text is cleaned.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cleaning<'a> {
    pub(super) charsmap: &'a [u8],
    pub(super) add_space_prefix: bool,
    pub(super) remove_extra_whitespaces: bool,
}

pub(super) struct Unigram {
    pieces: PrefixIndex,
    /// By id; user-defined tokens have 0, so that they are preferred.
    scores: Vec<f32>,
    unknown: u32,
    unknown_score: f64,
    charsmap: CharsMap,
    add_space_prefix: bool,
    remove_extra_whitespaces: bool,
}

/// The best way to cut the text up to some place.
#[derive(Clone, Copy)]
struct Best {
    score: f64,
    /// The last token, and where it begins.
    id: u32,
    start: usize,
}

impl Unigram {
    /// From texts, types and scores by id. Fails with `Malformed` for a character map that is none.
    pub(super) fn new(
        tokens: &[&[u8]],
        types: &[TokenType],
        scores: &[f32],
        unknown: u32,
        cleaning: Cleaning<'_>,
    ) -> Result<Self> {
        let matched = |kind| matches!(kind, TokenType::Normal | TokenType::UserDefined | TokenType::Unused);
        let pieces = (0..).zip(tokens).zip(types).filter(|&(_, &kind)| matched(kind));
        let pieces = PrefixIndex::new(pieces.map(|((id, &text), _)| (id, text)));
        let normal = types.iter().zip(scores).filter(|&(&kind, _)| kind == TokenType::Normal);
        let worst = normal.map(|(_, &score)| score).fold(f32::MAX, f32::min);
        let score = |(&kind, &score)| if kind == TokenType::UserDefined { 0.0 } else { score };
        Ok(Self {
            pieces,
            scores: types.iter().zip(scores).map(score).collect(),
            unknown,
            unknown_score: f64::from(worst - UNKNOWN_PENALTY),
            charsmap: CharsMap::new(cleaning.charsmap)?,
            add_space_prefix: cleaning.add_space_prefix,
            remove_extra_whitespaces: cleaning.remove_extra_whitespaces,
        })
    }

    /// Appends the ids of `text` to `ids`; unknown characters beside each other are one unknown token.
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) {
        let text = self.normalize(text);
        let best = self.viterbi(&text);
        let n_before = ids.len();
        let (mut end, mut after_unknown) = (text.len(), false);
        while end > 0 {
            let Best { id, start, .. } = best[end];
            let is_unknown = id == self.unknown;
            if !(is_unknown && after_unknown) {
                ids.push(id);
            }
            (end, after_unknown) = (start, is_unknown);
        }
        ids[n_before..].reverse();
    }

    /// Whether a text begins with a space that is not its own.
    pub(super) fn has_space_prefix(&self) -> bool {
        self.add_space_prefix || self.remove_extra_whitespaces
    }

    /// The best way to each place of `text`.
    fn viterbi(&self, text: &str) -> Vec<Best> {
        let nothing = Best { score: f64::NEG_INFINITY, id: self.unknown, start: 0 };
        let mut best = vec![nothing; text.len() + 1];
        best[0].score = 0.0;
        for (start, c) in text.char_indices() {
            let before = best[start].score;
            let mut try_token = |len: usize, id: u32, score: f64| {
                let place = &mut best[start + len];
                if before + score > place.score {
                    *place = Best { score: before + score, id, start };
                }
            };
            let mut is_known = false;
            for (len, id) in self.pieces.prefixes(&text.as_bytes()[start..]) {
                is_known |= len == c.len_utf8();
                try_token(len, id, f64::from(self.scores[id as usize]));
            }
            if !is_known {
                try_token(c.len_utf8(), self.unknown, self.unknown_score);
            }
        }
        best
    }

    /// Replaces characters as the map says, and writes spaces as tokens have them.
    fn normalize(&self, text: &str) -> String {
        let mut normal = String::with_capacity(text.len() + text.len() / 2);
        let (mut in_word, mut has_prefix) = (false, false);
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let (len, replacement) = match self.charsmap.longest(rest) {
                Some((len, replacement)) => (len, replacement),
                None => (first.len_utf8(), &rest[..first.len_utf8()]),
            };
            for c in replacement.chars() {
                if c == ' ' {
                    in_word = false;
                    if !self.remove_extra_whitespaces {
                        normal.push_str(SPACE);
                    }
                    continue;
                }
                if !in_word {
                    in_word = true;
                    if self.remove_extra_whitespaces || self.add_space_prefix && !has_prefix {
                        normal.push_str(SPACE);
                        has_prefix = true;
                    }
                }
                normal.push(c);
            }
            rest = &rest[len..];
        }
        normal
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXTS: [&str; 7] = ["<unk>", "▁", "a", "ab", "b", "▁ab", "c"];
    const SCORES: [f32; 7] = [0.0, -3.0, -2.0, -5.0, -2.0, -4.0, -9.0];

    fn unigram(add_space_prefix: bool, remove_extra_whitespaces: bool) -> Unigram {
        let cleaning = Cleaning { charsmap: &[], add_space_prefix, remove_extra_whitespaces };
        let mut types = [TokenType::Normal; 7];
        types[0] = TokenType::Unknown;
        Unigram::new(&TEXTS.map(str::as_bytes), &types, &SCORES, 0, cleaning).unwrap()
    }

    fn encode(unigram: &Unigram, text: &str) -> Vec<u32> {
        let mut ids = Vec::new();
        unigram.encode(text, &mut ids);
        ids
    }

    #[test]
    fn the_best_sum_of_scores_wins() {
        let unigram = unigram(false, false);
        assert_eq!(encode(&unigram, "ab"), [2, 4], "-2 - 2 is better than -5");
        assert_eq!(encode(&unigram, " ab"), [5], "-4 is better than -3 - 2 - 2");
        assert_eq!(encode(&unigram, "axya"), [2, 0, 2], "unknown characters are one token");
        assert_eq!(encode(&unigram, "  "), [1, 1]);
        assert!(encode(&unigram, "").is_empty());
    }

    #[test]
    fn spaces_as_the_file_says() {
        assert_eq!(encode(&unigram(true, false), "ab"), [5]);
        assert_eq!(encode(&unigram(true, false), "ab ab"), [5, 5]);
        assert_eq!(encode(&unigram(true, true), "  ab   ab "), [5, 5]);
        assert!(encode(&unigram(true, true), "  ").is_empty());
    }
}
