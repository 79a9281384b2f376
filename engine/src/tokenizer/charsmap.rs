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

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes of a map with these trie entries.
    fn bytes(entries: &[(usize, u32)], replacements: &[u8]) -> Vec<u8> {
        let mut trie = vec![0; 0x200];
        entries.iter().for_each(|&(at, entry)| trie[at] = entry);
        let trie: Vec<u8> = trie.into_iter().flat_map(u32::to_le_bytes).collect();
        [&(trie.len() as u32).to_le_bytes(), &trie[..], replacements].concat()
    }

    /// Bits 8 and up of a node that has a leaf.
    const fn node(offset: u32) -> u32 {
        offset << 10 | 1 << 8 | b'A' as u32
    }

    #[test]
    fn the_longest_sequence_is_replaced() {
        // Root to 0x100; "A" at 0x100 ^ 0x41 = 0x141, its leaf at 0x141 ^ 1; "AA" at 0x140 ^ 0x41, its leaf at 0x101 ^ 3.
        let entries =
            [(0, 0x100 << 10), (0x141, node(1)), (0x140, IS_LEAF), (0x101, node(3)), (0x102, IS_LEAF | 2)];
        let map = CharsMap::new(&bytes(&entries, b"a\0\xc3\xa9\0")).unwrap();
        assert_eq!(map.longest("AB"), Some((1, "a")));
        assert_eq!(map.longest("AAA"), Some((2, "é")));
        assert_eq!(map.longest("BA"), None);
        assert_eq!(map.longest(""), None);
        assert_eq!(CharsMap::new(&[]).unwrap().longest("A"), None);
        assert_eq!(offset(node(1) | 1 << 9), 0x100, "an offset of many pages");
    }

    #[test]
    fn what_is_no_map_is_refused_and_a_wrong_one_does_not_panic() {
        for bytes in
            [&[1, 0, 0][..], &[8, 0, 0, 0, 1, 2, 3, 4], &[3, 0, 0, 0, 1, 2, 3, 0], &[0, 0, 0, 0, 0xff]]
        {
            assert!(CharsMap::new(bytes).is_err(), "{bytes:?}");
        }
        let entries = [(0, 0x100 << 10), (0x141, node(1)), (0x140, IS_LEAF | 99)];
        assert_eq!(CharsMap::new(&bytes(&entries, b"a\0")).unwrap().longest("A"), None);
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..200 {
            let entries: Vec<(usize, u32)> = (0..0x200).map(|at| (at, rng.u32(..))).collect();
            let map = CharsMap::new(&bytes(&entries, b"a\0b")).unwrap();
            for text in ["A", "AB", "é", "\u{10ffff}\0"] {
                map.longest(text);
            }
        }
    }
}
