//! Finds the tokens that a text begins with: the texts sorted, and narrowed byte by byte.

/// Texts in order, each with its id.
pub(super) struct PrefixIndex {
    bytes: Vec<u8>,
    /// End of each text in `bytes`, in order of the texts.
    ends: Vec<u32>,
    ids: Vec<u32>,
    /// Where the texts with each first byte begin; the last entry is the number of texts.
    first: Vec<usize>,
}

impl PrefixIndex {
    /// The index of `texts`, which are together under 4 GiB; empty ones are left out. Of equal texts the last counts.
    pub(super) fn new<'a>(texts: impl Iterator<Item = (u32, &'a [u8])>) -> Self {
        let mut sorted: Vec<(&[u8], u32)> =
            texts.filter(|(_, text)| !text.is_empty()).map(|(id, text)| (text, id)).collect();
        sorted.sort_unstable_by(|a, b| a.0.cmp(b.0).then(b.1.cmp(&a.1)));
        sorted.dedup_by_key(|(text, _)| *text);
        let first = (0..=256).map(|byte| sorted.partition_point(|(text, _)| usize::from(text[0]) < byte));
        let first = first.collect();
        let mut bytes = Vec::with_capacity(sorted.iter().map(|(text, _)| text.len()).sum());
        let mut ends = Vec::with_capacity(sorted.len());
        for (text, _) in &sorted {
            bytes.extend_from_slice(text);
            ends.push(bytes.len() as u32);
        }
        Self { bytes, ends, ids: sorted.into_iter().map(|(_, id)| id).collect(), first }
    }

    /// Length and id of each token that `text` begins with, shortest first.
    pub(super) fn prefixes(&self, text: &[u8]) -> impl Iterator<Item = (usize, u32)> {
        let mut range = match text.first() {
            Some(&byte) => self.first[usize::from(byte)]..self.first[usize::from(byte) + 1],
            None => 0..0,
        };
        let mut depth = 0;
        std::iter::from_fn(move || {
            loop {
                // All texts in the range share their first `depth` bytes, and the next one with `text`.
                if range.is_empty() {
                    return None;
                }
                depth += 1;
                let at = range.start;
                let found = (self.text(at).len() == depth).then(|| (depth, self.ids[at]));
                range.start += usize::from(found.is_some());
                range = match text.get(depth) {
                    Some(&byte) => self.narrow(range.clone(), depth, byte),
                    None => 0..0,
                };
                if found.is_some() {
                    return found;
                }
            }
        })
    }

    /// Length and id of the longest token that `text` begins with.
    pub(super) fn longest(&self, text: &[u8]) -> Option<(usize, u32)> {
        self.prefixes(text).last()
    }

    /// The part of `range`, whose texts are longer than `depth`, that has `byte` there.
    fn narrow(&self, range: std::ops::Range<usize>, depth: usize, byte: u8) -> std::ops::Range<usize> {
        let point = |below: &dyn Fn(u8) -> bool| {
            let (mut low, mut high) = (range.start, range.end);
            while low < high {
                let middle = low.midpoint(high);
                if below(self.text(middle)[depth]) { low = middle + 1 } else { high = middle }
            }
            low
        };
        point(&|other| other < byte)..point(&|other| other <= byte)
    }

    fn text(&self, at: usize) -> &[u8] {
        let start = at.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[start as usize..self.ends[at] as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_a_scan_of_all_texts_finds() {
        let texts: [&[u8]; 11] =
            [b"a", b"ab", b"", b"abc", b"b", b"\xff", b"abd", b"ab", b"\xff\xff", b"ca", b"\0"];
        let index = PrefixIndex::new((0..).zip(texts));
        let bytes = [0, b'a', b'b', b'c', b'd', 0xff];
        for n in 0..6usize.pow(4) {
            let text: Vec<u8> = (0..4).map(|i| bytes[n / 6usize.pow(i) % 6]).collect();
            for text in [&text[..], &text[..2]] {
                let mut scan: Vec<(usize, u32)> = (0..)
                    .zip(texts)
                    .filter(|(id, t)| !t.is_empty() && text.starts_with(t) && *id != 1)
                    .map(|(id, t)| (t.len(), id))
                    .collect();
                scan.sort_unstable();
                assert_eq!(index.prefixes(text).collect::<Vec<_>>(), scan, "{text:?}");
                assert_eq!(index.longest(text), scan.last().copied());
            }
        }
        assert_eq!(PrefixIndex::new([].into_iter()).longest(b"a"), None);
    }
}
