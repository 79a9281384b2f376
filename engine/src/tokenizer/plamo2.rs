//! PLaMo 2's tokenizer: of all ways to cut a text into tokens the one with the greatest sum of scores, found from the
//! end of the text; a character that no token begins with is spelled in bytes.

use super::bytes::ByteTokens;
use super::prefix::PrefixIndex;
use super::{TokenType, malformed};
use crate::Result;

/// Scores are counted in ten thousandths.
const SCALE: f64 = 1e4;
/// What a character that is spelled in bytes scores.
const BYTES_SCORE: i64 = -10_000_000;
/// Tokens that score as little as this are not used.
const LOWEST_SCORE: i64 = -20_000_000;

pub(super) struct Plamo2 {
    pieces: PrefixIndex,
    /// By id.
    scores: Vec<i64>,
    bytes: ByteTokens,
}

/// The best way to cut the text from some place on.
#[derive(Clone, Copy)]
struct Best {
    score: i64,
    /// Length of the first token in bytes, and its id; `None` for a character that is spelled in bytes.
    len: usize,
    id: Option<u32>,
}

impl Plamo2 {
    /// From texts, types and scores by id. Fails with `Malformed` for a vocabulary that lacks the token of a byte.
    pub(super) fn new(
        tokens: &[&[u8]],
        types: &[TokenType],
        scores: &[f32],
        bytes: ByteTokens,
    ) -> Result<Self> {
        if let Some(byte) = (0..=255u8).find(|&byte| bytes.get(byte).is_none()) {
            return Err(malformed(format!("the vocabulary has no token for byte 0x{byte:02X}")));
        }
        let scores: Vec<i64> =
            scores.iter().map(|&score| (f64::from(score) * SCALE).round() as i64).collect();
        // What a user typed is no control token here either.
        let matched = |kind| matches!(kind, TokenType::Normal | TokenType::UserDefined | TokenType::Unused);
        let pieces = (0..).zip(tokens).zip(types.iter().zip(&scores));
        let pieces = pieces.filter(|&((_, text), (&kind, &score))| {
            matched(kind) && score > LOWEST_SCORE && str::from_utf8(text).is_ok()
        });
        Ok(Self { pieces: PrefixIndex::new(pieces.map(|((id, &text), _)| (id, text))), scores, bytes })
    }

    /// Appends the ids of `text` to `ids`; a byte order mark at its start is left out.
    pub(super) fn encode(&self, text: &str, ids: &mut Vec<u32>) {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let mut best = vec![Best { score: 0, len: 0, id: None }; text.len() + 1];
        for (at, c) in text.char_indices().rev() {
            let after = c.len_utf8();
            let mut place = Best { score: best[at + after].score + BYTES_SCORE, len: after, id: None };
            // Of equal sums the one with the longest first token is taken, and bytes last.
            for (len, id) in self.pieces.prefixes(&text.as_bytes()[at..]) {
                let score = best[at + len].score + self.scores[id as usize];
                if score >= place.score {
                    place = Best { score, len, id: Some(id) };
                }
            }
            best[at] = place;
        }
        let mut at = 0;
        while at < text.len() {
            let Best { len, id, .. } = best[at];
            match id {
                Some(id) => ids.push(id),
                None => {
                    ids.extend(text.as_bytes()[at..at + len].iter().filter_map(|&byte| self.bytes.get(byte)))
                }
            }
            at += len;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::text_table::TextTable;
    use super::*;

    #[test]
    fn the_best_sum_of_scores_wins_and_the_rest_is_bytes() {
        let bytes: Vec<String> = (0..=255).map(|byte| format!("<0x{byte:02X}>")).collect();
        let texts: Vec<&[u8]> = bytes
            .iter()
            .map(String::as_bytes)
            .chain(["a", "ab", "b", "<|s|>", "bc"].map(str::as_bytes))
            .collect();
        let mut types = vec![TokenType::Byte; 256];
        types.extend([TokenType::Normal; 5]);
        types[259] = TokenType::Control;
        let mut scores = vec![0.0; 256];
        scores.extend([-1.0, -3.0, -2.0, 0.0, -2.0]);
        let new = |texts: &[&[u8]]| {
            Plamo2::new(texts, &types, &scores, ByteTokens::new(&TextTable::new(texts).unwrap()))
        };
        let plamo = new(&texts).unwrap();
        let encode = |text| {
            let mut ids = Vec::new();
            plamo.encode(text, &mut ids);
            ids
        };
        assert_eq!(encode("ab"), [257], "-3 both ways: the longer token");
        assert_eq!(encode("abc"), [256, 260]);
        assert_eq!(encode("\u{feff}aé"), [256, 0xc3, 0xa9]);
        assert_eq!(encode("<|s|>")[0], u32::from(b'<'), "no control token");
        let mut lacking = texts.clone();
        lacking[7] = b"x";
        assert!(new(&lacking).is_err());
    }
}
