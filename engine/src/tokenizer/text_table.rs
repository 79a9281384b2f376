//! Token texts and the way back from a text to its id: one buffer and one hash table of 4-byte ids, because
//! a map that owns 128 000 small strings takes longer to build than a model to map.

use std::hash::BuildHasher;

use hashbrown::{DefaultHashBuilder, HashTable};

/// Texts numbered from 0 in the order they came. Equal texts are found as the first of them.
#[derive(Default)]
pub(super) struct TextTable {
    bytes: Vec<u8>,
    /// End of each text in `bytes`; it starts where the one before ends.
    ends: Vec<usize>,
    ids: HashTable<u32>,
    hasher: DefaultHashBuilder,
    longest: usize,
}

impl TextTable {
    /// The table of `texts`, numbered by position.
    pub(super) fn new(texts: &[&[u8]]) -> Self {
        let mut table = Self {
            bytes: Vec::with_capacity(texts.iter().map(|text| text.len()).sum()),
            ends: Vec::with_capacity(texts.len()),
            ids: HashTable::with_capacity(texts.len()),
            ..Self::default()
        };
        for text in texts {
            let id = table.push(text);
            if table.get(text).is_none() {
                table.index(id);
            }
        }
        table
    }

    /// The text of `id`, if there is such an id.
    pub(super) fn text(&self, id: u32) -> Option<&[u8]> {
        text_at(&self.bytes, &self.ends, id)
    }

    /// The id of `text`.
    pub(super) fn get(&self, text: &[u8]) -> Option<u32> {
        if text.len() > self.longest {
            return None;
        }
        self.ids.find(self.hasher.hash_one(text), |&id| self.text(id) == Some(text)).copied()
    }

    /// The id of `text`, which is given the next number if it is not in the table yet.
    pub(super) fn intern(&mut self, text: &[u8]) -> u32 {
        self.get(text).unwrap_or_else(|| {
            let id = self.push(text);
            self.index(id);
            id
        })
    }

    /// How many texts there are.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    fn push(&mut self, text: &[u8]) -> u32 {
        let id = self.ends.len() as u32;
        self.bytes.extend_from_slice(text);
        self.ends.push(self.bytes.len());
        self.longest = self.longest.max(text.len());
        id
    }

    fn index(&mut self, id: u32) {
        let (bytes, ends, hasher) = (&self.bytes, &self.ends, &self.hasher);
        let hash = |id: &u32| hasher.hash_one(text_at(bytes, ends, *id).unwrap_or_default());
        self.ids.insert_unique(hash(&id), id, hash);
    }
}

fn text_at<'a>(bytes: &'a [u8], ends: &[usize], id: u32) -> Option<&'a [u8]> {
    let id = id as usize;
    let end = *ends.get(id)?;
    let start = if id == 0 { 0 } else { ends[id - 1] };
    Some(&bytes[start..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_text_and_numbers_new_ones() {
        let mut table = TextTable::new(&[b"a", b"", b"bc", b"a"]);
        assert_eq!(table.get(b"a"), Some(0), "the first of equal texts");
        assert_eq!(table.get(b""), Some(1));
        assert_eq!(table.get(b"bc"), Some(2));
        assert_eq!(table.text(3), Some(&b"a"[..]), "a repeated text keeps its number");
        assert_eq!(table.get(b"b"), None);
        assert_eq!(table.intern(b"bc"), 2);
        assert_eq!(table.intern(b"longer than any"), 4);
        assert_eq!(table.get(b"longer than any"), Some(4));
        assert_eq!(table.text(5), None);
        assert_eq!(table.len(), 5);
    }
}
