//! The character map that SentencePiece precompiles for a vocabulary (`precompiled_charsmap`): what sequences of
//! characters are replaced with before anything else.
//!
//! Layout: the size of a trie in bytes (u32), the trie, and the replacements, each ended by a zero byte. The trie is a
//! double array of u32 entries (S. Yata, "Darts-clone"): the children of a node are at its offset xor a byte, and
//!
//! ```text
//!  bit   31     30 ........ 10      9        8        7 .. 0
//!       [leaf] [    offset    ] [offset is] [has    ] [byte ]     a leaf holds the place of a replacement
//!                               [times 256] [a leaf ]             in bits 30..0
//! ```

use super::malformed;
use crate::Result;

/// Bit of an entry that holds a value.
const IS_LEAF: u32 = 1 << 31;

/// A map, empty for a vocabulary that has none.
pub(super) struct CharsMap {
    trie: Vec<u32>,
    /// Texts, each ended by a zero byte.
    replacements: String,
}

impl CharsMap {
    /// The map in `bytes`, which may be empty. Fails with `Malformed` where its sizes contradict each other.
    pub(super) fn new(bytes: &[u8]) -> Result<Self> {
        if bytes.is_empty() {
            return Ok(Self { trie: Vec::new(), replacements: String::new() });
        }
        let wrong = || malformed("tokenizer.ggml.precompiled_charsmap is no character map".into());
        let (n_bytes, rest) = bytes.split_first_chunk().ok_or_else(wrong)?;
        let (trie, replacements) =
            rest.split_at_checked(u32::from_le_bytes(*n_bytes) as usize).ok_or_else(wrong)?;
        let replacements = str::from_utf8(replacements).map_err(|_| wrong())?.to_owned();
        let (entries, left_over) = trie.as_chunks();
        if !left_over.is_empty() {
            return Err(wrong());
        }
        Ok(Self { trie: entries.iter().map(|entry| u32::from_le_bytes(*entry)).collect(), replacements })
    }

    /// Length of the longest sequence that `text` begins with and the map has, and its replacement.
    pub(super) fn longest(&self, text: &str) -> Option<(usize, &str)> {
        let mut found = None;
        let mut node = offset(*self.trie.first()?);
        for (at, byte) in text.bytes().enumerate() {
            node ^= u32::from(byte);
            let Some(&entry) = self.trie.get(node as usize) else { break };
            // A zero byte would be the way to a leaf.
            if byte == 0 || entry & (IS_LEAF | 0xff) != u32::from(byte) {
                break;
            }
            node ^= offset(entry);
            if entry >> 8 & 1 == 1
                && let Some(&leaf) = self.trie.get(node as usize)
            {
                found = Some((at + 1, leaf & !IS_LEAF));
            }
        }
        let (len, place) = found.filter(|&(len, _)| text.is_char_boundary(len))?;
        Some((len, self.replacements.get(place as usize..)?.split('\0').next()?))
    }
}

fn offset(entry: u32) -> u32 {
    (entry >> 10) << ((entry & 1 << 9) >> 6)
}
