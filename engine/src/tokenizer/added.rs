//! Cuts special and user-defined tokens out of a text before anything else reads it.

use std::ops::Range;

use aho_corasick::{AhoCorasick, Input, MatchKind};

use super::TokenType;
use crate::{Error, ErrorKind, Result};

/// A piece of a text: text still to be tokenized, or a token that was found in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fragment<'t> {
    Text(&'t str),
    Token(u32),
}

/// Which white space beside a token is part of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Strip {
    pub(super) left: bool,
    pub(super) right: bool,
}

struct Added {
    id: u32,
    /// User-defined tokens are found in plain text too; control tokens only where special text is parsed.
    always: bool,
    strip: Strip,
}

/// The tokens whose texts have the same length. They are found together: one automaton for each length keeps the
/// search linear, however many tokens there are.
struct OneLength {
    finder: AhoCorasick,
    tokens: Vec<Added>,
}

/// The tokens that are cut out whole, longest first.
pub(super) struct AddedTokens {
    lengths: Vec<OneLength>,
}

impl AddedTokens {
    /// From all tokens as (id, text, type, white space that belongs to it); those of other types, and those that no
    /// text can hold, are left out.
    pub(super) fn new<'a>(all: impl Iterator<Item = (u32, &'a [u8], TokenType, Strip)>) -> Result<Self> {
        let mut added: Vec<(&[u8], Added)> = all
            .filter(|(_, text, kind, _)| kind.is_added() && !text.is_empty() && str::from_utf8(text).is_ok())
            .map(|(id, text, kind, strip)| {
                (text, Added { id, always: kind == TokenType::UserDefined, strip })
            })
            .collect();
        added.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        let mut lengths = Vec::new();
        let mut rest = added.into_iter().peekable();
        while let Some(&(first, _)) = rest.peek() {
            let (mut texts, mut tokens) = (Vec::new(), Vec::new());
            while let Some((text, token)) = rest.next_if(|(text, _)| text.len() == first.len()) {
                texts.push(text);
                tokens.push(token);
            }
            let finder =
                AhoCorasick::builder().match_kind(MatchKind::LeftmostFirst).build(texts).map_err(|e| {
                    Error::new(ErrorKind::Malformed, format!("the special tokens are too many: {e}"))
                })?;
            lengths.push(OneLength { finder, tokens });
        }
        Ok(Self { lengths })
    }

    /// Cuts `text`. A longer token is cut out before a shorter one, wherever they stand; a control token only where
    /// one of the ranges `parsed`, which are in order and do not touch, holds it whole.
    pub(super) fn partition<'t>(&self, text: &'t str, parsed: &[Range<usize>]) -> Vec<Fragment<'t>> {
        let mut pieces = vec![Piece::Text(0..text.len())];
        for length in &self.lengths {
            let mut cut = Vec::with_capacity(pieces.len());
            for piece in pieces {
                match piece {
                    Piece::Text(range) => length.cut(text, range, parsed, &mut cut),
                    token => cut.push(token),
                }
            }
            pieces = cut;
        }
        let fragment = |piece| match piece {
            Piece::Text(range) => Some(Fragment::Text(text.get(range).filter(|text| !text.is_empty())?)),
            Piece::Token(id) => Some(Fragment::Token(id)),
        };
        pieces.into_iter().filter_map(fragment).collect()
    }
}

/// A fragment by its place.
enum Piece {
    Text(Range<usize>),
    Token(u32),
}

impl OneLength {
    fn cut(&self, text: &str, range: Range<usize>, parsed: &[Range<usize>], pieces: &mut Vec<Piece>) {
        // `begin` is where uncut text begins, `from` where to look on.
        let (mut begin, mut from) = (range.start, range.start);
        while let Some(found) = self.finder.find(Input::new(text).range(from..range.end)) {
            let token = &self.tokens[found.pattern().as_usize()];
            if !(token.always || is_inside(found.range(), parsed)) {
                from = found.start() + 1;
                continue;
            }
            let (mut left, mut right) = (found.start(), found.end());
            let is_space = |&byte: &u8| matches!(byte, b'\t'..=b'\r' | b' ');
            if token.strip.left {
                left -= text.as_bytes()[begin..left].iter().rev().take_while(|byte| is_space(byte)).count();
            }
            if token.strip.right {
                right += text.as_bytes()[right..range.end].iter().take_while(|byte| is_space(byte)).count();
            }
            pieces.extend([Piece::Text(begin..left), Piece::Token(token.id)]);
            (begin, from) = (right, right);
        }
        pieces.push(Piece::Text(begin..range.end));
    }
}

/// Whether one of `ranges` holds all of `range`.
fn is_inside(range: Range<usize>, ranges: &[Range<usize>]) -> bool {
    let at = ranges.partition_point(|other| other.end < range.end);
    ranges.get(at).is_some_and(|other| other.start <= range.start)
}

#[cfg(test)]
mod tests {
    use super::Fragment::{Text, Token};
    use super::*;

    fn added() -> AddedTokens {
        let right = Strip { right: true, ..Strip::default() };
        let left = Strip { left: true, ..Strip::default() };
        let all: [(u32, &[u8], TokenType, Strip); 8] = [
            (0, b"<s>", TokenType::Control, Strip::default()),
            (1, b"abc", TokenType::UserDefined, Strip::default()),
            (2, b"bcdef", TokenType::UserDefined, Strip::default()),
            (3, b"", TokenType::Control, Strip::default()),
            (4, b"\xff", TokenType::Control, Strip::default()),
            (5, b"x", TokenType::Normal, Strip::default()),
            (6, b"<right>", TokenType::Control, right),
            (7, b"<left>", TokenType::Control, left),
        ];
        AddedTokens::new(all.into_iter()).unwrap()
    }

    fn parse(text: &str) -> Vec<Fragment<'_>> {
        added().partition(text, std::slice::from_ref(&(0..text.len())))
    }

    #[test]
    fn control_tokens_only_where_asked() {
        assert_eq!(parse("a<s><s>b"), [Text("a"), Token(0), Token(0), Text("b")]);
        assert_eq!(added().partition("a<s>b", &[]), [Text("a<s>b")]);
        assert_eq!(parse(""), []);
    }

    #[test]
    fn a_control_token_must_be_inside_one_parsed_range() {
        let text = "<s><s><s>";
        assert_eq!(added().partition(text, &[0..3, 6..9]), [Token(0), Text("<s>"), Token(0)]);
        let middle = std::slice::from_ref(&(1..8));
        assert_eq!(added().partition(text, middle), [Text("<s>"), Token(0), Text("<s>")]);
        assert_eq!(added().partition(text, &[0..2, 4..9]), [Text("<s><s>"), Token(0)]);
    }

    #[test]
    fn user_defined_tokens_always_and_the_longest_first() {
        assert_eq!(added().partition("abcdef abc", &[]), [Text("a"), Token(2), Text(" "), Token(1)]);
    }

    #[test]
    fn white_space_beside_a_token_that_strips_is_part_of_it() {
        assert_eq!(parse(" <right> \n\u{b}a"), [Text(" "), Token(6), Text("a")]);
        assert_eq!(parse("é \t<left> b"), [Text("é"), Token(7), Text(" b")]);
        assert_eq!(parse("<s>  <left>\u{a0}"), [Token(0), Token(7), Text("\u{a0}")]);
    }
}
