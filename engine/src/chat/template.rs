//! Chat templates: the Jinja program in a model's file that writes a conversation as the model was trained to read it.
//!
//! The program is run by minijinja, set up as the Python package transformers sets up jinja2, which is where
//! these templates are written and tested. It comes from a file and is not trusted: it can read nothing but
//! the conversation and the date, and its steps, its depth, its time, its memory and the length of what it writes
//! are limited.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{AutoEscape, Environment, Value};
use serde_json::json;

use super::marks::Marker;
use super::{Conversation, Message, Prompt, json, limits, pulses, python};
use crate::{Error, ErrorKind, Result};

/// Steps a template may take: a hundred times what a thousand messages need, and about a second.
const MAX_STEPS: u64 = 10_000_000;
/// Longest prompt that a template may write, in bytes; more than any context holds.
const MAX_PROMPT: usize = 64 << 20;
/// The names under which reasoning is passed; templates read one or the other.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// A chat template, parsed and ready to render.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Arc<Environment<'static>>,
    source: String,
    built_in: Option<&'static str>,
    bos: String,
    eos: String,
    marker: Marker,
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
        environment.set_fuel(Some(MAX_STEPS));
        environment.add_filter("tojson", json::tojson);
        environment.add_function("raise_exception", raise_exception);
        python::set_up(&mut environment);
        pulses::set_up(&mut environment);
        let program = pulses::with_pulses(&without_generation_tags(source));
        let parse = move || environment.add_template_owned(NAME, program).map(|()| environment);
        let environment = within_limits("cannot be parsed", parse)?;
        let template = Self {
            environment: Arc::new(environment),
            source: source.to_owned(),
            built_in: None,
            bos: bos.to_owned(),
            eos: eos.to_owned(),
            marker: Marker::default(),
        };
        Ok(template.at(None))
    }

    /// The same for a vocabulary whose control tokens have these texts: what people and tools write is not read as one
    /// of them ([`Prompt::segments`]).
    ///
    /// # Errors
    /// `Malformed` if they are too many to be searched for.
    pub fn with_control_tokens<'a>(mut self, texts: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        self.marker = Marker::new(texts)?;
        Ok(self)
    }

    /// The same at a fixed time, in the local time zone; `None`: whenever it is rendered.
    #[must_use]
    pub fn at(mut self, now: Option<SystemTime>) -> Self {
        let environment = Arc::make_mut(&mut self.environment);
        environment.add_function("strftime_now", move |format: &str| strftime(format, now));
        self
    }

    /// The same, as one of braise's own templates, with this name.
    pub(crate) fn built_in_as(mut self, name: &'static str) -> Self {
        self.built_in = Some(name);
        self
    }

    /// The name of the format, if the template is not the file's but one of braise's own.
    pub fn built_in(&self) -> Option<&'static str> {
        self.built_in
    }

    /// The program's source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Writes `conversation` as a prompt.
    ///
    /// # Errors
    /// `Template` if the template refuses the conversation, fails, or goes beyond its limits.
    pub fn render(&self, conversation: &Conversation) -> Result<Prompt> {
        let Conversation { messages, tools, documents, add_generation_prompt, variables } = conversation;
        let fields = json!({
            "messages": messages.iter().map(with_reasoning).collect::<Vec<_>>(),
            "tools": tools,
            "documents": documents,
        });
        let serde_json::Value::Object(mut fields) = self.marker.value(&fields) else {
            unreachable!("is an object")
        };
        fields.insert("add_generation_prompt".into(), (*add_generation_prompt).into());
        fields.insert("bos_token".into(), self.bos.as_str().into());
        fields.insert("eos_token".into(), self.eos.as_str().into());
        for (name, value) in variables {
            fields.insert(name.clone(), self.marker.value(value));
        }
        let environment = Arc::clone(&self.environment);
        let written = within_limits("failed", move || {
            let mut written = Written::default();
            let template = environment.get_template(NAME)?;
            template.render_captured_to(Value::from(Serde(&fields)), &mut written)?;
            Ok(written)
        })?;
        let text = String::from_utf8(written.0).map_err(|e| {
            Error::new(ErrorKind::Template, format!("the chat template wrote invalid text: {e}"))
        })?;
        Ok(Prompt::new(&text))
    }
}

/// The fields of `message`, with its reasoning under each name that templates read.
fn with_reasoning(message: &Message) -> serde_json::Value {
    let mut fields = serde_json::Map::new();
    let reasoning =
        REASONING.iter().filter_map(|name| message.extra.get(*name)).find(|value| !value.is_null());
    fields.insert("role".into(), message.role.as_str().into());
    fields.extend(message.content.clone().map(|content| ("content".into(), content)));
    fields.extend(message.extra.clone());
    if let Some(reasoning) = reasoning {
        fields.insert("reasoning_content".into(), reasoning.clone());
        fields.entry("thinking").or_insert_with(|| reasoning.clone());
    }
    fields.into()
}

/// What a template has written, up to the limit.
#[derive(Default)]
struct Written(Vec<u8>);

impl io::Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if limits::is_given_up() {
            return Err(io::Error::other("nobody waits any more"));
        }
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

/// The local time at `now`, written as Python's `strftime` does.
fn strftime(format: &str, now: Option<SystemTime>) -> std::result::Result<String, minijinja::Error> {
    let failed =
        |e: jiff::Error| minijinja::Error::new(minijinja::ErrorKind::InvalidOperation, e.to_string());
    let now = jiff::Zoned::try_from(now.unwrap_or_else(SystemTime::now)).map_err(failed)?;
    jiff::fmt::strtime::format(format, &now).map_err(failed)
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

/// What `work` gives; `how` says what it means if it fails.
fn within_limits<T: Send + 'static>(
    how: &str,
    work: impl FnOnce() -> std::result::Result<T, minijinja::Error> + Send + 'static,
) -> Result<T> {
    let result = limits::run_within(work).map_err(|why| {
        let what = format!("the model's chat template went beyond its limits: {why}");
        Error::new(ErrorKind::Template, what)
            .next("the file may be malicious: use the model without its template, or another file")
    })?;
    result.map_err(|e| failed(how, &e))
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
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    fn render(source: &str) -> Result<String> {
        let messages = vec![Message::new("user", "Hi <b> 'é'"), Message::new("assistant", "Yo")];
        let prompt = ChatTemplate::new(source, "<s>", "</s>")?.render(&Conversation::new(messages))?;
        Ok(prompt.text().to_owned())
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
        let calls = json!([{"name": "f", "arguments": {"x": 1}}]);
        let message = Message::new("assistant", "").with("tool_calls", calls);
        let template = ChatTemplate::new("{{ messages[0].tool_calls[0] | tojson }}", "", "").unwrap();
        let prompt = template.render(&Conversation::new(vec![message])).unwrap();
        assert_eq!(prompt.text(), r#"{"name": "f", "arguments": {"x": 1}}"#);
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

    #[test]
    fn a_template_that_is_given_up_ends() {
        for body in ["{% set t = s ~ s %}", "{% if 'y' in s %}{% endif %}", "{{ s }}"] {
            let source = format!(
                "{{% set s = 'x' * 1000000 %}}{{% for a in range(99999) %}}{{% for b in range(99999) %}}{body}{{% endfor %}}\
                 {{% endfor %}}"
            );
            let environment = ChatTemplate::new(&source, "", "").unwrap().environment;
            let (ended, end) = mpsc::channel();
            let work = move || {
                let rendered =
                    environment.get_template(NAME).unwrap().render_captured_to((), &mut io::sink());
                ended.send(rendered.is_err()).expect("the test waits");
            };
            assert!(limits::run(work, Duration::from_millis(50), 1 << 30).is_err(), "{body}");
            // its steps would last for an hour
            assert_eq!(end.recv_timeout(Duration::from_secs(60)), Ok(true), "{body}");
        }
    }
}
