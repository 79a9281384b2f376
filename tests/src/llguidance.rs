//! The cases of llguidance's own tests, read from the sources that Cargo has unpacked: grammars and schemas with texts that
//! they allow or not.
//!
//! Its tests are written in Rust. Of them a reader understands calls of its checking functions whose arguments are
//! literals, names of literals, or parameters with one literal for each case; others are counted and left out.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Map, Number, Value};

/// A call of a checking function.
#[derive(Debug, Clone)]
pub struct Check {
    /// The function.
    pub name: String,
    /// Its arguments.
    pub arguments: Vec<Value>,
}

/// The checks of a file, and how many others it has.
#[derive(Debug, Default)]
pub struct Checks {
    /// Those that are understood.
    pub read: Vec<Check>,
    /// How many are not.
    pub others: usize,
}

/// The folder of llguidance's tests.
///
/// # Errors
/// Why it cannot be had.
pub fn folder() -> Result<PathBuf, String> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["metadata", "--format-version", "1", "--offline", "--locked"]);
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    let output = command.arg("--manifest-path").arg(manifest).output().map_err(|e| format!("cargo: {e}"))?;
    let metadata: Value = serde_json::from_slice(&output.stdout)
        .map_err(|_| format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim()))?;
    let packages = metadata["packages"].as_array().map_or(&[][..], Vec::as_slice);
    let manifest = packages.iter().find(|package| package["name"] == "llguidance");
    let manifest = manifest.and_then(|package| package["manifest_path"].as_str());
    let folder = manifest.and_then(|path| Some(Path::new(path).parent()?.join("tests")));
    folder.filter(|folder| folder.is_dir()).ok_or_else(|| "llguidance comes without its tests".to_owned())
}

/// The calls of `functions` in the tests of `source`.
pub fn checks(source: &str, functions: &[&str]) -> Checks {
    let mut statics = HashMap::new();
    for (at, _) in source.match_indices("static ref ") {
        let mut reader = Reader { text: source, at: at + "static ref ".len(), names: &HashMap::new() };
        let name = reader.name();
        if let (true, Some(value)) = (reader.skip_past('='), reader.value()) {
            statics.insert(name.to_owned(), value);
        }
    }
    let mut checks = Checks::default();
    for test in source.split("\n}\n").filter(|part| part.contains("#[rstest]") || part.contains("#[test]")) {
        let Some(head) = test.find("fn ").map(|at| &test[..at]) else { continue };
        let body = &test[head.len()..];
        let Some((signature, body)) = body.split_once('{') else { continue };
        // `#[case] name: type` of a signature; each `#[case(...)]` above has its values
        let parameters: Vec<&str> = signature
            .split("#[case]")
            .skip(1)
            .filter_map(|part| Some(part.split_once(':')?.0.trim()))
            .collect();
        let mut cases: Vec<Option<HashMap<String, Value>>> = Vec::new();
        for (at, _) in head.match_indices("\n#[case") {
            let mut reader = Reader { text: head, at, names: &statics };
            let values = reader.skip_past('(').then(|| reader.list(')')).flatten();
            let values = values.filter(|values| values.len() == parameters.len());
            cases.push(values.map(|values| {
                let named = parameters.iter().map(|name| (*name).to_owned()).zip(values);
                statics.clone().into_iter().chain(named).collect()
            }));
        }
        if parameters.is_empty() && !signature.contains("#[values") {
            cases.push(Some(statics.clone()));
        }
        for case in cases {
            match case {
                Some(names) => calls(body, functions, names, &mut checks),
                None => checks.others += 1,
            }
        }
    }
    checks
}

/// Reads the calls in a function's body, where `names` stand for values.
fn calls(body: &str, functions: &[&str], mut names: HashMap<String, Value>, checks: &mut Checks) {
    for statement in statements(body) {
        let mut reader = Reader { text: statement, at: 0, names: &names };
        let first = reader.name();
        if first == "let" {
            let name = reader.name().to_owned();
            if let (true, Some(value)) = (reader.skip_past('='), reader.value()) {
                names.insert(name, value);
            }
        } else if functions.contains(&first) {
            let arguments = reader.take('(').then(|| reader.list(')')).flatten();
            match arguments {
                Some(arguments) => checks.read.push(Check { name: first.to_owned(), arguments }),
                None => checks.others += 1,
            }
        } else {
            // in a loop or the like
            checks.others +=
                functions.iter().map(|name| statement.matches(&format!("{name}(")).count()).sum::<usize>();
        }
    }
}

/// The statements of a body: what stands at its first level of indentation.
fn statements(body: &str) -> Vec<&str> {
    let starts: Vec<usize> = body
        .match_indices("\n    ")
        .map(|(at, indent)| at + indent.len())
        .filter(|at| body[*at..].starts_with(|c: char| c.is_ascii_lowercase()))
        .collect();
    let ends = starts.iter().skip(1).copied().chain([body.len()]);
    starts.iter().zip(ends).map(|(start, end)| &body[*start..end]).collect()
}

/// Reads literals of Rust and of the macro `json!`.
struct Reader<'t> {
    text: &'t str,
    at: usize,
    names: &'t HashMap<String, Value>,
}

impl<'t> Reader<'t> {
    fn rest(&self) -> &'t str {
        &self.text[self.at..]
    }

    /// Skips blanks and comments.
    fn skip(&mut self) {
        loop {
            self.at = self.text.len() - self.rest().trim_start().len();
            if !self.rest().starts_with("//") {
                return;
            }
            self.at += self.rest().find('\n').unwrap_or(self.rest().len());
        }
    }

    fn take(&mut self, c: char) -> bool {
        self.skip();
        let found = self.rest().starts_with(c);
        self.at += if found { c.len_utf8() } else { 0 };
        found
    }

    fn skip_past(&mut self, c: char) -> bool {
        let found = self.rest().find(c);
        self.at = found.map_or(self.text.len(), |at| self.at + at + c.len_utf8());
        found.is_some()
    }

    fn name(&mut self) -> &'t str {
        self.skip();
        let rest = self.rest();
        let len = rest.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(rest.len());
        self.at += len;
        &rest[..len]
    }

    /// Values with commas between, and perhaps one more, up to `end`.
    fn list(&mut self, end: char) -> Option<Vec<Value>> {
        let mut values = Vec::new();
        while !self.take(end) {
            values.push(self.value()?);
            if !self.take(',') {
                return self.take(end).then_some(values);
            }
        }
        Some(values)
    }

    fn value(&mut self) -> Option<Value> {
        self.skip();
        let first = self.rest().chars().next()?;
        match first {
            '&' => {
                self.at += 1;
                self.value()
            }
            '"' => self.string().map(Value::String),
            'r' if self.rest().starts_with("r\"") || self.rest().starts_with("r#") => {
                self.raw_string().map(Value::String)
            }
            '[' => {
                self.at += 1;
                self.list(']').map(Value::Array)
            }
            '{' => {
                self.at += 1;
                self.object()
            }
            '-' | '0'..='9' => self.number(),
            _ => match self.name() {
                "true" => Some(Value::Bool(true)),
                "false" => Some(Value::Bool(false)),
                "null" => Some(Value::Null),
                "json" => {
                    let inner = (self.take('!') && self.take('(')).then(|| self.value()).flatten();
                    inner.filter(|_| self.take(')'))
                }
                name => self.names.get(name).cloned(),
            },
        }
    }

    fn object(&mut self) -> Option<Value> {
        let mut fields = Map::new();
        while !self.take('}') {
            let Value::String(key) = self.value()? else { return None };
            if !self.take(':') {
                return None;
            }
            fields.insert(key, self.value()?);
            if !self.take(',') {
                return self.take('}').then_some(Value::Object(fields));
            }
        }
        Some(Value::Object(fields))
    }

    fn number(&mut self) -> Option<Value> {
        let rest = self.rest();
        let len =
            rest.find(|c: char| !(c.is_ascii_alphanumeric() || "+-._".contains(c))).unwrap_or(rest.len());
        self.at += len;
        let number: Number = serde_json::from_str(&rest[..len]).ok()?;
        Some(Value::Number(number))
    }

    fn raw_string(&mut self) -> Option<String> {
        let hashes = self.rest()[1..].bytes().take_while(|byte| *byte == b'#').count();
        let end = format!("\"{}", "#".repeat(hashes));
        let text = self.rest()[1 + hashes..].strip_prefix('"')?;
        let len = text.find(&end)?;
        self.at += 2 + hashes + len + end.len();
        Some(text[..len].to_owned())
    }

    fn string(&mut self) -> Option<String> {
        let mut text = String::new();
        self.at += 1;
        loop {
            let mut rest = self.rest().chars();
            let c = rest.next()?;
            self.at += c.len_utf8();
            match c {
                '"' => return Some(text),
                '\\' => {
                    let escape = rest.next()?;
                    self.at += escape.len_utf8();
                    match escape {
                        'n' => text.push('\n'),
                        't' => text.push('\t'),
                        'r' => text.push('\r'),
                        '0' => text.push('\0'),
                        '\\' | '"' | '\'' => text.push(escape),
                        'x' => text.push(self.code(2)?),
                        'u' => {
                            self.at += self.rest().starts_with('{').then_some(1)?;
                            let len = self.rest().find('}')?;
                            text.push(self.code(len)?);
                            self.at += 1;
                        }
                        // a line that goes on
                        '\n' => self.at = self.text.len() - self.rest().trim_start().len(),
                        _ => return None,
                    }
                }
                _ => text.push(c),
            }
        }
    }

    fn code(&mut self, len: usize) -> Option<char> {
        let digits = self.rest().get(..len)?;
        self.at += len;
        char::from_u32(u32::from_str_radix(digits, 16).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn literals_names_and_cases_are_read() {
        let source = r###"
lazy_static! {
    static ref LIST: Value = json!({"items": [1, -2.5, null,], // what is in it
        "x": "a\"\u{e9}\x41\n"});
}
#[rstest]
#[case::first(&json!([true]), "b")]
#[case(LIST, r#"c"d"#)]
// #[case(LIST, "not yet")]
fn some(#[case] value: &Value, #[case] text: &str) {
    let schema = json!({});
    check(&schema, value, &[text]);
}
#[test]
fn others() {
    check(1 + 1);
    for x in y {
        check(x);
    }
}
"###;
        let checks = checks(source, &["check"]);
        assert_eq!(checks.others, 2);
        let list = json!({"items": [1, -2.5, null], "x": "a\"éA\n"});
        let expected = [json!([{}, [true], ["b"]]), json!([{}, list, ["c\"d"]])];
        let read: Vec<Value> = checks.read.into_iter().map(|check| Value::Array(check.arguments)).collect();
        assert_eq!(read, expected);
    }
}
