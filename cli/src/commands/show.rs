//! `braise show`: what a model is for a user: its size, and how it is talked to.

use std::path::Path;

use anyhow::{Result, anyhow};
use braise_engine::chat::parse::OutputFormat;
use braise_engine::chat::{ChatTemplate, Conversation, Message, Prompt};
use braise_engine::gguf::Gguf;
use braise_engine::tokenizer::Tokenizer;
use clap::Args;
use indicatif::DecimalBytes;
use serde::Serialize;
use serde_json::{Value, json};

use crate::models::resolve;
use crate::output::{Format, markdown, notice, print, print_json};

/// Show what a model is, and how a conversation is written for it
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  braise show smollm2:135m
  braise show smollm2:135m --template")]
pub struct ShowArgs {
    /// Name of a model, or path of a .gguf file; one that holds a vocabulary alone will do
    model: String,

    /// Print a sample conversation as the model reads it, with tools and reasoning where it knows them
    #[arg(long)]
    template: bool,

    /// Form of the report
    #[arg(long, value_enum, default_value_t = Format::Md, value_name = "FORM", conflicts_with = "template")]
    output: Format,
}

/// A model.
#[derive(Debug, Serialize)]
struct Shown {
    path: String,
    bytes: u64,
    name: Option<String>,
    architecture: Option<String>,
    context_length: Option<u64>,
    vocabulary: usize,
    /// `file`, the name of one of braise's own, or nothing.
    chat_template: Option<String>,
    /// How the model writes tool calls.
    tool_calls: Option<&'static str>,
}

/// Does what was asked for.
pub fn run(args: &ShowArgs) -> Result<()> {
    let path = resolve(Some(&args.model))?;
    let gguf = Gguf::open(&path)?;
    let tokenizer = Tokenizer::of(&gguf)?;
    let template = tokenizer.chat_template(&gguf)?;
    if args.template {
        let template = template.ok_or_else(|| {
            let path = path.display();
            anyhow!("{path}: the file has no chat template; use the model with `braise run --raw`")
        })?;
        let (prompt, without) = sample(&template)?;
        if !without.is_empty() {
            notice(format!("note: the template takes no {}", without.join(" and no ")));
        }
        let tokens = tokenizer.encode_chat_segments(&prompt.segments()).len();
        notice(format!("note: {tokens} tokens"));
        return print(prompt.text());
    }
    let shown = shown(&path, &gguf, &tokenizer, template.as_ref())?;
    match args.output {
        Format::Json => print_json(&shown),
        Format::Md => print(&table(&shown)),
    }
}

fn shown(path: &Path, gguf: &Gguf, tokenizer: &Tokenizer, template: Option<&ChatTemplate>) -> Result<Shown> {
    let metadata = gguf.metadata();
    let architecture = metadata.str("general.architecture")?.map(str::to_owned);
    let key = format!("{}.context_length", architecture.as_deref().unwrap_or_default());
    Ok(Shown {
        path: path.display().to_string(),
        bytes: gguf.bytes(),
        name: metadata.str("general.name")?.map(str::to_owned),
        context_length: metadata.u32(&key)?.map(u64::from),
        architecture,
        vocabulary: tokenizer.n_tokens(),
        chat_template: template.map(|template| template.built_in().unwrap_or("file").to_owned()),
        tool_calls: template.map(|template| OutputFormat::of(template.source()).name()),
    })
}

fn table(shown: &Shown) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".into());
    let template = match shown.chat_template.as_deref() {
        Some("file") => "in the file".to_owned(),
        Some(name) => format!("none in the file; that of {name} is used"),
        None => "none".to_owned(),
    };
    let rows = [
        ("name", text(&shown.name)),
        ("architecture", text(&shown.architecture)),
        ("context", shown.context_length.map_or("unknown".into(), |n| format!("{n} tokens"))),
        ("vocabulary", format!("{} tokens", shown.vocabulary)),
        ("chat template", template),
        ("tool calls as of", shown.tool_calls.unwrap_or("-").to_owned()),
        ("size", DecimalBytes(shown.bytes).to_string()),
    ];
    markdown(&[&shown.path, ""], &[], rows.map(|(name, value)| vec![name.to_owned(), value]))
}

/// A conversation with everything that `template` takes, as it writes it; and what it does not take.
fn sample(template: &ChatTemplate) -> braise_engine::Result<(Prompt, Vec<&'static str>)> {
    let plain = template.render(&conversation(false, false))?;
    let tried = [(true, true, vec![]), (false, true, vec!["system message"]), (true, false, vec!["tools"])];
    for (system, tools, without) in tried {
        if let Ok(prompt) = template.render(&conversation(system, tools)) {
            return Ok((prompt, without));
        }
    }
    Ok((plain, vec!["system message", "tools"]))
}

fn conversation(system: bool, tools: bool) -> Conversation {
    let ask = Message::new("user", "What is the weather in Zürich?");
    let call = json!([{"id": "call00001", "type": "function",
        "function": {"name": "get_weather", "arguments": {"city": "Zürich"}}}]);
    let reasoning = "I have to look it up.";
    let mut messages = Vec::new();
    messages.extend(system.then(|| Message::new("system", "Be brief.")));
    messages.push(ask);
    if tools {
        let looks =
            Message::new("assistant", "").with("reasoning_content", reasoning).with("tool_calls", call);
        let result = Message::new("tool", "{\"sky\": \"sunny\"}").with("tool_call_id", "call00001");
        messages.extend([looks, result.with("name", "get_weather")]);
    }
    messages.extend([Message::new("assistant", "It is sunny."), Message::new("user", "Thank you!")]);
    let tools = tools.then(|| vec![weather()]);
    Conversation { tools, ..Conversation::new(messages) }
}

fn weather() -> Value {
    let city = json!({"type": "string", "description": "The city's name"});
    json!({"type": "function", "function": {"name": "get_weather", "description": "The weather in a city",
        "parameters": {"type": "object", "properties": {"city": city}, "required": ["city"]}}})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sampled(source: &str) -> (String, Vec<&'static str>) {
        let (prompt, without) =
            sample(&ChatTemplate::new(source, "", "").expect("is a template")).expect("is taken");
        (prompt.text().to_owned(), without)
    }

    #[test]
    fn a_sample_has_what_the_template_takes() {
        let all = "{{ (tools or [])|length }}{% for m in messages %}{{ m.role[0] }}{% endfor %}{{ messages[2].reasoning_content }}";
        assert_eq!(sampled(all), ("1suatauI have to look it up.".into(), vec![]));
        let no_system = "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ messages|length }}";
        assert_eq!(sampled(no_system), ("5".into(), vec!["system message"]));
        let no_tools = "{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no') }}{% endif %}{% endfor %}x";
        assert_eq!(sampled(no_tools), ("x".into(), vec!["tools"]));
        let plain =
            "{% if messages|length != 3 %}{{ raise_exception('no') }}{% endif %}{{ messages[0].content }}";
        assert_eq!(
            sampled(plain),
            ("What is the weather in Zürich?".into(), vec!["system message", "tools"])
        );
        let none = ChatTemplate::new("{{ raise_exception('never') }}", "", "").expect("is a template");
        assert!(sample(&none).is_err());
    }
}
