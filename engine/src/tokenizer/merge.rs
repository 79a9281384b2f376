//! The merge loop that both families share: neighbours are joined, best pair first, until none can be.
//!
//! A heap holds every pair that could be joined; joining one makes at most two new pairs, so that a word of
//! n symbols takes O(n log n), also when it is a megabyte of one letter. A pair whose symbols have changed
//! since it was found is recognised when it comes up, and skipped.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

const NONE: usize = usize::MAX;

/// Part of a word: bytes `start..end` of it, and the id of that text (or a mark of the caller's for none).
#[derive(Debug, Clone, Copy)]
pub(super) struct Symbol {
    pub start: usize,
    pub end: usize,
    pub id: u32,
    next: usize,
    prev: usize,
}

/// What two neighbours become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Merge {
    /// Lower is joined first; equal ones from the left.
    pub rank: u32,
    /// Id of the joined text.
    pub id: u32,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Candidate {
    rank: u32,
    left: usize,
    /// Where the joined symbol would end: another end means that the right symbol has changed.
    end: usize,
    id: u32,
}

/// Buffers of the loop, kept from word to word.
#[derive(Default)]
pub(super) struct Merger {
    symbols: Vec<Symbol>,
    heap: BinaryHeap<Reverse<Candidate>>,
}

impl Merger {
    /// Starts a new word.
    pub(super) fn clear(&mut self) {
        self.symbols.clear();
        self.heap.clear();
    }

    /// Appends a symbol of `len` bytes to the word.
    pub(super) fn push(&mut self, len: usize, id: u32) {
        let index = self.symbols.len();
        let prev = index.checked_sub(1).unwrap_or(NONE);
        let start = self.symbols.last().map_or(0, |last| last.end);
        if let Some(last) = self.symbols.last_mut() {
            last.next = index;
        }
        self.symbols.push(Symbol { start, end: start + len, id, next: NONE, prev });
    }

    /// Joins neighbours for as long as `pair` knows what they become; returns the symbols that are left.
    pub(super) fn run(
        &mut self,
        pair: impl Fn(&Symbol, &Symbol) -> Option<Merge>,
    ) -> impl Iterator<Item = Symbol> + '_ {
        for right in 1..self.symbols.len() {
            self.consider(right - 1, right, &pair);
        }
        while let Some(Reverse(Candidate { left, end, id, .. })) = self.heap.pop() {
            let Symbol { next: right, prev, end: left_end, .. } = self.symbols[left];
            // A symbol that was joined to the one before it is empty: its end is its start.
            if left_end == self.symbols[left].start || right == NONE || self.symbols[right].end != end {
                continue;
            }
            let after = self.symbols[right].next;
            self.symbols[right].end = self.symbols[right].start;
            self.symbols[left] = Symbol { end, id, next: after, ..self.symbols[left] };
            if after != NONE {
                self.symbols[after].prev = left;
                self.consider(left, after, &pair);
            }
            if prev != NONE {
                self.consider(prev, left, &pair);
            }
        }
        let first = (!self.symbols.is_empty()).then_some(0);
        std::iter::successors(first, |&at| Some(self.symbols[at].next).filter(|&next| next != NONE))
            .map(|at| self.symbols[at])
    }

    fn consider(&mut self, left: usize, right: usize, pair: impl Fn(&Symbol, &Symbol) -> Option<Merge>) {
        let (a, b) = (&self.symbols[left], &self.symbols[right]);
        if let Some(Merge { rank, id }) = pair(a, b) {
            self.heap.push(Reverse(Candidate { rank, left, end: b.end, id }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition: look at all neighbours, join the best, start again.
    fn naive(word: &[u8], rank: impl Fn(&[u8]) -> Option<u32>) -> Vec<Vec<u8>> {
        let mut parts: Vec<Vec<u8>> = word.iter().map(|&b| vec![b]).collect();
        while let Some((_, at)) = (1..parts.len())
            .filter_map(|at| Some((rank(&[&parts[at - 1][..], &parts[at][..]].concat())?, at)))
            .min()
        {
            let right = parts.remove(at);
            parts[at - 1].extend(right);
        }
        parts
    }

    #[test]
    fn equals_the_definition_on_every_short_word() {
        let table: [&[u8]; 7] = [b"ab", b"aa", b"ba", b"aab", b"abab", b"bb", b"aaaa"];
        let rank = |text: &[u8]| table.iter().position(|&t| t == text).map(|at| at as u32);
        let mut merger = Merger::default();
        for len in 0..=12 {
            for bits in 0..1u32 << len {
                let word: Vec<u8> = (0..len).map(|i| if bits >> i & 1 == 0 { b'a' } else { b'b' }).collect();
                merger.clear();
                word.iter().for_each(|_| merger.push(1, 0));
                let got: Vec<Vec<u8>> = merger
                    .run(|a, b| rank(&word[a.start..b.end]).map(|rank| Merge { rank, id: 0 }))
                    .map(|s| word[s.start..s.end].to_vec())
                    .collect();
                assert_eq!(got, naive(&word, rank), "{:?}", String::from_utf8_lossy(&word));
            }
        }
    }
}
