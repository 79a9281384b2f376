//! Calls and values that models write in the manner of Python, and in that of Gemma.

use serde_json::{Map, Value};

use super::ToolCall;

/// Deepest nesting of values.
const MAX_DEPTH: usize = 64;

/// `f(a=1, b='x')`, or `[f(...), g(...)]`; nothing if the text is anything else.
pub(super) fn python_calls(text: &str) -> Option<Vec<ToolCall>> {
    let mut reader = Reader { rest: text.trim(), quotes: &["\"", "'"], depth: 0 };
    let mut calls = Vec::new();
    if reader.take("[") {
        while !reader.take("]") {
            calls.push(reader.call()?);
            if !reader.take(",") && !reader.rest.trim_start().starts_with(']') {
                return None;
            }
        }
    } else {
        while !reader.at_end() {
            calls.push(reader.call()?);
            reader.take(";");
        }
    }
    reader.at_end().then_some(calls)
}

/// `call:NAME{NAME:VALUE, ...}`, with texts between two `quote`.
pub(super) fn gemma_call(text: &str, quote: &'static str) -> Option<ToolCall> {
    let (name, arguments) = text.trim().strip_prefix("call:")?.split_once('{')?;
    let mut reader = Reader { rest: arguments, quotes: &[quote], depth: 0 };
    let Value::Object(arguments) = reader.fields()? else { return None };
    reader.at_end().then(|| ToolCall { name: name.trim().to_owned(), arguments, id: None })
}

struct Reader<'t> {
    rest: &'t str,
    /// What begins and ends a text.
    quotes: &'t [&'t str],
    depth: usize,
}

impl<'t> Reader<'t> {
    fn at_end(&self) -> bool {
        self.rest.trim().is_empty()
    }

    /// Takes `mark`, after white space, if it comes next.
    fn take(&mut self, mark: &str) -> bool {
        match self.rest.trim_start().strip_prefix(mark) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    /// A name, with dots in it.
    fn name(&mut self) -> Option<&'t str> {
        let rest = self.rest.trim_start();
        let len = rest.find(|c: char| !(c.is_alphanumeric() || "_.-".contains(c))).unwrap_or(rest.len());
        let (name, rest) = rest.split_at(len);
        self.rest = rest;
        (!name.is_empty()).then_some(name)
    }

    fn call(&mut self) -> Option<ToolCall> {
        let name = self.name()?.to_owned();
        let mut arguments = Map::new();
        if !self.take("(") {
            return None;
        }
        while !self.take(")") {
            let argument = self.name()?.to_owned();
            if !self.take("=") {
                return None;
            }
            arguments.insert(argument, self.value()?);
            if !self.take(",") && !self.rest.trim_start().starts_with(')') {
                return None;
            }
        }
        Some(ToolCall { name, arguments, id: None })
    }

    fn value(&mut self) -> Option<Value> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return None;
        }
        let value = self.any();
        self.depth -= 1;
        value
    }

    fn any(&mut self) -> Option<Value> {
        if let Some(quote) = self.quotes.iter().copied().find(|quote| self.take(quote)) {
            return self.text(quote).map(Value::String);
        }
        if self.take("[") {
            let mut items = Vec::new();
            while !self.take("]") {
                items.push(self.value()?);
                if !self.take(",") && !self.rest.trim_start().starts_with(']') {
                    return None;
                }
            }
            return Some(items.into());
        }
        if self.take("{") {
            return self.fields();
        }
        let rest = self.rest.trim_start();
        let len = rest.find(|c: char| ",)]}".contains(c) || c.is_whitespace()).unwrap_or(rest.len());
        let (word, rest) = rest.split_at(len);
        self.rest = rest;
        match word {
            "True" => Some(true.into()),
            "False" => Some(false.into()),
            "None" => Some(Value::Null),
            _ => serde_json::from_str(word).ok(),
        }
    }

    /// `NAME: VALUE, ...` up to `}`; a name may stand in quotes.
    fn fields(&mut self) -> Option<Value> {
        let mut fields = Map::new();
        while !self.take("}") {
            let quote = self.quotes.iter().copied().find(|quote| self.take(quote));
            let name = match quote {
                Some(quote) => self.text(quote)?,
                None => self.name()?.to_owned(),
            };
            if !self.take(":") {
                return None;
            }
            fields.insert(name, self.value()?);
            if !self.take(",") && !self.rest.trim_start().starts_with('}') {
                return None;
            }
        }
        Some(fields.into())
    }

    /// A text up to `quote`. Between quotation marks there are Python's escapes, between longer marks none.
    fn text(&mut self, quote: &str) -> Option<String> {
        if quote.len() > 1 {
            let (text, rest) = self.rest.split_once(quote)?;
            self.rest = rest;
            return Some(text.to_owned());
        }
        let mut text = String::new();
        let mut chars = self.rest.chars();
        loop {
            match chars.next()? {
                c if quote.starts_with(c) => break,
                '\\' => match chars.next()? {
                    'n' => text.push('\n'),
                    't' => text.push('\t'),
                    'r' => text.push('\r'),
                    c @ ('u' | 'x') => {
                        let digits = if c == 'u' { 4 } else { 2 };
                        let hex = chars.as_str().get(..digits)?;
                        text.push(char::from_u32(u32::from_str_radix(hex, 16).ok()?)?);
                        chars = chars.as_str()[digits..].chars();
                    }
                    '\n' => {}
                    c @ ('\\' | '\'' | '"') => text.push(c),
                    c => text.extend(['\\', c]),
                },
                c => text.push(c),
            }
        }
        self.rest = chars.as_str();
        Some(text)
    }
}
