//! What is a letter, and which is its lower case: as in Unicode 15.1, which llama.cpp has, whatever version the
//! libraries know. The ids of a text must not change with a library.

use regex_automata::meta::Regex;

use crate::{Error, ErrorKind, Result};

/// The categories of characters that patterns name, and what they are replaced with.
const CATEGORIES: [(&str, &str); 5] = [
    (r"\p{L}", r"[\p{L}&&\p{age:15.1}]"),
    (r"\p{M}", r"[\p{M}&&\p{age:15.1}]"),
    (r"\p{N}", r"[\p{N}&&\p{age:15.1}]"),
    (r"\p{P}", r"[\p{P}&&\p{age:15.1}]"),
    (r"\p{S}", r"[\p{S}&&\p{age:15.1}]"),
];

/// An automaton of patterns of which the first that matches wins.
pub(super) fn regex(patterns: &[&str]) -> Result<Regex> {
    let dated = |pattern: &&str| {
        CATEGORIES.iter().fold((*pattern).to_owned(), |pattern, (any, dated)| pattern.replace(any, dated))
    };
    let patterns: Vec<String> = patterns.iter().map(dated).collect();
    Regex::new_many(&patterns)
        .map_err(|e| Error::new(ErrorKind::Unsupported, format!("pre-tokenizer pattern: {e}")))
}

/// Replaces characters, but for those that were no characters yet.
pub(super) struct Replacer {
    newer: Regex,
}

impl Replacer {
    pub(super) fn new() -> Result<Self> {
        Ok(Self { newer: regex(&[r"[^\p{age:15.1}]+"])? })
    }

    /// `text` with each character replaced by `with`.
    pub(super) fn replace(&self, text: &str, with: impl Fn(char) -> char) -> String {
        let mut replaced = String::with_capacity(text.len());
        let mut at = 0;
        for newer in self.newer.find_iter(text) {
            replaced.extend(text[at..newer.start()].chars().map(&with));
            replaced.push_str(&text[newer.range()]);
            at = newer.end();
        }
        replaced.extend(text[at..].chars().map(&with));
        replaced
    }
}

/// The lower case of `c`, as one character.
pub(super) fn lower(c: char) -> char {
    c.to_lowercase().next().unwrap_or(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_that_are_newer_stay() {
        let replacer = Replacer::new().unwrap();
        assert_eq!(replacer.replace("AÉ\u{10d50}Б\u{a7cb}", lower), "aé\u{10d50}б\u{a7cb}");
        assert_eq!(replacer.replace("\u{10d50}", lower), "\u{10d50}");
        assert_eq!(lower('İ'), 'i');
    }
}
