//! SentencePiece BPE: spaces are written `▁`, characters are merged by the score of what they become, and
//! characters without a token are spelled in bytes.

use super::merge::Merger;
use super::text_table::TextTable;
use crate::{Error, ErrorKind, Result};

/// What a space is written as in token texts.
pub(super) const SPACE: &str = "▁";

/// The scores of a vocabulary.
pub(super) struct Spm {
    /// Merge rank of each token: the order of scores, best first.
    ranks: Vec<u32>,
    /// Token of each byte.
    bytes: [u32; 256],
    pub(super) add_space_prefix: bool,
    /// Whether no token goes on after a word has ended. Words can be merged one by one then, which takes an eighth of the
    /// time that the text as a whole does: all of a word stays in the nearest cache.
    by_words: bool,
}

impl Spm {
    /// Takes one score a token. Bytes without a token of their own are `unknown`; without that either, the
    /// vocabulary is malformed.
    pub(super) fn new(
        tokens: &TextTable,
        scores: &[f32],
        unknown: Option<u32>,
        add_space_prefix: bool,
    ) -> Result<Self> {
        let mut bytes = [0; 256];
        for (byte, id) in (0..=255u8).zip(&mut bytes) {
            let token =
                tokens.get(format!("<0x{byte:02X}>").as_bytes()).or_else(|| tokens.get(&[byte])).or(unknown);
            *id = token.ok_or_else(|| {
                let what =
                    format!("the vocabulary has neither a token for byte 0x{byte:02X} nor an unknown token");
                Error::new(ErrorKind::Malformed, what).next("get the file again, or convert the model anew")
            })?;
        }
        let ranks: Vec<u32> = scores.iter().map(|&score| rank(score)).collect();
        let by_words = (0..).zip(&ranks).all(|(id, _)| tokens.text(id).is_none_or(is_in_one_word));
        Ok(Self { ranks, bytes, add_space_prefix, by_words })
    }

    /// Appends the ids of `text` to `ids`; `start` says that it stands at the beginning or after a special token.
    pub(super) fn encode(&self, tokens: &TextTable, text: &str, start: bool, ids: &mut Vec<u32>) {
        let prefix = if start && self.add_space_prefix { SPACE } else { "" };
        let text = [prefix, &text.replace(' ', SPACE)].concat();
        let rank = |pair: &str, _| tokens.get(pair.as_bytes()).map(|id| self.ranks[id as usize]);
        let mut merger = Merger::default();
        let mut rest = text.as_str();
        while !rest.is_empty() {
            let (word, after) = rest.split_at(if self.by_words { first_word(rest) } else { rest.len() });
            for part in merger.merge(word, rank) {
                match tokens.get(part.as_bytes()) {
                    Some(id) => ids.push(id),
                    None => ids.extend(part.bytes().map(|byte| self.bytes[usize::from(byte)])),
                }
            }
            rest = after;
        }
    }
}

/// Length of the first word of `text`: spaces, and what follows up to the next space.
fn first_word(text: &str) -> usize {
    let n_spaces = text.len() - text.trim_start_matches(SPACE).len();
    text[n_spaces..].find(SPACE).map_or(text.len(), |len| n_spaces + len)
}

/// Whether no space follows anything else in the text of a token. One that is not UTF-8 is in no text.
fn is_in_one_word(token: &[u8]) -> bool {
    str::from_utf8(token).map_or(true, |token| first_word(token) == token.len())
}

/// Orders scores from the highest to the lowest: the bits of a float, made monotonic, upside down.
fn rank(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits(); // -0.0 becomes 0.0
    let ascending = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    !ascending
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_merged_apart_only_where_no_token_is_longer() {
        let encode = |texts: &[&str], text: &str| {
            let tokens: Vec<&[u8]> = texts.iter().map(|text| text.as_bytes()).collect();
            let tokens = TextTable::new(&tokens).unwrap();
            let scores: Vec<f32> = (0..texts.len()).map(|id| -(id as f32)).collect();
            let spm = Spm::new(&tokens, &scores, Some(0), false).unwrap();
            let mut ids = Vec::new();
            spm.encode(&tokens, text, true, &mut ids);
            (spm.by_words, ids)
        };
        let texts = ["<unk>", "a▁", "▁▁", "▁a", "▁", "a", "▁▁a"];
        assert_eq!(encode(&texts, "a a  a"), (false, vec![1, 1, 3]));
        let texts = ["<unk>", "x", "▁▁", "▁a", "▁", "a", "▁▁a"];
        assert_eq!(encode(&texts, "a a  a"), (true, vec![5, 3, 6]));
        assert_eq!(encode(&texts, "  a  "), (true, vec![6, 2]));
    }

    #[test]
    fn ranks_are_the_reverse_order_of_scores() {
        let scores = [f32::INFINITY, 1e9, 2.5, 1e-40, 0.0, -1e-40, -1.0, -31999.0, f32::NEG_INFINITY];
        assert!(scores.windows(2).all(|pair| rank(pair[0]) < rank(pair[1])));
        assert_eq!(rank(-0.0), rank(0.0));
    }
}
