//! Chat: a conversation becomes the prompt that a model was trained to read, and what the model writes becomes
//! content, reasoning and tool calls again.
//!
//! [`ChatTemplate`] runs the Jinja program in a model's file, or one of `builtin` where the file has none (`json` and
//! `python` hold what such programs expect of Python). `limits` and `pulses` keep such a
//! program from taking the machine. `marks` keeps what people write from being read as control tokens.
//! [`parse`] takes the answer apart.

mod builtin;
mod json;
mod limits;
mod marks;
pub mod parse;
mod pulses;
mod python;
mod template;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

pub(crate) use builtin::built_in;
pub use marks::Prompt;
pub use template::ChatTemplate;

/// One message of a conversation, with the fields that OpenAI's API gave it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, `tool`, or another role that the template knows.
    pub role: String,
    /// What is said: a text, a list of parts such as `{"type": "text", "text": ...}`, or null. Some templates tell a
    /// message without this field from one that has null in it.
    #[serde(default, skip_serializing_if = "Option::is_none", deserialize_with = "present")]
    pub content: Option<Value>,
    /// Further fields that a template may read: `tool_calls`, `tool_call_id`, `name`, `reasoning_content` and others.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A field that is there, also when it is null.
fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl Message {
    /// A message of plain text.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: Some(Value::String(content.into())), extra: Map::new() }
    }

    /// The same with a further field.
    #[must_use]
    pub fn with(mut self, field: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(field.to_owned(), value.into());
        self
    }
}

/// What a template writes down.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Conversation {
    /// The messages, oldest first.
    pub messages: Vec<Message>,
    /// The tools that the model may call, as OpenAI's API describes them: `{"type": "function", "function": {"name":
    /// ..., "description": ..., "parameters": JSON schema}}`.
    #[serde(default)]
    pub tools: Option<Vec<Value>>,
    /// Texts to answer from, each with a `title` and a `text`.
    #[serde(default)]
    pub documents: Option<Vec<Value>>,
    /// Whether the prompt ends where the assistant's answer begins.
    #[serde(default)]
    pub add_generation_prompt: bool,
    /// Further variables of the template, such as `enable_thinking` or `reasoning_effort`.
    #[serde(default)]
    pub variables: Map<String, Value>,
}

impl Conversation {
    /// `messages` that the assistant is to answer.
    pub fn new(messages: Vec<Message>) -> Self {
        Self { messages, add_generation_prompt: true, ..Self::default() }
    }
}
