//! The `tojson` filter as chat templates expect it: what Python's `json.dumps` writes. Models were trained on
//! those spaces, and on text that is not escaped for HTML as Jinja's own filter would escape it.

use std::io::{self, Write};

use minijinja::value::Kwargs;
use minijinja::{Error, ErrorKind, Value};
use serde::Serialize;
use serde_json::ser::{Formatter, Serializer};

/// `value | tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn tojson(value: &Value, options: Kwargs) -> Result<String, Error> {
    let failed = |e: serde_json::Error| Error::new(ErrorKind::InvalidOperation, format!("tojson: {e}"));
    let ascii = options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
    let indent = options.get::<Option<usize>>("indent")?;
    let separators = options.get::<Option<Vec<String>>>("separators")?;
    let sort_keys = options.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    options.assert_all_used()?;
    let (item, key) = match separators.as_deref() {
        None => (if indent.is_some() { "," } else { ", " }, ": "),
        Some([item, key]) => (item.as_str(), key.as_str()),
        Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "tojson: separators are two texts")),
    };

    let mut value = serde_json::to_value(value).map_err(failed)?;
    if sort_keys {
        value.sort_all_objects();
    }
    let mut bytes = Vec::new();
    let format = PythonFormat { item, key, indent, ascii, depth: 0, empty: true };
    value.serialize(&mut Serializer::with_formatter(&mut bytes, format)).map_err(failed)?;
    String::from_utf8(bytes).map_err(|e| Error::new(ErrorKind::InvalidOperation, format!("tojson: {e}")))
}

struct PythonFormat<'a> {
    /// Written between items.
    item: &'a str,
    /// Written between key and value.
    key: &'a str,
    /// Each item on its own line, this many spaces deeper than what holds it.
    indent: Option<usize>,
    /// Characters beyond ASCII are written as `\uXXXX`.
    ascii: bool,
    depth: usize,
    /// Whether nothing has been written in the innermost array or object.
    empty: bool,
}

impl PythonFormat<'_> {
    fn new_line<W: ?Sized + Write>(&self, writer: &mut W) -> io::Result<()> {
        let Some(indent) = self.indent else { return Ok(()) };
        write!(writer, "\n{:width$}", "", width = indent.saturating_mul(self.depth).min(u16::MAX.into()))
    }

    fn begin<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth += 1;
        self.empty = true;
        writer.write_all(bracket)
    }

    fn begin_item<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        if !first {
            writer.write_all(self.item.as_bytes())?;
        }
        self.new_line(writer)
    }

    fn end<W: ?Sized + Write>(&mut self, writer: &mut W, bracket: &[u8]) -> io::Result<()> {
        self.depth -= 1;
        if !self.empty {
            self.new_line(writer)?;
        }
        self.empty = false;
        writer.write_all(bracket)
    }
}

impl Formatter for PythonFormat<'_> {
    fn begin_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin(writer, b"[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, b"]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.begin_item(writer, first)
    }

    fn end_array_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.empty = false;
        Ok(())
    }

    fn begin_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.begin(writer, b"{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        self.end(writer, b"}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, writer: &mut W, first: bool) -> io::Result<()> {
        self.begin_item(writer, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(self.key.as_bytes())
    }

    fn end_object_value<W: ?Sized + Write>(&mut self, _: &mut W) -> io::Result<()> {
        self.empty = false;
        Ok(())
    }

    fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, number: f64) -> io::Result<()> {
        // the shortest digits, as `repr` of Python places them: with an exponent below 1e-4 and from 1e16 on
        match number.abs() {
            0.0 | 1e-4..1e16 => write!(writer, "{number:?}"),
            _ => {
                let text = format!("{number:e}");
                let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
                let exponent: i32 = exponent.parse().unwrap_or(0);
                write!(writer, "{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
            }
        }
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, writer: &mut W, text: &str) -> io::Result<()> {
        if !self.ascii {
            return writer.write_all(text.as_bytes());
        }
        for c in text.chars() {
            if c.is_ascii() {
                write!(writer, "{c}")?;
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(writer, "\\u{unit:04x}")?;
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use minijinja::value::Serde;
    use minijinja::{Environment, Value, context};
    use serde_json::json;

    fn tojson(options: &str) -> String {
        tojson_of(json!({"b": [1, 2.5, true, null, "é<'\"\n🙂"], "a": {}, "c": []}), options)
    }

    fn tojson_of(value: serde_json::Value, options: &str) -> String {
        let mut environment = Environment::new();
        environment.add_filter("tojson", super::tojson);
        environment
            .render_str(
                &format!("{{{{ value | tojson{options} }}}}"),
                context! { value => Value::from(Serde(value)) },
            )
            .unwrap()
    }

    // Each expectation is what Python's json.dumps printed for the same value and options.
    #[test]
    fn writes_what_pythons_json_dumps_writes() {
        assert_eq!(tojson(""), r#"{"b": [1, 2.5, true, null, "é<'\"\n🙂"], "a": {}, "c": []}"#);
        assert_eq!(
            tojson("(ensure_ascii=true, sort_keys=true, separators=(',', ':'))"),
            r#"{"a":{},"b":[1,2.5,true,null,"\u00e9<'\"\n\ud83d\ude42"],"c":[]}"#
        );
        assert_eq!(
            tojson("(indent=2)"),
            "{\n  \"b\": [\n    1,\n    2.5,\n    true,\n    null,\n    \"é<'\\\"\\n🙂\"\n  ],\n  \"a\": {},\n  \"c\": []\n}"
        );
    }

    #[test]
    fn floats_are_written_as_python_writes_them() {
        let numbers = json!([0.0, -0.0, 1e-4, 9.5e-5, 1e-7, 1e15, 1e16, -2.5e22, 1e100, 0.1, 100.0]);
        let expected =
            "[0.0, -0.0, 0.0001, 9.5e-05, 1e-07, 1000000000000000.0, 1e+16, -2.5e+22, 1e+100, 0.1, 100.0]";
        assert_eq!(tojson_of(numbers, ""), expected);
    }
}
