//! Byte-level BPE, as GPT-2 has it: bytes are written as printable characters, words are merged by rank.

use hashbrown::HashMap;

use super::merge::{Merge, Merger};
use super::pretokenizer::PreTokenizer;
use super::text_table::TextTable;
use crate::{Error, ErrorKind, Result};

/// The character that stands for each byte in token texts: printable Latin-1 for itself, the other bytes in
/// order from U+0100.
const BYTE_CHARS: [char; 256] = byte_chars();
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
pub(super) fn decode(text: &str) -> Vec<u8> {
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
    /// By the ids of left and right.
    merges: HashMap<(u32, u32), Merge>,
    /// Id of each single byte.
    bytes: [u32; 256],
    /// Ids from here on are texts that merges pass through, not tokens of the vocabulary.
    n_tokens: u32,
}

impl Bpe {
    /// Reads `merges` ("left right", best first). Texts in them that are not tokens are added to `texts`.
    pub(super) fn new(texts: &mut TextTable, merges: &[&[u8]], pre: PreTokenizer) -> Result<Self> {
        let n_tokens = texts.len() as u32;
        let bytes = BYTE_CHARS.map(|c| texts.intern(c.encode_utf8(&mut [0; 4]).as_bytes()));
        let mut table = HashMap::with_capacity(merges.len());
        let mut joined = Vec::new();
        for (rank, merge) in (0..).zip(merges) {
            // From the second byte on: the left part may itself begin with a space.
            let space = merge.iter().skip(1).position(|&byte| byte == b' ').ok_or_else(|| {
                let what = format!("merge {rank}, \"{}\", is not two texts", String::from_utf8_lossy(merge));
                Error::new(ErrorKind::Malformed, what).next("get the file again, or convert the model anew")
            })?;
            let (left, right) = (&merge[..space + 1], &merge[space + 2..]);
            joined.clear();
            joined.extend_from_slice(left);
            joined.extend_from_slice(right);
            let pair = (texts.intern(left), texts.intern(right));
            let id = texts.intern(&joined);
            table.entry(pair).or_insert(Merge { rank, id });
        }
        Ok(Self { pre, merges: table, bytes, n_tokens })
    }

    /// Appends the ids of `text` to `ids`. Bytes that the vocabulary has no token for are left out.
    pub(super) fn encode(&self, texts: &TextTable, text: &str, ids: &mut Vec<u32>) {
        let mut merger = Merger::default();
        let mut mapped = String::new();
        self.pre.split(text, &mut |word| {
            if self.pre.ignore_merges {
                mapped.clear();
                mapped.extend(word.bytes().map(|byte| BYTE_CHARS[usize::from(byte)]));
                if let Some(id) = texts.get(mapped.as_bytes()).filter(|&id| id < self.n_tokens) {
                    ids.push(id);
                    return;
                }
            }
            merger.clear();
            for byte in word.bytes() {
                merger.push(1, self.bytes[usize::from(byte)]);
            }
            for symbol in merger.run(|left, right| self.merges.get(&(left.id, right.id)).copied()) {
                if symbol.id < self.n_tokens {
                    ids.push(symbol.id);
                } else {
                    let bytes = word[..].as_bytes()[symbol.start..symbol.end].iter();
                    ids.extend(
                        bytes.map(|&byte| self.bytes[usize::from(byte)]).filter(|&id| id < self.n_tokens),
                    );
                }
            }
        });
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
