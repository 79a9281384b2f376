//! Cuts text into the words inside which byte-level BPE merges, as the pre-tokenizer that the file names does.
//!
//! The published patterns end in `\s+(?!\S)|\s+`: white space before a word leaves its last character to that
//! word. That look-ahead is the only part that a linear-time automaton cannot do, and a backtracking engine
//! gives up on a megabyte of spaces; so the pattern here ends in [`SPACES`], and the code gives the last
//! character back.

use regex_automata::meta::Regex;
use regex_automata::{Input, PatternID};

use crate::{Error, ErrorKind, Result};

/// Stands for `\s+(?!\S)|\s+` where it is the last pattern of a step.
const SPACES: &str = r"\s+";

/// Step of GPT-2's pattern.
const GPT2: &[&str] = &[r"'(?:[stmd]|re|ve|ll)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+", SPACES];

/// One pre-tokenizer.
struct Family {
    /// Values of `tokenizer.ggml.pre`.
    names: &'static [&'static str],
    /// Each step cuts the pieces of the one before, at its matches; the first pattern that matches wins.
    steps: &'static [&'static [&'static str]],
    /// A word that is a token is taken whole, whatever the merges would make of it.
    ignore_merges: bool,
    /// Whether a prompt begins with BOS when the file does not say.
    add_bos: bool,
}

const FAMILIES: &[Family] = &[
    Family { names: &["gpt-2"], steps: &[GPT2], ignore_merges: false, add_bos: false },
    Family { names: &["smollm"], steps: &[&[r"\p{N}"], GPT2], ignore_merges: false, add_bos: false },
    Family {
        names: &["llama-bpe", "llama3", "llama-v3"],
        steps: &[&[
            r"'(?:[stmdSTMD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
            r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
            SPACES,
        ]],
        ignore_merges: true,
        add_bos: true,
    },
    Family {
        names: &["qwen2"],
        steps: &[&[
            r"'(?:[stmdSTMD]|[rR][eE]|[vV][eE]|[lL][lL])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
            r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+",
            SPACES,
        ]],
        ignore_merges: false,
        add_bos: false,
    },
    // What files from before `tokenizer.ggml.pre` existed are read with.
    Family {
        names: &["default"],
        steps: &[&[r"[\p{P}\$\+<=>\^~\|]+"], GPT2, &[r"\p{N}+"], &["[0-9][0-9][0-9]"]],
        ignore_merges: false,
        add_bos: false,
    },
];

/// A pre-tokenizer, ready to cut.
pub(super) struct PreTokenizer {
    steps: Vec<Step>,
    pub(super) ignore_merges: bool,
    pub(super) add_bos: bool,
}

struct Step {
    regex: Regex,
    spaces: Option<PatternID>,
}

impl PreTokenizer {
    /// The pre-tokenizer called `name`; `None` is `default`. Fails with `Unsupported` for an unknown name.
    pub(super) fn new(name: Option<&str>) -> Result<Self> {
        let name = name.unwrap_or("default");
        let family = FAMILIES.iter().find(|family| family.names.contains(&name)).ok_or_else(|| {
            let known: Vec<&str> = FAMILIES.iter().flat_map(|family| family.names).copied().collect();
            Error::new(ErrorKind::Unsupported, format!("the pre-tokenizer \"{name}\" is not known"))
                .next(format!("known are {}", known.join(", ")))
        })?;
        let steps = family.steps.iter().map(|patterns| Step::new(patterns)).collect::<Result<_>>()?;
        Ok(Self { steps, ignore_merges: family.ignore_merges, add_bos: family.add_bos })
    }

    /// Gives `word` the words of `text`, in order; together they are `text`.
    pub(super) fn split<'t>(&self, text: &'t str, word: &mut dyn FnMut(&'t str)) {
        split(&self.steps, text, word);
    }
}

impl Step {
    fn new(patterns: &[&str]) -> Result<Self> {
        let regex = Regex::new_many(patterns)
            .map_err(|e| Error::new(ErrorKind::Unsupported, format!("pre-tokenizer pattern: {e}")))?;
        let spaces =
            patterns.iter().position(|&pattern| pattern == SPACES).and_then(|at| PatternID::new(at).ok());
        Ok(Self { regex, spaces })
    }

    /// The next match in `text[at..]`.
    fn find(&self, text: &str, at: usize) -> Option<std::ops::Range<usize>> {
        let found = self.regex.search(&Input::new(text).range(at..))?;
        let (start, mut end) = (found.start(), found.end());
        if Some(found.pattern()) == self.spaces && end < text.len() {
            let last = text[start..end].char_indices().next_back().map_or(0, |(at, _)| at);
            if last > 0 {
                end = start + last;
            }
        }
        Some(start..end)
    }
}

fn split<'t>(steps: &[Step], text: &'t str, word: &mut dyn FnMut(&'t str)) {
    if text.is_empty() {
        return;
    }
    let Some((step, rest)) = steps.split_first() else { return word(text) };
    let mut at = 0;
    while let Some(found) = step.find(text, at) {
        split(rest, &text[at..found.start], word);
        split(rest, &text[found.clone()], word);
        at = found.end;
    }
    split(rest, &text[at..], word);
}

#[cfg(test)]
mod tests {
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
    fn an_unknown_name_is_refused_with_the_known_ones() {
        let error = PreTokenizer::new(Some("nope")).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        let text = error.to_string();
        assert!(text.contains("nope") && text.contains("llama-bpe") && text.contains("smollm"), "{text}");
    }

    #[test]
    fn a_megabyte_of_spaces_is_cut_in_linear_time() {
        let mut text = " ".repeat(1 << 20);
        text.push('a');
        for family in FAMILIES {
            let lengths: Vec<usize> = words(family.names[0], &text).iter().map(String::len).collect();
            assert_eq!(lengths, [(1 << 20) - 1, 2], "{:?}", family.names);
        }
    }
}
