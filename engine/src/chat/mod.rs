//! Chat templates: the Jinja program in a model's file that writes a conversation as the model was trained
//! to read it.
//!
//! The program is run by minijinja, set up as the Python package transformers sets up jinja2, which is where
//! these templates are written and tested. It comes from a file and is not trusted: it can read nothing but
//! the conversation and the date, and its steps, its depth and the length of what it writes are limited. What
//! it holds in variables on the way is not, because minijinja cannot: a malicious one can exhaust the memory.

mod json;

use std::io;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Value, context};
use serde::Serialize;

use crate::{Error, ErrorKind, Result};

/// Steps a template may take: a hundred times what a thousand messages need, and about a second.
const MAX_STEPS: u64 = 10_000_000;
/// Longest prompt that a template may write, in bytes; more than any context holds.
const MAX_PROMPT: usize = 64 << 20;

/// One message of a conversation.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, or another role that the template knows.
    pub role: String,
    /// What is said.
    pub content: String,
    /// Further fields that a template may read, such as `tool_calls`.
    #[serde(flatten)]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

impl Message {
    /// A message of plain text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into(), extra: serde_json::Map::new() }
    }
}

/// A chat template, parsed and ready to render.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

const NAME: &str = "chat";

impl ChatTemplate {
    /// Parses `source` (`tokenizer.chat_template`); `bos` and `eos` are the texts of those tokens, empty where
    /// a vocabulary has none.
    ///
    /// # Errors
    /// `Template` if the source is not a template.
    pub fn new(source: &str, bos: &str, eos: &str) -> Result<Self> {
        let mut environment = Environment::new();
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| failed("cannot be parsed", &e))?);
        environment.set_auto_escape_callback(|_| AutoEscape::None);
        environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.set_fuel(Some(MAX_STEPS));
        environment.add_filter("tojson", json::tojson);
        // Without tools, `tools` is none, which minijinja calls iterable and Python does not.
        environment.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment
            .add_template_owned(NAME, without_generation_tags(source))
            .map_err(|e| failed("cannot be parsed", &e))?;
        Ok(Self { environment, bos: bos.to_owned(), eos: eos.to_owned() })
    }

    /// Writes `messages` as a prompt. `add_generation_prompt` ends it where the assistant's answer begins.
    /// The text holds special tokens: encode it with [`Special::Parse`](crate::tokenizer::Special::Parse) and
    /// without a further BOS.
    ///
    /// # Errors
    /// `Template` if the template refuses the conversation, fails, or goes beyond its limits.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String> {
        let context = context! {
            messages => Value::from(Serde(messages)),
            add_generation_prompt,
            bos_token => self.bos.as_str(),
            eos_token => self.eos.as_str(),
            tools => (),
            documents => (),
        };
        let mut prompt = Prompt::default();
        self.environment
            .get_template(NAME)
            .and_then(|template| template.render_captured_to(context, &mut prompt).map(drop))
            .map_err(|e| failed("failed", &e))?;
        String::from_utf8(prompt.0).map_err(|e| {
            Error::new(ErrorKind::Template, format!("the chat template wrote invalid text: {e}"))
        })
    }
}

/// What a template has written, up to the limit.
#[derive(Default)]
struct Prompt(Vec<u8>);

impl io::Write for Prompt {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if bytes.len() > MAX_PROMPT - self.0.len() {
            return Err(io::Error::other(format!("the prompt is longer than {} MiB", MAX_PROMPT >> 20)));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn raise_exception(message: String) -> std::result::Result<Value, minijinja::Error> {
    Err(minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, message))
}

/// The local time, written as Python's `strftime` does.
fn strftime_now(format: &str) -> std::result::Result<String, minijinja::Error> {
    jiff::fmt::strtime::format(format, &jiff::Zoned::now())
        .map_err(|e| minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, e.to_string()))
}

/// `{% generation %}` marks, for training, what the assistant wrote; in rendering it does nothing.
fn without_generation_tags(source: &str) -> String {
    let mut source = source.to_owned();
    for (tag, instead) in [("generation", "if true"), ("endgeneration", "endif")] {
        for (open, close) in [("{%", "%}"), ("{%-", "%}"), ("{%", "-%}"), ("{%-", "-%}")] {
            source = source.replace(&format!("{open} {tag} {close}"), &format!("{open} {instead} {close}"));
        }
    }
    source
}

fn failed(how: &str, error: &minijinja::Error) -> Error {
    let line = error.line().map_or_else(String::new, |line| format!(" in line {line}"));
    let reason = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    let source = std::error::Error::source(error).map_or_else(String::new, |source| format!(": {source}"));
    Error::new(ErrorKind::Template, format!("the model's chat template {how}{line}: {reason}{source}"))
        .next("check the roles of the messages and their order, or use the model without its template")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(source: &str) -> Result<String> {
        let messages = [Message::new("user", "Hi <b> 'é'"), Message::new("assistant", "Yo")];
        ChatTemplate::new(source, "<s>", "</s>")?.render(&messages, true)
    }

    #[test]
    fn is_set_up_as_transformers_sets_up_jinja2() {
        for (source, expected) in [
            // Block tags take their line with them.
            (
                "{% for m in messages %}\n  {% if m.role == 'user' %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}",
                "Hi <b> 'é'\n",
            ),
            (
                "{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}",
                "023",
            ),
            ("{{ messages[0].role.upper() }}{{ ' x '.strip() }}{{ messages[0].get('name', '-') }}", "USERx-"),
            ("{{ messages[0]['content'].split('<')[0] }}{{ messages[1:]|length }}", "Hi 1"),
            (
                "{{ bos_token }}{{ eos_token }}{{ missing }}{{ tools is none }}{{ missing is defined }}",
                "<s></s>TrueFalse",
            ),
            (
                "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}",
                "2",
            ),
            ("{%- generation -%} a {%- endgeneration %}{% generation %}b{% endgeneration %}", "ab"),
            ("{{ tools is iterable }}{{ messages is iterable }}", "FalseTrue"),
            ("{{ messages[0].tool_calls is defined }}{{ messages[0].x }}", "False"),
        ] {
            assert_eq!(render(source).unwrap(), expected, "{source}");
        }
    }

    #[test]
    fn writes_a_conversation_for_smollm2() {
        // SmolLM2-135M-Instruct's template, and what jinja2 made of it.
        let source = "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}\
            {{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}\
            {% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}\
            {% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}";
        let expected = "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n\
            <|im_start|>user\nHi <b> 'é'<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>\n<|im_start|>assistant\n";
        assert_eq!(render(source).unwrap(), expected);
    }

    #[test]
    fn extra_fields_reach_the_template() {
        let mut message = Message::new("assistant", "");
        message.extra.insert("tool_calls".into(), serde_json::json!([{"name": "f", "arguments": {"x": 1}}]));
        let template = ChatTemplate::new("{{ messages[0].tool_calls[0] | tojson }}", "", "").unwrap();
        assert_eq!(template.render(&[message], false).unwrap(), r#"{"name": "f", "arguments": {"x": 1}}"#);
    }

    #[test]
    fn the_date_is_written_as_asked() {
        let year = render("{{ strftime_now('%Y') }}").unwrap();
        assert!(year.len() == 4 && year.parse::<u32>().unwrap() >= 2024, "{year}");
        assert!(render("{{ strftime_now('%') }}").is_err());
    }

    #[test]
    fn a_refusal_and_a_fault_are_told_with_their_line() {
        let refusal = render("\n{{ raise_exception('Roles must alternate') }}").unwrap_err();
        assert_eq!(refusal.kind(), ErrorKind::Template);
        let text = refusal.to_string();
        assert!(text.contains("line 2: Roles must alternate"), "{text}");
        for source in [
            "{% if %}",
            "{{ missing.field }}",
            "{{ 1 | nofilter }}",
            "{{ nofunction() }}",
            "{% include 'x' %}",
        ] {
            assert_eq!(render(source).unwrap_err().kind(), ErrorKind::Template, "{source}");
        }
    }

    #[test]
    fn a_hostile_template_ends_in_an_error() {
        let deep = format!("{{{{ {}1{} }}}}", "(".repeat(100_000), ")".repeat(100_000));
        let wide = "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}";
        let long = "{% set s = 'x' * 100000 %}{% for a in range(99999) %}{{ s }}{% endfor %}";
        let endless = "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}";
        for source in [&deep, wide, long, endless] {
            let error = render(source).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Template, "{:.60}", source);
        }
    }
}
