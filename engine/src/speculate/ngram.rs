//! Drafts from the text itself: what followed the last time that the same few tokens stood there (prompt lookup
//! decoding). Good where texts are quoted, changed a little or listed; free everywhere.

use hashbrown::HashMap;

use super::{Draft, Drafter};
use crate::error::Result;

/// Fewest and most tokens that are looked up.
const SHORTEST: usize = 2;
const LONGEST: usize = 4;

/// Tokens before both places that are compared to tell how alike the places are.
const COMPARED: usize = 16;

/// Fills the places of a key before a short n-gram; no vocabulary has so many tokens.
const NO_TOKEN: u32 = u32::MAX;

/// Looks up the last tokens of a text in the text before them, the longest n-gram first. A token costs three entries of
/// a hash table when it is added, and a draft up to three look-ups.
#[derive(Debug, Default)]
pub struct NGram {
    /// Of each n-gram that something follows, where that begins, the last time.
    next: HashMap<[u32; LONGEST], usize>,
    /// Tokens of the text whose n-grams are in the table.
    indexed: usize,
}

impl NGram {
    /// An index of nothing.
    pub fn new() -> NGram {
        NGram::default()
    }

    /// Where the text went on the last time that it stood as it does at its end, and how many tokens before both places
    /// are the same, of which at most `COMPARED` are counted.
    fn find(&self, text: &[u32]) -> Option<(usize, usize)> {
        let suffixes = (SHORTEST..=LONGEST.min(text.len())).rev().map(|n| &text[text.len() - n..]);
        let next = *suffixes.filter_map(|suffix| self.next.get(&key(suffix))).next()?;
        let before = text[..next].iter().rev().zip(text.iter().rev());
        Some((next, before.take(COMPARED).take_while(|(a, b)| a == b).count()))
    }

    /// Adds the n-grams that end before each new token. Those at the end of the text come with what follows them, so that
    /// it does not find itself.
    fn index(&mut self, text: &[u32]) {
        for next in self.indexed..text.len() {
            for n in SHORTEST..=LONGEST.min(next) {
                self.next.insert(key(&text[next - n..next]), next);
            }
        }
        self.indexed = text.len();
    }
}

impl Drafter for NGram {
    fn begin(&mut self, text: &[u32]) -> Result<()> {
        self.next.clear();
        self.indexed = 0;
        self.index(text);
        Ok(())
    }

    fn draft(&mut self, text: &[u32], max: usize, drafts: &mut Vec<Draft>) -> Result<()> {
        self.index(text);
        let Some((next, alike)) = self.find(text) else { return Ok(()) };
        for i in 0..max {
            // a repetition that has reached the end of the text goes on in the draft
            let token = text.get(next + i).copied().unwrap_or_else(|| drafts[next + i - text.len()].token);
            drafts.push(Draft { token, class: (alike + i).min(COMPARED).ilog2() as usize });
        }
        Ok(())
    }
}

fn key(gram: &[u32]) -> [u32; LONGEST] {
    let mut key = [NO_TOKEN; LONGEST];
    key[LONGEST - gram.len()..].copy_from_slice(gram);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drafted(index: &mut NGram, text: &[u32], max: usize) -> Vec<u32> {
        let mut drafts = Vec::new();
        index.draft(text, max, &mut drafts).expect("cannot fail");
        drafts.iter().map(|draft| draft.token).collect()
    }

    /// The same by search: the longest suffix that stands earlier in the text, where it stands last.
    fn naive(text: &[u32], max: usize) -> Vec<u32> {
        let found = (SHORTEST..=LONGEST.min(text.len())).rev().find_map(|n| {
            let (body, suffix) = (&text[..text.len() - 1], &text[text.len() - n..]);
            body.windows(n).rposition(|window| window == suffix).map(|at| at + n)
        });
        let Some(next) = found else { return Vec::new() };
        let mut whole = text.to_vec();
        (0..max).for_each(|i| whole.push(whole[next + i]));
        whole[text.len()..].to_vec()
    }

    #[test]
    fn finds_what_a_search_finds() {
        let mut random = fastrand::Rng::with_seed(5);
        let mut found = 0;
        for n_vocab in [1, 2, 3, 8, 30, 400] {
            let mut index = NGram::new();
            for _ in 0..20 {
                // grows by several tokens at a time, as accepted drafts make it; begins anew now and then
                let mut text: Vec<u32> = (0..random.usize(..30)).map(|_| random.u32(..n_vocab)).collect();
                index.begin(&text).expect("cannot fail");
                for _ in 0..60 {
                    text.extend((0..random.usize(..4)).map(|_| random.u32(..n_vocab)));
                    let max = random.usize(..8);
                    let expected = naive(&text, max);
                    found += usize::from(!expected.is_empty());
                    assert_eq!(drafted(&mut index, &text, max), expected, "{text:?}");
                }
            }
        }
        assert!(found > 1000, "{found} found");
    }

    #[test]
    fn the_longest_match_counts_and_of_equals_the_last() {
        let mut index = NGram::new();
        assert_eq!(drafted(&mut index, &[1, 2, 3, 9, 2, 3, 8, 1, 2, 3], 2), [9, 2]);
        assert_eq!(drafted(&mut NGram::new(), &[2, 3, 9, 2, 3, 8, 2, 3], 1), [8]);
        assert_eq!(drafted(&mut NGram::new(), &[3, 9, 3], 1), [0; 0], "one token is no match");
        assert_eq!(drafted(&mut NGram::new(), &[], 1), [0; 0]);
    }

    #[test]
    fn a_loop_goes_on_in_the_draft() {
        assert_eq!(drafted(&mut NGram::new(), &[7, 7, 7], 4), [7; 4]);
        assert_eq!(drafted(&mut NGram::new(), &[1, 2, 3, 1, 2, 3], 5), [1, 2, 3, 1, 2]);
    }

    #[test]
    fn the_class_is_the_length_of_the_match() {
        let text: Vec<u32> = (0..20).chain([99]).chain(5..20).collect();
        let mut drafts = Vec::new();
        NGram::new().draft(&text, 7, &mut drafts).expect("cannot fail");
        assert_eq!(drafts[0].token, 99, "fifteen tokens are the same before both");
        assert_eq!(drafts.iter().map(|draft| draft.class).collect::<Vec<_>>(), [3, 4, 4, 4, 4, 4, 4]);
        let mut drafts = Vec::new();
        NGram::new().draft(&[1, 2, 3, 0, 2, 3], 6, &mut drafts).expect("cannot fail");
        assert_eq!(drafts.iter().map(|draft| draft.class).collect::<Vec<_>>(), [1, 1, 2, 2, 2, 2]);
    }
}
