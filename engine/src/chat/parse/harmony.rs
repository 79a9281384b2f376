//! The channels of gpt-oss: `<|channel|>analysis<|message|>...<|end|><|start|>assistant<|channel|>final<|message|>...`.
//!
//! `analysis` is reasoning, `final` and what `commentary` says to nobody is content, and what is written to
//! `functions.NAME` calls that tool.

use serde_json::Value;

use super::{Event, ToolCall, tell, undecided};

const MESSAGE: &str = "<|message|>";
/// What ends a message.
const ENDS: [&str; 4] = ["<|end|>", "<|call|>", "<|return|>", "<|start|>"];

#[derive(Debug, Default)]
pub(super) struct Harmony {
    buffer: String,
    place: Place,
}

#[derive(Debug, Default)]
enum Place {
    /// Before a message: who it is to and in which channel.
    #[default]
    Header,
    Text {
        reasoning: bool,
    },
    /// Inside the arguments of a call, after this header.
    Call {
        header: String,
    },
}

impl Harmony {
    pub(super) fn push(&mut self, text: &str, events: &mut Vec<Event>) {
        self.buffer.push_str(text);
        while self.step(events) {}
    }

    fn step(&mut self, events: &mut Vec<Event>) -> bool {
        match &self.place {
            Place::Header => {
                let begun = self.begins_as_header();
                let Some(at) = self.buffer.find(MESSAGE).filter(|_| begun) else {
                    if !begun {
                        self.place = Place::Text { reasoning: false };
                    }
                    return !begun;
                };
                let header: String = self.buffer.drain(..at + MESSAGE.len()).collect();
                self.place = match recipient(&header) {
                    Some(_) => Place::Call { header },
                    None => Place::Text { reasoning: header.contains("<|channel|>analysis") },
                };
                true
            }
            Place::Text { reasoning } => {
                let Some((at, end)) = self.end() else {
                    let certain = self.buffer.len() - undecided(&self.buffer, ENDS.into_iter());
                    let text: String = self.buffer.drain(..certain).collect();
                    tell(events, *reasoning, &text);
                    return false;
                };
                let text: String = self.buffer.drain(..at).collect();
                tell(events, *reasoning, &text);
                self.ended(end);
                true
            }
            Place::Call { header } => {
                let Some((at, end)) = self.end() else { return false };
                let arguments: String = self.buffer.drain(..at).collect();
                call(header, &arguments, events);
                self.ended(end);
                true
            }
        }
    }

    /// The end of the message in the buffer: where it is, and its length.
    fn end(&self) -> Option<(usize, usize)> {
        ENDS.iter().filter_map(|end| Some((self.buffer.find(end)?, end.len()))).min()
    }

    fn ended(&mut self, len: usize) {
        self.buffer.drain(..len);
        self.place = Place::Header;
    }

    /// Whether the buffer may begin a header; a model that forgets about channels writes its answer there.
    fn begins_as_header(&self) -> bool {
        const BEGINS: [&str; 4] = ["<|channel|>", "<|start|>", "assistant", "to="];
        let text = self.buffer.trim_start();
        BEGINS.iter().any(|begin| begin.starts_with(text) || text.starts_with(begin))
    }

    pub(super) fn finish(mut self, events: &mut Vec<Event>) {
        let rest = std::mem::take(&mut self.buffer);
        match self.place {
            Place::Header => tell(events, false, if rest.trim().is_empty() { "" } else { &rest }),
            Place::Text { reasoning } => tell(events, reasoning, &rest),
            Place::Call { header } => call(&header, &rest, events),
        }
    }
}

/// The tool that a header is to.
fn recipient(header: &str) -> Option<&str> {
    let name = header.split_once("to=")?.1;
    let end = name.find(|c: char| c.is_whitespace() || c == '<').unwrap_or(name.len());
    let name = name[..end].strip_prefix("functions.").unwrap_or(&name[..end]);
    (!name.is_empty()).then_some(name)
}

fn call(header: &str, arguments: &str, events: &mut Vec<Event>) {
    let parsed = if arguments.trim().is_empty() {
        Some(Value::Object(Default::default()))
    } else {
        serde_json::from_str(arguments).ok()
    };
    match (recipient(header), parsed) {
        (Some(name), Some(Value::Object(arguments))) => {
            events.push(Event::ToolCall(ToolCall { name: name.to_owned(), arguments, id: None }));
        }
        _ => tell(events, false, &format!("{header}{arguments}")),
    }
}
