//! What a model writes becomes content, reasoning and tool calls again.
//!
//! Models write tool calls in formats of their own ([`OutputFormat`] is known by the chat template), and all of them come
//! out of [`OutputParser`] as the same events. The parser takes the text in whatever pieces it comes; content and
//! reasoning go on as soon as they are certain. A tool call is told when it is complete, because what looks like one may
//! turn out not to be: then it is content, and no text is lost. White space around tool calls and reasoning belongs to
//! the format and is dropped.

mod body;
mod formats;
mod harmony;
mod literal;

use serde_json::{Map, Value};

pub use formats::OutputFormat;

use body::{Progress, Tools};
use formats::Block;
use harmony::Harmony;

/// A call of a tool.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolCall {
    /// The tool's name.
    pub name: String,
    /// The arguments by name.
    pub arguments: Map<String, Value>,
    /// What the model called this call, where the format has that.
    pub id: Option<String>,
}

/// A part of what a model wrote.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// More of the answer.
    Content(String),
    /// More of the reasoning.
    Reasoning(String),
    /// A tool call, complete.
    ToolCall(ToolCall),
}

/// Takes apart what a model writes.
#[derive(Debug)]
pub struct OutputParser {
    machine: Machine,
    tools: Tools,
    events: Vec<Event>,
}

#[derive(Debug)]
enum Machine {
    Marked(Marked),
    Harmony(Harmony),
}

impl OutputParser {
    /// A parser for `format`. `prompt` is what the model was given, whose end may have begun the reasoning; `tools`, as
    /// in a [`Conversation`](super::Conversation), tell numbers from texts where the format does not.
    pub fn new(format: OutputFormat, prompt: &str, tools: &[Value]) -> Self {
        let machine = match format.blocks() {
            None => Machine::Harmony(Harmony::default()),
            Some(blocks) => Machine::Marked(Marked::new(format, blocks, prompt)),
        };
        Self { machine, tools: Tools::new(tools), events: Vec::new() }
    }

    /// Takes the next piece of text, and gives what has become certain.
    pub fn push(&mut self, text: &str) -> Vec<Event> {
        match &mut self.machine {
            Machine::Marked(marked) => marked.push(text, &self.tools, &mut self.events),
            Machine::Harmony(harmony) => harmony.push(text, &mut self.events),
        }
        std::mem::take(&mut self.events)
    }

    /// Ends the text, and gives what is left.
    pub fn finish(mut self) -> Vec<Event> {
        match self.machine {
            Machine::Marked(mut marked) => marked.finish(&self.tools, &mut self.events),
            Machine::Harmony(harmony) => harmony.finish(&mut self.events),
        }
        self.events
    }
}

/// Adds `text` to the last event, if that is of the same kind.
fn tell(events: &mut Vec<Event>, reasoning: bool, text: &str) {
    match (reasoning, events.last_mut()) {
        _ if text.is_empty() => {}
        (true, Some(Event::Reasoning(last))) | (false, Some(Event::Content(last))) => last.push_str(text),
        (true, _) => events.push(Event::Reasoning(text.to_owned())),
        (false, _) => events.push(Event::Content(text.to_owned())),
    }
}

/// The length of the end of `text` that may be the beginning of one of `marks`.
fn undecided<'m>(text: &str, marks: impl Iterator<Item = &'m str>) -> usize {
    let begins = |mark: &str| {
        let ends = mark.char_indices().map(|(at, _)| &mark[..at]).filter(|begin| !begin.is_empty());
        ends.filter(|begin| text.ends_with(begin)).map(str::len).max().unwrap_or(0)
    };
    marks.map(begins).max().unwrap_or(0)
}

/// Texts in which marks begin and end reasoning and tool calls.
#[derive(Debug)]
struct Marked {
    blocks: &'static [Block],
    reasoning: Option<(&'static str, &'static str)>,
    place: Place,
    /// Text that nothing has been made of yet.
    buffer: String,
    /// White space that is told if text of the same kind follows it.
    space: String,
    /// Whether white space at the beginning of what comes is dropped.
    trim: bool,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Place {
    /// Where a call may stand without a mark.
    Start,
    Content,
    Reasoning,
    /// After the beginning of a call.
    Call(&'static Block),
}

impl Marked {
    fn new(format: OutputFormat, blocks: &'static [Block], prompt: &str) -> Self {
        let reasoning = format.reasoning();
        let begun = reasoning.is_some_and(|(open, _)| prompt.trim_end().ends_with(open));
        let place = if begun { Place::Reasoning } else { Place::Start };
        Self { blocks, reasoning, place, buffer: String::new(), space: String::new(), trim: begun }
    }

    fn push(&mut self, text: &str, tools: &Tools, events: &mut Vec<Event>) {
        self.buffer.push_str(text);
        while self.step(tools, events, false) {}
    }

    fn finish(&mut self, tools: &Tools, events: &mut Vec<Event>) {
        while self.step(tools, events, true) {}
        let rest = std::mem::take(&mut self.buffer);
        self.tell(&rest, events);
        let space = std::mem::take(&mut self.space);
        if self.place != Place::Reasoning && !matches!(events.last(), Some(Event::ToolCall(_))) {
            tell(events, false, &space);
        }
    }

    /// Makes something of the buffer's beginning; says whether there may be more. `last`: no more text will come.
    fn step(&mut self, tools: &Tools, events: &mut Vec<Event>, last: bool) -> bool {
        match self.place {
            Place::Start => self.start(),
            Place::Content | Place::Reasoning => self.text(events),
            Place::Call(block) => self.call(block, tools, events, last),
        }
    }

    fn start(&mut self) -> bool {
        let Some(first) = self.buffer.trim_start().chars().next() else { return false };
        let bare = self.blocks.iter().find(|block| block.open.is_empty());
        self.place = bare.filter(|_| first == '{').map_or(Place::Content, Place::Call);
        true
    }

    /// Tells text up to the next mark.
    fn text(&mut self, events: &mut Vec<Event>) -> bool {
        let in_reasoning = self.place == Place::Reasoning;
        let marks: Vec<(&'static str, Place)> = match self.reasoning {
            Some((_, close)) if in_reasoning => vec![(close, Place::Content)],
            reasoning => {
                let open = reasoning.map(|(open, _)| (open, Place::Reasoning));
                let blocks = self.blocks.iter().filter(|block| !block.open.is_empty());
                open.into_iter().chain(blocks.map(|block| (block.open, Place::Call(block)))).collect()
            }
        };
        let found = marks.iter().filter_map(|(mark, place)| Some((self.buffer.find(mark)?, *mark, *place)));
        // of two that begin at the same place the longer one
        let found = found.min_by_key(|(at, mark, _)| (*at, std::cmp::Reverse(mark.len())));
        let undecided = undecided(&self.buffer, marks.iter().map(|(mark, _)| *mark));
        let certain = self.buffer.len() - undecided;
        let Some((at, mark, place)) =
            found.filter(|(at, mark, _)| *at + mark.len() <= certain || *at < certain)
        else {
            let rest = self.buffer.split_off(certain);
            let text = std::mem::replace(&mut self.buffer, rest);
            self.tell(&text, events);
            return false;
        };
        let text: String = self.buffer.drain(..at).collect();
        self.tell(&text, events);
        self.buffer.drain(..mark.len());
        if !matches!(place, Place::Call(_)) {
            (self.trim, self.space) = (true, String::new());
        }
        self.place = place;
        true
    }

    /// Reads a call, and goes on as if its mark were text if it is none.
    fn call(&mut self, block: &'static Block, tools: &Tools, events: &mut Vec<Event>, last: bool) -> bool {
        let progress = match block.read(&self.buffer, tools) {
            Progress::Incomplete if last => block.read_last(&self.buffer, tools),
            progress => progress,
        };
        match progress {
            Progress::Incomplete => return false,
            Progress::Calls(calls, len) => {
                events.extend(calls.into_iter().map(Event::ToolCall));
                self.buffer.drain(..len);
                (self.trim, self.space) = (true, String::new());
                self.place = if block.open.is_empty() { Place::Start } else { Place::Content };
            }
            Progress::None => {
                self.place = Place::Content;
                // the mark, or for a call without one its first character, is text
                let first = self.buffer.len() - self.buffer.trim_start().len() + 1;
                let text = match block.open {
                    "" => self.buffer.drain(..first).collect(),
                    open => open.to_owned(),
                };
                self.tell(&text, events);
            }
        }
        true
    }

    /// Tells `text`, and keeps white space at its end until it is clear what follows.
    fn tell(&mut self, text: &str, events: &mut Vec<Event>) {
        let text = if self.trim { text.trim_start() } else { text };
        if text.is_empty() {
            return;
        }
        self.trim = false;
        let solid = text.trim_end();
        if !solid.is_empty() {
            let space = std::mem::take(&mut self.space);
            tell(events, self.place == Place::Reasoning, &(space + solid));
        }
        self.space.push_str(&text[solid.len()..]);
    }
}

#[cfg(test)]
mod tests;
