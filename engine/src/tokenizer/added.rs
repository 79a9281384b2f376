//! Cuts special and user-defined tokens out of a text before anything else reads it.

use aho_corasick::AhoCorasick;

use super::{Special, TokenType};
use crate::{Error, ErrorKind, Result};

/// A piece of a text: text still to be tokenized, or a token that was found in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fragment<'t> {
    Text(&'t str),
    Token(u32),
}

struct Added {
    text: String,
    id: u32,
    /// User-defined tokens are found in plain text too; control tokens only where special text is parsed.
    always: bool,
}

/// The tokens that are cut out whole, longest first.
pub(super) struct AddedTokens {
    tokens: Vec<Added>,
    finder: AhoCorasick,
}

impl AddedTokens {
    /// From all tokens as (id, text, type); those of other types, and those that no text can hold, are left out.
    pub(super) fn new<'a>(all: impl Iterator<Item = (u32, &'a [u8], TokenType)>) -> Result<Self> {
        let mut tokens: Vec<Added> = all
            .filter(|(_, text, kind)| kind.is_added() && !text.is_empty())
            .filter_map(|(id, text, kind)| {
                let text = str::from_utf8(text).ok()?.to_owned();
                Some(Added { text, id, always: kind == TokenType::UserDefined })
            })
            .collect();
        tokens.sort_by_key(|token| std::cmp::Reverse(token.text.len()));
        let finder = AhoCorasick::new(tokens.iter().map(|token| &token.text))
            .map_err(|e| Error::new(ErrorKind::Malformed, format!("the special tokens are too many: {e}")))?;
        Ok(Self { tokens, finder })
    }

    /// Cuts `text`. A longer token is cut out before a shorter one, wherever they stand.
    pub(super) fn partition<'t>(&self, text: &'t str, special: Special) -> Vec<Fragment<'t>> {
        let mut present = vec![false; self.tokens.len()];
        for found in self.finder.find_overlapping_iter(text) {
            present[found.pattern().as_usize()] = true;
        }
        let mut fragments = vec![Fragment::Text(text)];
        for (token, _) in self.tokens.iter().zip(&present).filter(|&(_, &present)| present) {
            if token.always || special == Special::Parse {
                fragments = fragments.iter().flat_map(|&fragment| cut(fragment, token)).collect();
            }
        }
        fragments.retain(|&fragment| fragment != Fragment::Text(""));
        fragments
    }
}

fn cut<'t>(fragment: Fragment<'t>, token: &Added) -> Vec<Fragment<'t>> {
    let Fragment::Text(text) = fragment else { return vec![fragment] };
    let mut parts = Vec::new();
    for (at, part) in text.split(token.text.as_str()).enumerate() {
        if at > 0 {
            parts.push(Fragment::Token(token.id));
        }
        parts.push(Fragment::Text(part));
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::Fragment::{Text, Token};
    use super::*;

    fn added() -> AddedTokens {
        let all: [(u32, &[u8], TokenType); 6] = [
            (0, b"<s>", TokenType::Control),
            (1, b"abc", TokenType::UserDefined),
            (2, b"bcdef", TokenType::UserDefined),
            (3, b"", TokenType::Control),
            (4, b"\xff", TokenType::Control),
            (5, b"x", TokenType::Normal),
        ];
        AddedTokens::new(all.into_iter()).unwrap()
    }

    #[test]
    fn control_tokens_only_where_asked() {
        assert_eq!(added().partition("a<s><s>b", Special::Parse), [Text("a"), Token(0), Token(0), Text("b")]);
        assert_eq!(added().partition("a<s>b", Special::AsText), [Text("a<s>b")]);
        assert_eq!(added().partition("", Special::Parse), []);
    }

    #[test]
    fn user_defined_tokens_always_and_the_longest_first() {
        assert_eq!(
            added().partition("abcdef abc", Special::AsText),
            [Text("a"), Token(2), Text(" "), Token(1)]
        );
    }
}
