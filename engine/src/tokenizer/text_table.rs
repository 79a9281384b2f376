//! Texts and the way back from a text to its number, for tokens and for merges: one buffer and one hash table
//! of 4-byte numbers, because a map that owns 280 000 small strings takes longer to build than a model to map.

use std::hash::BuildHasher;

use hashbrown::hash_table::Entry;
use hashbrown::{DefaultHashBuilder, HashTable};

use super::malformed;
use crate::Result;

/// Texts numbered from 0 in the order they came. Equal texts are found as the first of them.
pub(super) struct TextTable {
    bytes: Vec<u8>,
    /// End of each text in `bytes`; it starts where the one before ends.
    ends: Vec<u32>,
    numbers: HashTable<u32>,
    hasher: DefaultHashBuilder,
    longest: usize,
}

impl TextTable {
    /// The table of `texts`. Fails with `Malformed` where they are together over 4 GiB.
    pub(super) fn new(texts: &[&[u8]]) -> Result<Self> {
        let n_bytes = texts.iter().map(|text| text.len()).sum();
        if u32::try_from(n_bytes).is_err() || u32::try_from(texts.len()).is_err() {
            return Err(malformed(format!("the vocabulary has {} texts of {n_bytes} bytes", texts.len())));
        }
        let mut bytes = Vec::with_capacity(n_bytes);
        let mut ends = Vec::with_capacity(texts.len());
        let mut numbers = HashTable::with_capacity(texts.len());
        let hasher = DefaultHashBuilder::default();
        for (number, text) in (0..).zip(texts) {
            bytes.extend_from_slice(text);
            ends.push(bytes.len() as u32);
            let equal = |&other: &u32| slice(&bytes, &ends, other) == Some(*text);
            let hash = |&other: &u32| hasher.hash_one(slice(&bytes, &ends, other).unwrap_or_default());
            if let Entry::Vacant(entry) = numbers.entry(hasher.hash_one(*text), equal, hash) {
                entry.insert(number);
            }
        }
        let longest = texts.iter().map(|text| text.len()).max().unwrap_or(0);
        Ok(Self { bytes, ends, numbers, hasher, longest })
    }

    /// The text numbered `number`, if there is one.
    pub(super) fn text(&self, number: u32) -> Option<&[u8]> {
        slice(&self.bytes, &self.ends, number)
    }

    /// The number of `text`.
    pub(super) fn get(&self, text: &[u8]) -> Option<u32> {
        if text.len() > self.longest {
            return None;
        }
        self.numbers.find(self.hasher.hash_one(text), |&number| self.text(number) == Some(text)).copied()
    }
}

fn slice<'a>(bytes: &'a [u8], ends: &[u32], number: u32) -> Option<&'a [u8]> {
    let number = number as usize;
    let end = *ends.get(number)?;
    let start = number.checked_sub(1).map_or(0, |before| ends[before]);
    Some(&bytes[start as usize..end as usize])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_text_by_its_first_number() {
        let table = TextTable::new(&[b"a", b"", b"bc", b"a"]).unwrap();
        assert_eq!(table.get(b"a"), Some(0), "the first of equal texts");
        assert_eq!(table.get(b""), Some(1));
        assert_eq!(table.get(b"bc"), Some(2));
        assert_eq!(table.text(3), Some(&b"a"[..]), "a repeated text keeps its number");
        assert_eq!(table.text(4), None);
        assert_eq!(table.get(b"b"), None);
        assert_eq!(table.get(b"bcd"), None);
    }
}
