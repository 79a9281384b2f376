//! PTX text to words, signs and strings, each with its line.

use super::ParseError;

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind<'a> {
    /// A name, a number, an opcode or a directive, with the dots, `%`, `$` and `::` inside.
    Word(&'a str),
    Sign(char),
    Text(&'a str),
}

#[derive(Clone, Copy, Debug)]
pub struct Token<'a> {
    pub line: u32,
    pub kind: Kind<'a>,
}

/// The tokens of `text`, without comments.
pub fn tokens(text: &str) -> Result<Vec<Token<'_>>, ParseError> {
    let bytes = text.as_bytes();
    let mut found = Vec::new();
    let (mut at, mut line) = (0, 1);
    while let Some(&byte) = bytes.get(at) {
        let from = at;
        let rest = &bytes[at..];
        if byte == b'\n' {
            line += 1;
            at += 1;
        } else if byte.is_ascii_whitespace() || byte == 0 {
            at += 1;
        } else if rest.starts_with(b"//") {
            at += rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
        } else if rest.starts_with(b"/*") {
            let Some(end) = rest.windows(2).position(|two| two == b"*/") else {
                return Err(ParseError { line, what: "a comment without an end".into() });
            };
            line += rest[..end].iter().filter(|&&b| b == b'\n').count() as u32;
            at += end + 2;
        } else if byte == b'"' {
            let Some(end) =
                rest[1..].iter().position(|&b| b == b'"' || b == b'\n').filter(|&e| rest[e + 1] == b'"')
            else {
                return Err(ParseError { line, what: "a string without an end".into() });
            };
            at += end + 2;
            found.push(Token { line, kind: Kind::Text(&text[from + 1..at - 1]) });
        } else if in_word(byte) {
            while let Some(&b) = bytes.get(at) {
                let scope = bytes[at..].starts_with(b"::");
                // `.reg.b16` is two directives
                let next = byte == b'.' && b == b'.' && at > from;
                if !in_word(b) && !scope || next {
                    break;
                }
                at += if scope { 2 } else { 1 };
            }
            found.push(Token { line, kind: Kind::Word(&text[from..at]) });
        } else if byte.is_ascii() {
            at += 1;
            found.push(Token { line, kind: Kind::Sign(byte as char) });
        } else {
            return Err(ParseError { line, what: "a character that is not ASCII".into() });
        }
    }
    Ok(found)
}

fn in_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | b'%' | b'.')
}
