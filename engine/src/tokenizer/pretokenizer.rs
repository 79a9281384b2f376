//! Cuts text into the words inside which byte-level BPE merges, as the pre-tokenizer that the file names does.
//!
//! The published patterns end in `\s+(?!\S)|\s+`: white space before a word leaves its last character to that
//! word. That look-ahead is the only part that a linear-time automaton cannot do, and a backtracking engine
//! gives up on a megabyte of spaces; so the pattern here ends in [`SPACES`], and the code gives the last
//! character back. Where other engines deviate from the published patterns the words are llama.cpp's.

use std::ops::Range;

use regex_automata::meta::Regex;
use regex_automata::{Input, PatternID};

use super::families::{Cut, FAMILIES, Family};
use super::unicode::regex;
use crate::{Error, ErrorKind, Result};

/// Stands for `\s+(?!\S)|\s+` as the last pattern of a cut.
const SPACES: &str = r"\s+";

/// The longest of the pieces that halved spaces are cut into, in characters.
const LONGEST_SPACES: usize = 512;

/// A pre-tokenizer, ready to cut.
pub(super) struct PreTokenizer {
    steps: Vec<Step>,
    pub(super) family: &'static Family,
}

struct Step {
    regex: Regex,
    at: CutAt,
}

/// Where a match is cut.
#[derive(Clone, Copy)]
enum CutAt {
    Ends,
    EndsAndSpaces(PatternID),
    EndsAndHalvedSpaces(PatternID),
    AfterThrees,
    BeforeThrees,
}

impl PreTokenizer {
    /// The pre-tokenizer called `name`; `None` is `default`. Fails with `Unsupported` for an unknown name.
    pub(super) fn new(name: Option<&str>) -> Result<Self> {
        let name = name.unwrap_or("default");
        let family = FAMILIES.iter().find(|family| family.names.contains(&name)).ok_or_else(|| {
            let mut known: Vec<&str> = FAMILIES.iter().flat_map(|family| family.names).copied().collect();
            known.sort_unstable();
            Error::new(ErrorKind::Unsupported, format!("the pre-tokenizer \"{name}\" is not known"))
                .next(format!("known are {}", known.join(", ")))
        })?;
        let steps = family.cuts.iter().map(Step::new).collect::<Result<_>>()?;
        Ok(Self { steps, family })
    }

    /// Gives `word` the words of `text`, in order; together they are `text`.
    pub(super) fn split<'t>(&self, text: &'t str, word: &mut dyn FnMut(&'t str)) {
        split(&self.steps, text, word);
    }
}

impl Step {
    fn new(cut: &Cut) -> Result<Self> {
        let with_spaces = |patterns: &[&'static str]| -> Result<(Regex, PatternID)> {
            Ok((regex(&[patterns, &[SPACES]].concat())?, PatternID::must(patterns.len())))
        };
        let (regex, at) = match *cut {
            Cut::Around(patterns) => (regex(patterns)?, CutAt::Ends),
            Cut::AroundAndSpaces(patterns) => {
                let (regex, spaces) = with_spaces(patterns)?;
                (regex, CutAt::EndsAndSpaces(spaces))
            }
            Cut::AroundAndHalvedSpaces(patterns) => {
                let (regex, spaces) = with_spaces(patterns)?;
                (regex, CutAt::EndsAndHalvedSpaces(spaces))
            }
            Cut::AfterThrees(pattern) => (regex(&[pattern])?, CutAt::AfterThrees),
            Cut::BeforeThrees(pattern) => (regex(&[pattern])?, CutAt::BeforeThrees),
        };
        Ok(Self { regex, at })
    }

    /// Puts the places where the next match in `text[from..]` is cut into `cuts`; returns where to look on.
    fn find(&self, text: &str, from: usize, cuts: &mut Vec<usize>) -> Option<usize> {
        let found = self.regex.search(&Input::new(text).range(from..))?;
        let Range { start, mut end } = found.range();
        cuts.clear();
        match self.at {
            CutAt::EndsAndSpaces(spaces) if spaces == found.pattern() => {
                end = give_back(text, start..end);
                cuts.extend([start, end]);
            }
            CutAt::EndsAndHalvedSpaces(spaces) if spaces == found.pattern() => {
                end = give_back(text, start..end);
                cuts.push(start);
                halve(text, start..end, cuts);
            }
            CutAt::Ends | CutAt::EndsAndSpaces(_) | CutAt::EndsAndHalvedSpaces(_) => {
                cuts.extend([start, end])
            }
            CutAt::AfterThrees => cuts.extend(threes(text, start..end).filter(|&place| place > start)),
            CutAt::BeforeThrees => cuts.extend(threes(text, start..end).filter(|&place| place < end)),
        }
        Some(end)
    }
}

/// Where a match of white space ends that leaves its last character to what follows.
fn give_back(text: &str, range: Range<usize>) -> usize {
    match text[range.clone()].char_indices().next_back() {
        Some((last, _)) if last > 0 && range.end < text.len() => range.start + last,
        _ => range.end,
    }
}

/// Cuts white space after each piece of a power of two characters, longest first.
fn halve(text: &str, spaces: Range<usize>, cuts: &mut Vec<usize>) {
    let places = boundaries(text, spaces);
    let (mut at, n) = (0, places.len() - 1);
    let mut longest = LONGEST_SPACES;
    while at < n {
        while longest > n - at {
            longest /= 2;
        }
        at += longest;
        cuts.push(places[at]);
    }
}

/// The places in a match that are a multiple of three characters before its end.
fn threes(text: &str, range: Range<usize>) -> impl Iterator<Item = usize> + use<> {
    let places = boundaries(text, range);
    let first = (places.len() - 1) % 3;
    places.into_iter().skip(first).step_by(3)
}

/// The starts of the characters of `text[range]`, and its end.
fn boundaries(text: &str, range: Range<usize>) -> Vec<usize> {
    let starts = text[range.clone()].char_indices().map(|(at, _)| range.start + at);
    starts.chain([range.end]).collect()
}

fn split<'t>(steps: &[Step], text: &'t str, word: &mut dyn FnMut(&'t str)) {
    if text.is_empty() {
        return;
    }
    let Some((step, rest)) = steps.split_first() else { return word(text) };
    let (mut at, mut from) = (0, 0);
    let mut cuts = Vec::new();
    while let Some(next) = step.find(text, from, &mut cuts) {
        for &cut in &cuts {
            split(rest, &text[at..cut], word);
            at = cut;
        }
        from = next;
    }
    split(rest, &text[at..], word);
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn words(name: &str, text: &str) -> Vec<String> {
        let mut words = Vec::new();
        PreTokenizer::new(Some(name)).unwrap().split(text, &mut |word| words.push(word.to_owned()));
        words
    }

    #[test]
    fn gpt2_keeps_the_space_before_a_word() {
        assert_eq!(words("gpt-2", "I'll  go\n\n to  "), ["I", "'ll", " ", " go", "\n\n", " to", "  "]);
        assert_eq!(
            words("gpt-2", "a1234 !?é\u{a0}\u{a0}b"),
            ["a", "1234", " !?", "é", "\u{a0}", "\u{a0}", "b"]
        );
        assert_eq!(words("gpt-2", "X'LL"), ["X", "'", "LL"], "contractions are lower case");
    }

    #[test]
    fn smollm_cuts_digits_before_all_else() {
        assert_eq!(words("smollm", "a  12 b"), ["a", "  ", "1", "2", " b"], "spaces end at the digit's cut");
    }

    #[test]
    fn llama_bpe_groups_three_digits_and_keeps_line_ends() {
        assert_eq!(
            words("llama-bpe", "X'LL 12345!\n\n  \n y"),
            ["X", "'LL", " ", "123", "45", "!\n\n", "  \n", " y"]
        );
        assert_eq!(words("llama3", "(a\tb   c"), ["(a", "\tb", "  ", " c"]);
    }

    #[test]
    fn qwen2_cuts_every_digit() {
        assert_eq!(words("qwen2", "v12"), ["v", "1", "2"]);
    }

    #[test]
    fn cased_words_end_where_upper_case_begins_again() {
        assert_eq!(words("tekken", "fooBar BAZ aÉé1"), ["foo", "Bar", " BAZ", " aÉé", "1"]);
        assert_eq!(words("gpt-4o", "don't DON'T"), ["don't", " DON'T"]);
    }

    #[test]
    fn threes_are_counted_from_the_end() {
        assert_eq!(words("afmoe", "ab12345 1 123456"), ["ab", "12", "345", " ", "1", " ", "123", "456"]);
        assert_eq!(words("superbpe", "a1234 12 ½123"), ["a", "1", "234", " ", "12", " ", "½", "123"]);
    }

    #[test]
    fn jais_cuts_spaces_into_powers_of_two() {
        let text = format!("{}a  ", " ".repeat(512 + 6));
        let lengths: Vec<usize> = words("jais-2", &text).iter().map(String::len).collect();
        assert_eq!(lengths, [512, 4, 1, 2, 2]);
    }

    #[test]
    fn letters_are_those_of_unicode_15() {
        assert_eq!(words("gpt-2", "a\u{a7ca}"), ["a\u{a7ca}"]);
        assert_eq!(words("gpt-2", "a\u{a7cb}"), ["a", "\u{a7cb}"], "a letter since Unicode 16");
    }

    #[test]
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let error = PreTokenizer::new(Some("nope")).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let text = error.to_string();
        assert!(text.contains("nope") && text.contains("llama-bpe") && text.contains("smollm"), "{text}");
    }

    #[test]
    fn every_family_cuts_without_losing_a_byte_and_no_name_is_twice() {
        let text =
            "Hello's  WORLD\r\n\n12345678½٣ \u{3000}\u{3000}、一가ก\u{301}Ǆa\t\u{e000}🙂 _x! <sentinel:1>  ";
        let mut names: Vec<&str> = Vec::new();
        for family in FAMILIES {
            names.extend(family.names);
            for name in family.names {
                assert_eq!(words(name, text).concat(), text, "{name}");
            }
        }
        let n_names = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!((names.len(), n_names > 80), (n_names, true));
    }

    #[test]
    fn text_of_any_kind_is_cut_in_linear_time() {
        // Quadratic time would be minutes for one of these.
        const N: usize = 1 << 18;
        const LIMIT: Duration = Duration::from_secs(10);
        let runs = [
            " ",
            "\n",
            "\t\n",
            "a",
            "A",
            "é",
            "aA",
            "Aa",
            "1",
            "½1",
            "!",
            "a ",
            "'",
            "\u{301}",
            "一",
            "<",
            " \u{3000}",
        ];
        for family in FAMILIES {
            let pre = PreTokenizer::new(family.names.first().copied()).unwrap();
            for run in runs {
                for last in ["", "x\n"] {
                    let text = run.repeat(N / run.len()) + last;
                    let (start, mut n_bytes) = (Instant::now(), 0);
                    pre.split(&text, &mut |word| n_bytes += word.len());
                    assert_eq!(n_bytes, text.len());
                    assert!(start.elapsed() < LIMIT, "{:?} {run:?}", family.names);
                }
            }
        }
    }
}
