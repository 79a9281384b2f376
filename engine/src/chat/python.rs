//! Where minijinja is not Python: methods of strings that it lacks or that do something else, and a few filters and
//! tests. Everything else is minijinja's own, or that of its collection `pycompat`.
//!
//! What is left out, because no known template asks for it: `%` and the escaping of `+` on strings, `varargs` of macros,
//! and how Python prints views of a dictionary, ranges, and floats with an exponent.

use std::borrow::Cow;

use minijinja::value::{Kwargs, Rest, Tuple, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State, Value};

type Result<T> = std::result::Result<T, Error>;

/// Longest text that a method pads to, in characters.
const MAX_WIDTH: usize = 1 << 16;

/// Makes `environment` behave as jinja2 does on Python.
pub(super) fn set_up(environment: &mut Environment<'_>) {
    environment.set_unknown_method_callback(method);
    environment.add_filter("count", length);
    environment.add_filter("float", float);
    environment.add_filter("indent", indent);
    environment.add_filter("int", int);
    environment.add_filter("length", length);
    environment.add_filter("replace", replace);
    environment.add_filter("trim", trim);
    environment.add_test("callable", |value: &Value| is_callable(value));
    environment.add_test("iterable", is_iterable);
    environment
        .add_test("sequence", |value: &Value| is_iterable(value) && value.kind() != ValueKind::Iterable);
}

/// A method that minijinja does not know itself.
fn method(state: &mut State<'_, '_>, value: &Value, name: &str, args: &[Value]) -> Result<Value> {
    let own = match value.as_str() {
        Some(text) => string_method(text, name, args)?,
        None => None,
    };
    match own {
        Some(result) => Ok(result),
        None => minijinja_contrib::pycompat::unknown_method_callback(state, value, name, args),
    }
}

fn string_method(text: &str, name: &str, args: &[Value]) -> Result<Option<Value>> {
    let chars = |args| from_args(args).map(|(chars,): (Option<&str>,)| chars.map(str::to_owned));
    let affix = |args| from_args(args).map(|(affix,): (&str,)| affix.to_owned());
    Ok(Some(match name {
        "strip" => strip(text, chars(args)?.as_deref(), true, true).into(),
        "lstrip" => strip(text, chars(args)?.as_deref(), true, false).into(),
        "rstrip" => strip(text, chars(args)?.as_deref(), false, true).into(),
        "split" => Value::from_iter(split(text, args, false)?),
        "rsplit" => Value::from_iter(split(text, args, true)?),
        "splitlines" => {
            let (keep, kwargs): (Option<bool>, Kwargs) = from_args(args)?;
            let keep = named(keep, &kwargs, "keepends")?.unwrap_or(false);
            Value::from_iter(split_lines(text, keep))
        }
        "partition" => partition(text, &affix(args)?, false),
        "rpartition" => partition(text, &affix(args)?, true),
        "removeprefix" => text.strip_prefix(affix(args)?.as_str()).unwrap_or(text).into(),
        "removesuffix" => text.strip_suffix(affix(args)?.as_str()).unwrap_or(text).into(),
        "title" => title(text).into(),
        "swapcase" => swap_case(text).into(),
        "isdigit" | "isdecimal" => (!text.is_empty() && text.chars().all(|c| c.is_ascii_digit())).into(),
        "zfill" | "ljust" | "rjust" | "center" => pad(text, name, args)?,
        "find" | "rfind" | "index" | "rindex" => find(text, name, args)?,
        _ => return Ok(None),
    }))
}

/// An argument that is given by position or by name.
fn named<'a, T>(positional: Option<T>, kwargs: &'a Kwargs, name: &'a str) -> Result<Option<T>>
where
    T: minijinja::value::ArgType<'a, Output = T>,
    Option<T>: minijinja::value::ArgType<'a, Output = Option<T>>,
{
    let by_name = if positional.is_none() { kwargs.get::<Option<T>>(name)? } else { None };
    kwargs.assert_all_used()?;
    Ok(positional.or(by_name))
}

fn wrong(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, what.into())
}

/// `str.isspace`: also the separators of ASCII, which Unicode's property leaves out.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

fn strip<'t>(mut text: &'t str, chars: Option<&str>, left: bool, right: bool) -> &'t str {
    let strips = |c: char| chars.map_or_else(|| is_space(c), |chars| chars.contains(c));
    if left {
        text = text.trim_start_matches(strips);
    }
    if right {
        text = text.trim_end_matches(strips);
    }
    text
}

/// `str.split(sep=None, maxsplit=-1)`, or from the right.
fn split(text: &str, args: &[Value], right: bool) -> Result<Vec<String>> {
    let (separator, most, kwargs): (Option<Value>, Option<i64>, Kwargs) = from_args(args)?;
    let by_name = if separator.is_none() { kwargs.get::<Option<Value>>("sep")? } else { None };
    let separator = separator.or(by_name).filter(|value| !value.is_none());
    let most = named(most, &kwargs, "maxsplit")?;
    let most = most.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX - 1) + 1;
    let Some(separator) = separator else { return Ok(split_at_spaces(text, most, right)) };
    let separator = separator.as_str().filter(|separator| !separator.is_empty());
    let separator = separator.ok_or_else(|| wrong("split: the separator is a text, and not empty"))?;
    Ok(match right {
        false => text.splitn(most, separator).map(str::to_owned).collect(),
        true => {
            let mut parts: Vec<_> = text.rsplitn(most, separator).map(str::to_owned).collect();
            parts.reverse();
            parts
        }
    })
}

/// At most `most` words of `text`; the last (from the right: the first) is what is left.
fn split_at_spaces(text: &str, most: usize, right: bool) -> Vec<String> {
    let (mut words, mut rest) = (Vec::new(), strip(text, None, !right, right));
    while !rest.is_empty() {
        let cut = if right { rest.rfind(is_space) } else { rest.find(is_space) };
        let cut = cut.filter(|_| words.len() + 1 < most);
        let (word, left) = match (cut, right) {
            (None, false) => (if words.len() + 1 < most { strip(rest, None, false, true) } else { rest }, ""),
            (None, true) => (if words.len() + 1 < most { strip(rest, None, true, false) } else { rest }, ""),
            (Some(at), false) => (&rest[..at], strip(&rest[at..], None, true, false)),
            (Some(at), true) => {
                let space = rest[at..].chars().next().map_or(0, char::len_utf8);
                (&rest[at + space..], strip(&rest[..at], None, false, true))
            }
        };
        words.push(word.to_owned());
        rest = left;
    }
    if right {
        words.reverse();
    }
    words
}

/// The lines of `text`, at every line end that Python knows.
fn split_lines(text: &str, keep: bool) -> Vec<String> {
    const ENDS: [char; 10] =
        ['\n', '\r', '\x0b', '\x0c', '\x1c', '\x1d', '\x1e', '\u{85}', '\u{2028}', '\u{2029}'];
    let (mut lines, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.find(ENDS) {
        let end = if rest[at..].starts_with("\r\n") {
            2
        } else {
            rest[at..].chars().next().map_or(1, char::len_utf8)
        };
        lines.push(rest[..if keep { at + end } else { at }].to_owned());
        rest = &rest[at + end..];
    }
    if !rest.is_empty() {
        lines.push(rest.to_owned());
    }
    lines
}

fn partition(text: &str, separator: &str, right: bool) -> Value {
    let found = if right { text.rsplit_once(separator) } else { text.split_once(separator) };
    let parts = match found {
        Some((before, after)) => [before, separator, after],
        None if right => ["", "", text],
        None => [text, "", ""],
    };
    Value::from(Tuple::from(parts.map(Value::from)))
}

/// `str.title`: a letter after anything but a letter is upper case, the others are lower case.
fn title(text: &str) -> String {
    let mut result = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            result.extend(c.to_lowercase())
        } else {
            result.extend(c.to_uppercase())
        }
        inside = c.is_alphabetic();
    }
    result
}

fn swap_case(text: &str) -> String {
    let swap = |c: char| match c.is_uppercase() {
        true => c.to_lowercase().collect::<String>(),
        false => c.to_uppercase().collect(),
    };
    text.chars().map(swap).collect()
}

fn pad(text: &str, name: &str, args: &[Value]) -> Result<Value> {
    let (width, fill): (usize, Option<&str>) = from_args(args)?;
    let fill = fill.unwrap_or(if name == "zfill" { "0" } else { " " });
    if fill.chars().count() != 1 || width > MAX_WIDTH {
        return Err(wrong(format!("{name}: pad with one character to at most {MAX_WIDTH}")));
    }
    let missing = width.saturating_sub(text.chars().count());
    let (sign, digits) = match text.strip_prefix(['+', '-']) {
        Some(digits) if name == "zfill" => text.split_at(text.len() - digits.len()),
        _ => ("", text),
    };
    let left = match name {
        "ljust" => 0,
        // as CPython places the odd one
        "center" => missing / 2 + (missing & width & 1),
        _ => missing,
    };
    Ok(format!("{sign}{}{digits}{}", fill.repeat(left), fill.repeat(missing - left)).into())
}

/// `str.find(sub, start)` and its like, in characters.
fn find(text: &str, name: &str, args: &[Value]) -> Result<Value> {
    let (part, start): (&str, Option<usize>) = from_args(args)?;
    let start = start.unwrap_or(0);
    let skipped = text.char_indices().nth(start).map_or(text.len(), |(at, _)| at);
    let rest = &text[skipped..];
    let at = if name.starts_with('r') { rest.rfind(part) } else { rest.find(part) };
    match at {
        Some(at) => Ok((start + rest[..at].chars().count()).into()),
        None if name.ends_with("index") => Err(wrong("substring not found")),
        None => Ok((-1).into()),
    }
}

fn length(value: &Value) -> Result<usize> {
    if value.is_undefined() {
        return Ok(0);
    }
    value.len().ok_or_else(|| wrong(format!("cannot calculate length of value of type {}", value.kind())))
}

/// The number that a text or number stands for, as a float.
fn number(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some(text) => text.trim().replace('_', "").parse().ok(),
        None => {
            f64::try_from(value.clone()).ok().or_else(|| bool::try_from(value.clone()).ok().map(f64::from))
        }
    }
}

fn float(value: &Value, default: Option<f64>) -> f64 {
    number(value).unwrap_or(default.unwrap_or(0.0))
}

fn int(value: &Value, default: Option<Value>) -> Value {
    let whole =
        value.as_str().map_or_else(|| value.as_i64(), |text| text.trim().replace('_', "").parse().ok());
    let truncated = || number(value).filter(|n| n.abs() < 9e18).map(|n| n as i64);
    whole.or_else(truncated).map_or_else(|| default.unwrap_or(Value::from(0)), Value::from)
}

/// What filters of texts work on: anything, written as text.
fn text_of(value: &Value) -> Cow<'_, str> {
    value.as_str().map_or_else(|| Cow::Owned(value.to_string()), Cow::Borrowed)
}

fn trim(value: &Value, chars: Option<&str>) -> String {
    strip(&text_of(value), chars, true, true).to_owned()
}

fn replace(value: &Value, old: &str, new: &str, count: Option<i64>) -> String {
    let text = text_of(value);
    match count.and_then(|n| usize::try_from(n).ok()) {
        Some(n) => text.replacen(old, new, n),
        None => text.replace(old, new),
    }
}

/// `indent(s, width=4, first=False, blank=False)`; `width` may be the text to indent with.
fn indent(value: &Value, args: Rest<Value>, kwargs: Kwargs) -> Result<String> {
    let positional = |at: usize, name: &str| match args.get(at) {
        Some(value) => Ok(Some(value.clone())),
        None => kwargs.get::<Option<Value>>(name),
    };
    let (width, first, blank) = (positional(0, "width")?, positional(1, "first")?, positional(2, "blank")?);
    kwargs.assert_all_used()?;
    let with = match width {
        None => " ".repeat(4),
        Some(width) => match width.as_str() {
            Some(text) => text.to_owned(),
            None => " ".repeat(usize::try_from(width).ok().filter(|n| *n <= MAX_WIDTH).ok_or_else(|| {
                wrong(format!("indent: the width is a text or a number up to {MAX_WIDTH}"))
            })?),
        },
    };
    let yes = |flag: Option<Value>| flag.is_some_and(|flag| flag.is_true());
    let (first, blank) = (yes(first), yes(blank));
    let text = text_of(value);
    let mut result = String::with_capacity(text.len());
    for (at, line) in split_lines(&text, true).iter().enumerate() {
        let empty = line.trim_end_matches(['\n', '\r']).is_empty();
        if if at == 0 { first } else { blank || !empty } {
            result.push_str(&with);
        }
        result.push_str(line);
    }
    Ok(result)
}

/// Without tools, `tools` is none, which minijinja calls iterable and Python does not.
fn is_iterable(value: &Value) -> bool {
    value.is_undefined() || !value.is_none() && value.try_iter().is_ok()
}

fn is_callable(value: &Value) -> bool {
    value.kind() == ValueKind::Plain && value.as_object().is_some()
}

#[cfg(test)]
mod tests {
    use minijinja::{Environment, context};

    // What jinja2 3.1 on Python 3.11 printed for each expression.
    #[test]
    fn expressions_are_what_python_makes_of_them() {
        let mut environment = Environment::new();
        super::set_up(&mut environment);
        for (expression, expected) in [
            ("'\\x1c x\\x1f'.strip() ~ 'xax'.lstrip('x') ~ ' a '.rstrip()", "xax a"),
            ("'a b  c'.split(maxsplit=1)", "['a', 'b  c']"),
            ("' a b  c '.split()", "['a', 'b', 'c']"),
            ("'a,b,c'.split(',', maxsplit=1)", "['a', 'b,c']"),
            ("'a,b'.split(sep=',')", "['a', 'b']"),
            ("'a,b,c'.rsplit(',', 1)", "['a,b', 'c']"),
            ("'a b  c '.rsplit(none, 1)", "['a b', 'c']"),
            ("''.split() ~ ''.split(',')", "[]['']"),
            ("'a-b-c'.partition('-') ~ 'a-b-c'.rpartition('-')", "('a', '-', 'b-c')('a-b', '-', 'c')"),
            ("'abc'.partition('-') ~ 'abc'.rpartition('-')", "('abc', '', '')('', '', 'abc')"),
            ("'a-x'.removeprefix('a-') ~ 'x.py'.removesuffix('.py')", "xx"),
            ("\"hello it's\".title() ~ 'aB'.swapcase()", "Hello It'SAb"),
            ("'a\\nb\\r\\nc\\x0bd'.splitlines()", "['a', 'b', 'c', 'd']"),
            ("'a\\nb\\n'.splitlines(keepends=true)", "['a\\n', 'b\\n']"),
            ("'éabc'.find('a', 1) ~ 'abcabc'.rfind('c') ~ 'x'.find('y') ~ 'ab'.index('b')", "15-11"),
            ("'-42'.zfill(5) ~ 'x'.ljust(3) ~ 'x'.rjust(3, '.') ~ 'x'.center(4, '-')", "-0042x  ..x-x--"),
            ("'½'.isdigit() ~ '1'.isdecimal()", "FalseTrue"),
            ("missing|length", "0"),
            ("'x'|int ~ 'x'|int(7) ~ ' 12 '|int ~ '1.9'|int ~ 3.9|int ~ true|int ~ none|int", "07121310"),
            ("'x'|float ~ '1.5'|float ~ 3|float", "0.01.53.0"),
            ("'a\\n\\nb'|indent(2) ~ 'a\\nb'|indent('> ', first=true)", "a\n\n  b> a\n> b"),
            ("'a\\n\\nb'|indent(1, blank=true)", "a\n \n b"),
            ("[1, 2]|replace(',', ';') ~ ['x ']|trim(\"'\") ~ none|trim", "[1; 2]['x ']None"),
            ("'aaa'|replace('a', 'b', 1) ~ 'aa'|replace('a', 'b') ~ ' x '|trim ~ 'axa'|trim('a')", "baabbxx"),
            (
                "('a' is sequence) ~ ({} is sequence) ~ (1 is sequence) ~ (none is iterable) ~ (range is callable)",
                "TrueTrueFalseFalseTrue",
            ),
        ] {
            let result = environment.render_str(&format!("{{{{ {expression} }}}}"), context! {});
            assert_eq!(result.unwrap(), expected, "{expression}");
        }
    }

    #[test]
    fn what_would_fill_the_memory_is_refused() {
        let mut environment = Environment::new();
        super::set_up(&mut environment);
        for expression in ["'a'.ljust(99999999)", "'a'|indent(99999999, true)", "'a'.split('')"] {
            assert!(environment.render_str(&format!("{{{{ {expression} }}}}"), context! {}).is_err());
        }
    }
}
