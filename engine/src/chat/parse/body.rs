//! What stands between the marks of tool calls.

use serde_json::{Map, Value};

use super::ToolCall;
use super::formats::Block;
use super::literal;

/// How calls are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Body {
    /// `{"name": ..., "arguments": {...}}`, or a list of such objects.
    Json,
    /// JSON, `<function=NAME><parameter=NAME>VALUE</parameter></function>` (Qwen3-Coder), or
    /// `NAME<arg_key>NAME</arg_key><arg_value>VALUE</arg_value>` (GLM).
    Tagged,
    /// `NAME>{...}`: the arguments alone are JSON; or parameters as in `Tagged`.
    Function,
    /// A list of JSON calls, or `NAME[ARGS]{...}`, with `[CALL_ID]ID` before the arguments.
    Mistral,
    /// JSON, `TOOL.call(NAME="VALUE")`, or a program, which is a call of the tool `python`.
    PythonTag,
    /// `NAME(NAME=VALUE, ...)`, or a list of such calls.
    Python,
    /// `call:NAME{NAME:VALUE, ...}` with texts between marks of this kind.
    Gemma(&'static str),
    /// Each call between marks of its own, `function<sep>NAME` and a block of JSON, or `NAME<sep>{...}`.
    DeepSeek,
    /// Each call between marks of its own, `functions.NAME:INDEX<mark>{...}`.
    Kimi,
    /// `<invoke name="NAME"><parameter name="NAME">VALUE</parameter></invoke>`.
    Invoke,
}

/// What the text after a mark turned out to be.
pub(super) enum Progress {
    /// More text is needed to tell.
    Incomplete,
    /// Calls, and the length of their text.
    Calls(Vec<ToolCall>, usize),
    /// No calls.
    None,
}

impl Block {
    /// Reads calls at the beginning of `text`. What is said of a text is said of any longer one that begins with it, but
    /// for `Incomplete`.
    pub(super) fn read(&self, text: &str, tools: &Tools) -> Progress {
        match self.body {
            Body::Json => self.json(text),
            Body::Tagged if first(text).is_none() => Progress::Incomplete,
            Body::Tagged if first(text) == Some('{') => self.json(text),
            Body::Mistral => mistral(text),
            Body::PythonTag if first(text) == Some('{') => self.json(text),
            Body::PythonTag => Progress::Incomplete, // a program ends with the answer
            Body::Function => self.function(text, tools),
            _ => match text.find(self.close) {
                None => Progress::Incomplete,
                Some(len) => self.calls(&text[..len], len + self.close.len(), tools),
            },
        }
    }

    /// The same where nothing follows `text`: marks at the end may be missing.
    pub(super) fn read_last(&self, text: &str, tools: &Tools) -> Progress {
        match self.body {
            Body::Json | Body::Tagged if matches!(first(text), Some('{' | '[')) => match json_value(text) {
                Json::Value(value, len)
                    if text[len..].trim().is_empty() || self.close.starts_with(text[len..].trim()) =>
                {
                    json_calls(value).map_or(Progress::None, |calls| Progress::Calls(calls, text.len()))
                }
                _ => Progress::None,
            },
            Body::Mistral => Progress::None,
            Body::PythonTag => match python_tag(text) {
                Some(call) => Progress::Calls(vec![call], text.len()),
                None => Progress::None,
            },
            Body::Json | Body::Function => Progress::None,
            _ => self.calls(text, text.len(), tools),
        }
    }

    fn calls(&self, body: &str, len: usize, tools: &Tools) -> Progress {
        let calls = match self.body {
            Body::Tagged => tagged(body.trim(), tools).map(|call| vec![call]),
            Body::Python => literal::python_calls(body),
            Body::Gemma(quote) => literal::gemma_call(body, quote).map(|call| vec![call]),
            Body::DeepSeek => deepseek(body),
            Body::Kimi => kimi(body),
            Body::Invoke => invoke(body, tools),
            Body::Json | Body::Function | Body::Mistral | Body::PythonTag => None,
        };
        calls.filter(|calls| !calls.is_empty()).map_or(Progress::None, |calls| Progress::Calls(calls, len))
    }

    /// JSON and the mark after it.
    fn json(&self, text: &str) -> Progress {
        let (value, len) = match json_value(text) {
            Json::Value(value, len) => (value, len),
            Json::Incomplete => return Progress::Incomplete,
            Json::None => return Progress::None,
        };
        let Some(calls) = json_calls(value) else { return Progress::None };
        let rest = &text[len..];
        let space = rest.len() - rest.trim_start().len();
        match (self.close, rest.trim_start()) {
            ("", _) => Progress::Calls(calls, len),
            (close, rest) if rest.starts_with(close) => Progress::Calls(calls, len + space + close.len()),
            (close, rest) if close.starts_with(rest) => Progress::Incomplete,
            _ => Progress::None,
        }
    }

    /// `NAME>` with arguments in JSON, or in tags.
    fn function(&self, text: &str, tools: &Tools) -> Progress {
        let Some(name_end) = text.find('>') else { return Progress::Incomplete };
        let (name, body) = (&text[..name_end], &text[name_end + 1..]);
        if first(body) != Some('{') {
            let Some(len) = body.find(self.close) else { return Progress::Incomplete };
            let call = parameters(&body[..len]).map(|given| ToolCall {
                arguments: typed(name, given, tools),
                name: name.to_owned(),
                id: None,
            });
            let len = name_end + 1 + len + self.close.len();
            return call.map_or(Progress::None, |call| Progress::Calls(vec![call], len));
        }
        let (arguments, len) = match json_value(body) {
            Json::Value(Value::Object(arguments), len) => (arguments, len),
            Json::Incomplete => return Progress::Incomplete,
            _ => return Progress::None,
        };
        let rest = body[len..].trim_start();
        if rest.starts_with(self.close) {
            let call = ToolCall { name: name.to_owned(), arguments, id: None };
            return Progress::Calls(vec![call], text.len() - rest.len() + self.close.len());
        }
        if self.close.starts_with(rest) { Progress::Incomplete } else { Progress::None }
    }
}

fn first(text: &str) -> Option<char> {
    text.trim_start().chars().next()
}

enum Json {
    Incomplete,
    None,
    Value(Value, usize),
}

/// The object or list at the beginning of `text`.
fn json_value(text: &str) -> Json {
    match first(text) {
        None => return Json::Incomplete,
        Some('{' | '[') => {}
        Some(_) => return Json::None,
    }
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    match values.next() {
        Some(Ok(value)) => Json::Value(value, values.byte_offset()),
        Some(Err(error)) if error.is_eof() => Json::Incomplete,
        _ => Json::None,
    }
}

/// The call, or list of calls, that `value` is.
fn json_calls(value: Value) -> Option<Vec<ToolCall>> {
    let values = match value {
        Value::Array(values) if !values.is_empty() => values,
        Value::Array(_) => return None,
        value => vec![value],
    };
    values.into_iter().map(json_call).collect()
}

fn json_call(value: Value) -> Option<ToolCall> {
    let Value::Object(mut fields) = value else { return None };
    if let Some(inner @ Value::Object(_)) = fields.get("function") {
        fields = inner.as_object()?.clone();
    }
    let mut take = |names: &[&str]| names.iter().find_map(|name| fields.remove(*name));
    let name = take(&["name", "tool_name", "function"])?.as_str()?.to_owned();
    let id = take(&["id", "tool_call_id"]).and_then(|id| id.as_str().map(str::to_owned));
    let arguments = match take(&["arguments", "parameters", "args"])? {
        Value::Object(arguments) => arguments,
        Value::Null => Map::new(),
        Value::String(text) => serde_json::from_str(&text).ok()?,
        _ => return None,
    };
    Some(ToolCall { name, arguments, id })
}

/// The types of the tools' parameters.
#[derive(Debug, Default)]
pub(super) struct Tools {
    /// Tool and parameter, of those that are texts, and of all that are known.
    texts: Vec<(String, String)>,
    known: Vec<(String, String)>,
}

impl Tools {
    pub(super) fn new(tools: &[Value]) -> Self {
        let mut result = Self::default();
        for tool in tools {
            let function = tool.get("function").unwrap_or(tool);
            let name = function.get("name").and_then(Value::as_str).unwrap_or_default();
            let Some(properties) = function.pointer("/parameters/properties").and_then(Value::as_object)
            else {
                continue;
            };
            for (parameter, schema) in properties {
                let key = (name.to_owned(), parameter.clone());
                if schema.get("type").is_some_and(|ty| ty == "string") {
                    result.texts.push(key.clone());
                }
                result.known.push(key);
            }
        }
        result
    }

    /// The value that `text` stands for: itself for a parameter that is a text, else JSON where it is that. Of a
    /// parameter that is not known, only lists and objects are taken for JSON: anything else may be a text.
    fn value(&self, tool: &str, parameter: &str, text: &str) -> Value {
        let is = |keys: &[(String, String)]| keys.iter().any(|(t, p)| t == tool && p == parameter);
        let as_text = || Value::String(text.to_owned());
        if is(&self.texts) {
            return as_text();
        }
        match serde_json::from_str(text) {
            Ok(value @ (Value::Array(_) | Value::Object(_))) => value,
            Ok(value) if is(&self.known) => value,
            _ => as_text(),
        }
    }
}

fn typed(tool: &str, given: Vec<(&str, &str)>, tools: &Tools) -> Map<String, Value> {
    given.into_iter().map(|(name, text)| (name.to_owned(), tools.value(tool, name, text))).collect()
}

/// Tags in the manner of Qwen3-Coder or GLM.
fn tagged(body: &str, tools: &Tools) -> Option<ToolCall> {
    let (name, given) = match body.strip_prefix("<function=") {
        Some(rest) => {
            let (name, rest) = rest.split_once('>')?;
            (name.trim(), parameters(rest.trim_end().strip_suffix("</function>").unwrap_or(rest))?)
        }
        None => {
            let end = body.find("<arg_key>").unwrap_or(body.len());
            (body[..end].trim(), pairs(&body[end..])?)
        }
    };
    let valid = |c: char| c.is_alphanumeric() || "_-.:/".contains(c);
    if name.is_empty() || !name.chars().all(valid) {
        return None;
    }
    Some(ToolCall { name: name.to_owned(), arguments: typed(name, given, tools), id: None })
}

/// The text between `open` and `close` at the beginning of `text`, and what follows.
fn between<'t>(text: &'t str, open: &str, close: &str) -> Option<(&'t str, &'t str)> {
    text.trim_start().strip_prefix(open)?.split_once(close)
}

/// A value on lines of its own, without these lines' ends.
fn unwrapped(value: &str) -> &str {
    let value = value.strip_prefix('\n').unwrap_or(value);
    value.strip_suffix('\n').unwrap_or(value)
}

/// `<parameter=NAME>VALUE</parameter>`, again and again.
fn parameters(mut text: &str) -> Option<Vec<(&str, &str)>> {
    let mut given = Vec::new();
    while !text.trim().is_empty() {
        let (parameter, rest) = between(text, "<parameter=", "</parameter>")?;
        let (name, value) = parameter.split_once('>')?;
        given.push((name, unwrapped(value)));
        text = rest;
    }
    Some(given)
}

/// `<arg_key>NAME</arg_key><arg_value>VALUE</arg_value>`, again and again.
fn pairs(mut text: &str) -> Option<Vec<(&str, &str)>> {
    let mut given = Vec::new();
    while !text.trim().is_empty() {
        let (name, rest) = between(text, "<arg_key>", "</arg_key>")?;
        let (value, rest) = between(rest, "<arg_value>", "</arg_value>")?;
        given.push((name.trim(), value));
        text = rest;
    }
    Some(given)
}

fn mistral(text: &str) -> Progress {
    match first(text) {
        None => return Progress::Incomplete,
        Some('[' | '{') => {
            return match json_value(text) {
                Json::Value(value, len) => {
                    json_calls(value).map_or(Progress::None, |calls| Progress::Calls(calls, len))
                }
                Json::Incomplete => Progress::Incomplete,
                Json::None => Progress::None,
            };
        }
        Some(_) => {}
    }
    let Some(at) = text.find('{') else { return Progress::Incomplete };
    let (head, body) = text.split_at(at);
    let (head, id) = match head.strip_suffix("[ARGS]").unwrap_or(head).split_once("[CALL_ID]") {
        Some((name, id)) => (name, Some(id.to_owned())),
        None => (head.strip_suffix("[ARGS]").unwrap_or(head), None),
    };
    let name = head.trim();
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == '[') {
        return Progress::None;
    }
    match json_value(body) {
        Json::Value(Value::Object(arguments), len) => {
            Progress::Calls(vec![ToolCall { name: name.to_owned(), arguments, id }], at + len)
        }
        Json::Incomplete => Progress::Incomplete,
        _ => Progress::None,
    }
}

/// `TOOL.call(NAME=VALUE)`, which Llama writes for tools that it knows, or a program.
fn python_tag(text: &str) -> Option<ToolCall> {
    let text = text.trim();
    if text.is_empty() || text.starts_with('{') {
        return None;
    }
    if let Some([call]) = literal::python_calls(text).as_deref()
        && let Some(tool) = call.name.strip_suffix(".call")
    {
        return Some(ToolCall { name: tool.to_owned(), ..call.clone() });
    }
    let arguments = Map::from_iter([("code".to_owned(), text.into())]);
    Some(ToolCall { name: "python".into(), arguments, id: None })
}

fn deepseek(body: &str) -> Option<Vec<ToolCall>> {
    let mut calls = Vec::new();
    let mut rest = body;
    while !rest.trim().is_empty() {
        let (call, after) = between(rest, "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>")
            .or_else(|| Some((rest.trim_start().strip_prefix("<｜tool▁call▁begin｜>")?, "")))?;
        let (before, after_mark) = call.split_once("<｜tool▁sep｜>")?;
        let (name, arguments) = match (before.trim(), after_mark.split_once("```json")) {
            ("function", Some((name, json))) => (name, json.split_once("```").map_or(json, |(json, _)| json)),
            _ => (before, after_mark),
        };
        let arguments = serde_json::from_str(arguments).ok()?;
        calls.push(ToolCall { name: name.trim().to_owned(), arguments, id: None });
        rest = after;
    }
    Some(calls)
}

fn kimi(body: &str) -> Option<Vec<ToolCall>> {
    let mut calls = Vec::new();
    let mut rest = body;
    while !rest.trim().is_empty() {
        let (call, after) = between(rest, "<|tool_call_begin|>", "<|tool_call_end|>")?;
        let (id, arguments) = call.split_once("<|tool_call_argument_begin|>")?;
        let id = id.trim();
        let name = id.rsplit_once(':').map_or(id, |(name, _)| name);
        let name = name.strip_prefix("functions.").unwrap_or(name).to_owned();
        calls.push(ToolCall {
            name,
            arguments: serde_json::from_str(arguments).ok()?,
            id: Some(id.to_owned()),
        });
        rest = after;
    }
    Some(calls)
}

fn invoke(body: &str, tools: &Tools) -> Option<Vec<ToolCall>> {
    let mut calls = Vec::new();
    let mut rest = body;
    while !rest.trim().is_empty() {
        let (call, after) = between(rest, "<invoke name=\"", "</invoke>")?;
        let (name, mut parameters) = call.split_once("\">")?;
        let mut given = Vec::new();
        while !parameters.trim().is_empty() {
            let (parameter, after) = between(parameters, "<parameter name=\"", "</parameter>")?;
            given.push(parameter.split_once("\">")?);
            parameters = after;
        }
        calls.push(ToolCall { name: name.to_owned(), arguments: typed(name, given, tools), id: None });
        rest = after;
    }
    Some(calls)
}
