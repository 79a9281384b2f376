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
        Ok(Self { ranks: scores.iter().map(|&score| rank(score)).collect(), bytes, add_space_prefix })
    }

    /// Appends the ids of `text` to `ids`; `start` says that it stands at the beginning or after a special token.
    pub(super) fn encode(&self, tokens: &TextTable, text: &str, start: bool, ids: &mut Vec<u32>) {
        let prefix = if start && self.add_space_prefix { SPACE } else { "" };
        let text = [prefix, &text.replace(' ', SPACE)].concat();
        let rank = |pair: &str, _| tokens.get(pair.as_bytes()).map(|id| self.ranks[id as usize]);
        for part in Merger::default().merge(&text, rank) {
            match tokens.get(part.as_bytes()) {
                Some(id) => ids.push(id),
                None => ids.extend(part.bytes().map(|byte| self.bytes[usize::from(byte)])),
            }
        }
    }
}

/// Orders scores from the highest to the lowest: the bits of a float, made monotonic, upside down.
fn rank(score: f32) -> u32 {
    let bits = (score + 0.0).to_bits(); // -0.0 becomes 0.0
    let ascending = if bits >> 31 == 0 { bits | 1 << 31 } else { !bits };
    !ascending
}

#[cfg(test)]
mod tests {
    use super::rank;

    #[test]
    fn ranks_are_the_reverse_order_of_scores() {
        let scores = [f32::INFINITY, 1e9, 2.5, 1e-40, 0.0, -1e-40, -1.0, -31999.0, f32::NEG_INFINITY];
        assert!(scores.windows(2).all(|pair| rank(pair[0]) < rank(pair[1])));
        assert_eq!(rank(-0.0), rank(0.0));
    }
}
