//! BPE with merges: words are written in an alphabet, and merged by rank. Byte-level BPE, as GPT-2 has it, writes
//! bytes as printable characters; some later vocabularies write text as it is, and spell in bytes what they lack.

use super::SPACE;
use super::bytes::ByteTokens;
use super::families::{Alphabet, Family};
use super::merge::Merger;
use super::pretokenizer::PreTokenizer;
use super::text_table::TextTable;
use crate::Result;

/// The character that stands for each byte in token texts: printable Latin-1 for itself, the other bytes in
/// order from U+0100.
pub(super) const BYTE_CHARS: [char; 256] = byte_chars();
const FIRST_SHIFTED: u32 = 0x100;

const fn byte_chars() -> [char; 256] {
    let mut chars = ['\0'; 256];
    let (mut byte, mut shifted) = (0, FIRST_SHIFTED);
    while byte < 256 {
        let printable = matches!(byte as u8, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
        let code = if printable { byte as u32 } else { shifted };
        if !printable {
            shifted += 1;
        }
        chars[byte] = match char::from_u32(code) {
            Some(c) => c,
            None => panic!("every code here is below U+0200"),
        };
        byte += 1;
    }
    chars
}

/// The bytes that a token text stands for; a character outside the byte alphabet stands for itself.
fn decode(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '!'..='~' | '\u{a1}'..='\u{ac}' | '\u{ae}'..='\u{ff}' => bytes.push(c as u32 as u8),
            _ => match BYTE_CHARS.iter().position(|&byte_char| byte_char == c) {
                Some(byte) => bytes.push(byte as u8),
                None => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            },
        }
    }
    bytes
}

/// The merges of a vocabulary.
pub(super) struct Bpe {
    pre: PreTokenizer,
    /// "left right", numbered by rank; no text that is merged has a space in it.
    merges: TextTable,
    /// Tokens such as `<0xE2>`, where the alphabet is text.
    bytes: ByteTokens,
}

impl Bpe {
    /// Takes merges as "left right", best first.
    pub(super) fn new(tokens: &TextTable, merges: &[&[u8]], pre: PreTokenizer) -> Result<Self> {
        let bytes = ByteTokens::new(tokens);
        Ok(Self { pre, merges: TextTable::new(merges)?, bytes })
    }

    /// What the pre-tokenizer's name says.
    pub(super) fn family(&self) -> &'static Family {
        self.pre.family
    }

    fn alphabet(&self) -> Alphabet {
        self.family().alphabet
    }

    /// Appends the ids of `text` to `ids`. Bytes that the vocabulary has no token for are left out.
    pub(super) fn encode(&self, tokens: &TextTable, text: &str, ids: &mut Vec<u32>) {
        let mut merger = Merger::default();
        let mut key = Vec::new();
        match self.alphabet() {
            Alphabet::Bytes => {
                let mut word = String::new();
                self.pre.split(text, &mut |bytes| {
                    word.clear();
                    word.extend(bytes.bytes().map(|byte| BYTE_CHARS[usize::from(byte)]));
                    self.encode_word(tokens, &word, &mut merger, &mut key, ids);
                });
            }
            Alphabet::SpacedText => {
                let text = text.replace(' ', SPACE);
                self.pre.split(&text, &mut |word| self.encode_word(tokens, word, &mut merger, &mut key, ids));
            }
            Alphabet::Text => {
                self.pre.split(text, &mut |word| self.encode_word(tokens, word, &mut merger, &mut key, ids));
            }
        }
    }

    fn encode_word(
        &self,
        tokens: &TextTable,
        word: &str,
        merger: &mut Merger,
        key: &mut Vec<u8>,
        ids: &mut Vec<u32>,
    ) {
        let Family { ignore_merges, whole_lines, .. } = self.pre.family;
        if (*ignore_merges || *whole_lines && word.bytes().all(|byte| byte == b'\n'))
            && let Some(id) = tokens.get(word.as_bytes())
        {
            ids.push(id);
            return;
        }
        let rank = |pair: &str, middle: usize| {
            key.clear();
            key.extend_from_slice(&pair.as_bytes()[..middle]);
            key.push(b' ');
            key.extend_from_slice(&pair.as_bytes()[middle..]);
            self.merges.get(key)
        };
        for part in merger.merge(word, rank) {
            match tokens.get(part.as_bytes()) {
                Some(id) => ids.push(id),
                None if self.alphabet() == Alphabet::Bytes => {
                    ids.extend(part.chars().filter_map(|c| tokens.get(c.encode_utf8(&mut [0; 4]).as_bytes())))
                }
                None => ids.extend(part.bytes().filter_map(|byte| self.bytes.get(byte))),
            }
        }
    }

    /// The bytes that the text of a normal token stands for.
    pub(super) fn decode(&self, text: &str) -> Vec<u8> {
        match self.alphabet() {
            Alphabet::Bytes => decode(text),
            Alphabet::Text => text.as_bytes().to_vec(),
            Alphabet::SpacedText => text.replace(SPACE, " ").into_bytes(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_is_gpt2s_and_decodes() {
        assert_eq!(BYTE_CHARS[b'A' as usize], 'A');
        assert_eq!(BYTE_CHARS[b' ' as usize], 'Ġ');
        assert_eq!(BYTE_CHARS[b'\n' as usize], 'Ċ');
        assert_eq!(BYTE_CHARS[0xad], 'Ń', "the soft hyphen is the last that is shifted");
        for byte in 0..=255u8 {
            assert_eq!(decode(&BYTE_CHARS[usize::from(byte)].to_string()), [byte]);
        }
        assert_eq!(decode("a▁"), "a▁".as_bytes(), "not of the alphabet");
    }
}
