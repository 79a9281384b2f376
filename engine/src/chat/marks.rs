//! Keeps what people and tools wrote from being read as control tokens.
//!
//! A template mixes control tokens (`<|im_end|>`) with text that is not trusted. So before it runs, each control token's
//! text inside an input string is put between two marks, and the marks are taken out of what it wrote: what stood
//! between them is to be tokenized as text. Strings without such a text, nearly all, reach the template as they are;
//! marks around whole strings would change what templates find when they split, strip or compare them.
//!
//! The marks are two noncharacters of Unicode, which no text should hold; those that an input does hold are dropped, so
//! that nobody can forge one.

use std::borrow::Cow;
use std::ops::Range;

use aho_corasick::{AhoCorasick, MatchKind};
use serde_json::Value;

use crate::tokenizer::{Segment, Special};
use crate::{Error, ErrorKind, Result};

const BEGIN: char = '\u{fdd0}';
const END: char = '\u{fdd1}';

/// Finds control tokens in texts that are not trusted.
#[derive(Debug, Default)]
pub(super) struct Marker {
    control: Option<AhoCorasick>,
}

impl Marker {
    /// A marker for tokens with these texts. Words, such as `user`, are no marker's business: fields and roles are named
    /// so, and a template that looks for them is to find them.
    pub(super) fn new<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let texts: Vec<&str> = texts
            .into_iter()
            .filter(|text| text.contains(|c: char| c.is_ascii_punctuation() && c != '_'))
            .collect();
        if texts.is_empty() {
            return Ok(Self::default());
        }
        let control = AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(texts);
        let failed = |e| Error::new(ErrorKind::Malformed, format!("the special tokens are too many: {e}"));
        Ok(Self { control: Some(control.map_err(failed)?) })
    }

    /// `text` with marks around what reads as a control token.
    fn text<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut text = Cow::Borrowed(text);
        if text.contains([BEGIN, END]) {
            text = Cow::Owned(text.replace([BEGIN, END], ""));
        }
        let Some(control) = &self.control else { return text };
        let (mut marked, mut end) = (String::new(), 0);
        for found in control.find_iter(text.as_ref()) {
            marked.push_str(&text[end..found.start()]);
            marked.extend([BEGIN]);
            marked.push_str(&text[found.range()]);
            marked.extend([END]);
            end = found.end();
        }
        if end == 0 {
            return text;
        }
        marked.push_str(&text[end..]);
        Cow::Owned(marked)
    }

    /// Marks all strings of `value`, also the keys of objects.
    pub(super) fn value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(text).into_owned()),
            Value::Array(items) => items.iter().map(|item| self.value(item)).collect(),
            Value::Object(fields) => Value::Object(
                fields.iter().map(|(key, field)| (self.text(key).into_owned(), self.value(field))).collect(),
            ),
            other => other.clone(),
        }
    }
}

/// What a chat template wrote.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prompt {
    text: String,
    /// Where people or tools wrote what reads as a control token; and empty ranges, which keep their sides apart.
    literal: Vec<Range<usize>>,
}

impl Prompt {
    /// Takes the marks out of `marked`. A mark that has lost its other half, because a template cut the text between
    /// them, still keeps both sides apart.
    pub(super) fn new(marked: &str) -> Self {
        let mut prompt = Self { text: String::with_capacity(marked.len()), literal: Vec::new() };
        let mut begin = None;
        for (at, part) in marked.split_inclusive([BEGIN, END]).enumerate() {
            let plain = part.trim_end_matches([BEGIN, END]);
            let start = prompt.text.len();
            prompt.text.push_str(plain);
            if begin.take().is_some() && part.ends_with(END) {
                prompt.literal.push(start..prompt.text.len());
            } else if at > 0 {
                prompt.literal.push(start..start);
            }
            begin = part.ends_with(BEGIN).then_some(());
        }
        prompt
    }

    /// The text.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The text as a tokenizer takes it: what people and tools wrote ends no turn.
    pub fn segments(&self) -> Vec<Segment<'_>> {
        let mut segments = Vec::with_capacity(2 * self.literal.len() + 1);
        let mut parse_from = 0;
        for literal in &self.literal {
            segments.push(Segment { text: &self.text[parse_from..literal.start], special: Special::Parse });
            segments.push(Segment { text: &self.text[literal.clone()], special: Special::AsText });
            parse_from = literal.end;
        }
        segments.push(Segment { text: &self.text[parse_from..], special: Special::Parse });
        segments
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::Special::{AsText, Parse};
    use super::*;

    fn marker() -> Marker {
        Marker::new(["<|end|>", "<|end|>x", "", "<s>", "user"]).unwrap()
    }

    fn pieces(marked: &str) -> Vec<(String, Special)> {
        let prompt = Prompt::new(marked);
        let segments = prompt.segments().into_iter().filter(|segment| !segment.text.is_empty());
        segments.map(|segment| (segment.text.to_owned(), segment.special)).collect()
    }

    #[test]
    fn control_tokens_in_inputs_are_text_and_those_of_the_template_are_not() {
        let input = marker().value(&json!({"a": ["x<|end|>xy<s>", 1, null], "user": "user"}));
        let text = format!("<s>{}<|end|>", input["a"][0].as_str().unwrap());
        let expected =
            [("<s>x", Parse), ("<|end|>x", AsText), ("y", Parse), ("<s>", AsText), ("<|end|>", Parse)];
        assert_eq!(pieces(&text), expected.map(|(text, special)| (text.to_owned(), special)));
        assert_eq!(Prompt::new(&text).text(), "<s>x<|end|>xy<s><|end|>");
        assert_eq!((&input["user"], &input["a"][1]), (&json!("user"), &json!(1)));
    }

    #[test]
    fn marks_cannot_be_forged_and_halves_keep_their_sides_apart() {
        assert_eq!(marker().value(&json!({"<s>": 1})), json!({"\u{fdd0}<s>\u{fdd1}": 1}));
        let forged = marker().value(&json!("\u{fdd1}<\u{fdd0}s>"));
        assert_eq!(forged, json!("\u{fdd0}<s>\u{fdd1}"));
        for (marked, expected) in [
            ("\u{fdd0}<s>\u{fdd1}", vec![("<s>", AsText)]),
            ("a\u{fdd0}<s", vec![("a", Parse), ("<s", Parse)]),
            ("<s\u{fdd1}>", vec![("<s", Parse), (">", Parse)]),
            ("<\u{fdd0}\u{fdd0}s>\u{fdd1}\u{fdd1}b", vec![("<", Parse), ("s>", AsText), ("b", Parse)]),
            ("", vec![]),
        ] {
            let expected: Vec<_> = expected.into_iter().map(|(text, s)| (text.to_owned(), s)).collect();
            assert_eq!(pieces(marked), expected, "{marked:?}");
        }
    }
}
