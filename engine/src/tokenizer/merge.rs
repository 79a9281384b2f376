//! The merge loop that both families share: neighbours are joined, best pair first, until none can be.
//!
//! A heap holds every pair that could be joined; joining one makes at most two new pairs, so that a word of
//! n characters takes O(n log n), also when it is a megabyte of one letter. A pair whose parts have changed
//! since it was found is recognised when it comes up, and skipped.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

const NONE: usize = usize::MAX;

/// Part of a word, `start..end` in bytes, and its neighbours. A part that was joined to the one before it is
/// left empty.
#[derive(Clone, Copy)]
struct Part {
    start: usize,
    end: usize,
    prev: usize,
    next: usize,
}

/// A pair that could be joined; the order is that of joining.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    left: usize,
    /// Where the joined part would end: if it would end elsewhere now, the right one has changed.
    end: usize,
}

/// Buffers of the loop, kept from word to word.
#[derive(Default)]
pub(super) struct Merger {
    parts: Vec<Part>,
    heap: BinaryHeap<Reverse<Candidate>>,
}

impl Merger {
    /// The parts of `word` after merging: `rank(pair, middle)` is when the neighbours `pair[..middle]` and
    /// `pair[middle..]` are joined (lower is earlier, equal ones from the left), or `None` for never.
    pub(super) fn merge<'w>(
        &mut self,
        word: &'w str,
        mut rank: impl FnMut(&'w str, usize) -> Option<u32>,
    ) -> impl Iterator<Item = &'w str> {
        self.parts.clear();
        self.parts.extend(word.char_indices().enumerate().map(|(index, (start, c))| {
            let end = start + c.len_utf8();
            let next = if end == word.len() { NONE } else { index + 1 };
            Part { start, end, prev: index.checked_sub(1).unwrap_or(NONE), next }
        }));
        for right in 1..self.parts.len() {
            self.consider(right - 1, right, word, &mut rank);
        }
        while let Some(Reverse(Candidate { left, end, .. })) = self.heap.pop() {
            let Part { start, end: left_end, prev, next: right } = self.parts[left];
            if start == left_end || right == NONE || self.parts[right].end != end {
                continue;
            }
            let next = self.parts[right].next;
            self.parts[right].end = self.parts[right].start;
            self.parts[left] = Part { start, end, prev, next };
            if prev != NONE {
                self.consider(prev, left, word, &mut rank);
            }
            if next != NONE {
                self.parts[next].prev = left;
                self.consider(left, next, word, &mut rank);
            }
        }
        self.parts.iter().filter(|part| part.start < part.end).map(|part| &word[part.start..part.end])
    }

    fn consider<'w>(
        &mut self,
        left: usize,
        right: usize,
        word: &'w str,
        rank: &mut impl FnMut(&'w str, usize) -> Option<u32>,
    ) {
        let (Part { start, end: middle, .. }, Part { end, .. }) = (self.parts[left], self.parts[right]);
        if let Some(rank) = rank(&word[start..end], middle - start) {
            self.heap.push(Reverse(Candidate { rank, left, end }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition: look at all neighbours, join the best, start again.
    fn naive(word: &str, rank: impl Fn(&str) -> Option<u32>) -> Vec<String> {
        let mut parts: Vec<String> = word.chars().map(String::from).collect();
        while let Some((_, at)) = (1..parts.len())
            .filter_map(|at| Some((rank(&format!("{}{}", parts[at - 1], parts[at]))?, at)))
            .min()
        {
            let right = parts.remove(at);
            parts[at - 1].push_str(&right);
        }
        parts
    }

    #[test]
    fn equals_the_definition_on_every_short_word() {
        let table = ["éb", "éé", "bé", "ééb", "ébéb", "bb", "éééé"];
        let rank = |text: &str| table.iter().position(|&t| t == text).map(|at| at as u32);
        let mut merger = Merger::default();
        for len in 0..=12 {
            for bits in 0..1u32 << len {
                let word: String = (0..len).map(|i| if bits >> i & 1 == 0 { 'é' } else { 'b' }).collect();
                let got: Vec<&str> = merger.merge(&word, |pair, _| rank(pair)).collect();
                assert_eq!(got, naive(&word, rank), "{word}");
            }
        }
    }
}
