//! The conversation at a terminal: what is typed, what is a command, and what is told to the model.
//!
//! The loop knows neither the engine ([`Chat`]) nor the terminal ([`Input`]), so that tests can play both.

mod set;
pub mod terminal;

use std::io::{self, Write};
use std::ops::ControlFlow;

use anyhow::Result;

use crate::args::Generation;
use crate::failure;
use crate::stats::Stats;

/// Who said something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The instructions that stand above the conversation.
    System,
    /// The person.
    User,
    /// The model.
    Assistant,
}

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Who said it.
    pub role: Role,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A turn of `role`.
    pub fn new(role: Role, content: impl Into<String>) -> Self {
        Self { role, content: content.into() }
    }
}

/// Takes pieces of an answer as they come; `Break` ends the answer.
pub type Sink<'a> = &'a mut dyn FnMut(&str) -> ControlFlow<()>;

/// A model that can be talked to.
pub trait Chat {
    /// Answers the last of `messages`.
    fn reply(&mut self, messages: &[Message], options: &Generation, sink: Sink<'_>) -> Result<Stats>;

    /// Continues `text` as it stands, with no chat template.
    fn complete(&mut self, text: &str, options: &Generation, sink: Sink<'_>) -> Result<Stats>;
}

/// What came from the keyboard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Line {
    /// A line, without its end.
    Text(String),
    /// Ctrl-C.
    Interrupt,
    /// Ctrl-D.
    End,
}

/// Where lines come from.
pub trait Input {
    /// Asks for a line with `prompt`.
    fn line(&mut self, prompt: &str) -> Result<Line>;

    /// Remembers a message, so that the arrow keys bring it back.
    fn remember(&mut self, message: &str);

    /// Whether Ctrl-C was pressed since the last call.
    fn interrupted(&mut self) -> bool;
}

const HELP: &str = r#"/?                        this help
/set parameter NAME VALUE change how answers are made (temperature, top_k, top_p, min_p, seed, num_predict,
                          repeat_penalty, presence_penalty, frequency_penalty, stop)
/set system TEXT          give the model instructions; an empty TEXT takes them back
/clear                    forget the conversation
/bye                      leave (so does Ctrl-D)
"""                       begin a message of several lines; """ ends it
Ctrl-C                    stop an answer
"#;

/// One conversation.
pub struct Loop<'a> {
    /// The model.
    chat: &'a mut dyn Chat,
    /// The keyboard.
    input: &'a mut dyn Input,
    /// Where answers go; everything else goes to `notes`.
    out: &'a mut dyn Write,
    /// Where help, errors and reports go.
    notes: &'a mut dyn Write,
    /// How answers are made.
    options: Generation,
    /// Whether to report rates after each answer.
    pub verbose: bool,
    messages: Vec<Message>,
}

impl<'a> Loop<'a> {
    /// A conversation that has not begun.
    pub fn new(
        chat: &'a mut dyn Chat,
        input: &'a mut dyn Input,
        out: &'a mut dyn Write,
        notes: &'a mut dyn Write,
        options: Generation,
    ) -> Self {
        Self { chat, input, out, notes, options, verbose: false, messages: Vec::new() }
    }

    /// Gives the model instructions; none if `text` is empty.
    pub fn set_system(&mut self, text: &str) {
        self.messages.retain(|message| message.role != Role::System);
        if !text.is_empty() {
            self.messages.insert(0, Message::new(Role::System, text));
        }
    }

    /// Talks until the user leaves.
    pub fn run(&mut self) -> Result<()> {
        loop {
            match self.input.line(">>> ")? {
                Line::End => return Ok(()),
                Line::Interrupt => writeln!(self.notes, "(Ctrl-D or /bye leaves)")?,
                Line::Text(line) => {
                    if self.take(&line)?.is_break() {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn take(&mut self, line: &str) -> Result<ControlFlow<()>> {
        let command = line.trim();
        if let Some(first) = command.strip_prefix("\"\"\"") {
            return match self.block(first)? {
                Some(message) => self.say(&message),
                None => Ok(ControlFlow::Continue(())),
            };
        }
        match command {
            "" => {}
            "/bye" => return Ok(ControlFlow::Break(())),
            "/?" | "/help" => self.notes.write_all(HELP.as_bytes())?,
            "/clear" => {
                self.messages.retain(|message| message.role == Role::System);
                writeln!(self.notes, "the conversation is forgotten")?;
            }
            _ if command == "/set" || command.starts_with("/set ") => self.set(&command["/set".len()..])?,
            _ if command.starts_with('/') => {
                writeln!(self.notes, "there is no {command}; /? lists what there is")?
            }
            _ => return self.say(line),
        }
        Ok(ControlFlow::Continue(()))
    }

    /// Lines up to the closing `"""`; nothing if the user thought better of it.
    fn block(&mut self, first: &str) -> Result<Option<String>> {
        let mut text = String::new();
        let mut line = first.to_owned();
        loop {
            if let Some(last) = line.trim_end().strip_suffix("\"\"\"") {
                text.push_str(last);
                return Ok(Some(text.trim_matches('\n').to_owned()).filter(|text| !text.is_empty()));
            }
            text.push_str(&line);
            text.push('\n');
            match self.input.line("... ")? {
                Line::Text(next) => line = next,
                Line::Interrupt | Line::End => return Ok(None),
            }
        }
    }

    fn set(&mut self, words: &str) -> Result<()> {
        let words = words.trim();
        let (what, rest) = words.split_once(char::is_whitespace).unwrap_or((words, ""));
        let done = match what {
            "system" => {
                self.set_system(rest.trim().trim_matches('"'));
                Ok(())
            }
            "parameter" => set::parameter(&mut self.options, rest),
            _ => Err(String::from("say `/set parameter NAME VALUE` or `/set system TEXT`")),
        };
        match done {
            Ok(()) => writeln!(self.notes, "set")?,
            Err(why) => writeln!(self.notes, "{why}")?,
        }
        Ok(())
    }

    /// Tells the model `text` and shows its answer. What goes wrong with one answer does not end the conversation.
    fn say(&mut self, text: &str) -> Result<ControlFlow<()>> {
        self.input.remember(text);
        self.messages.push(Message::new(Role::User, text));
        self.input.interrupted(); // one that came before the question counts not
        let Self { chat, input, out, options, messages, .. } = self;
        let mut answer = String::new();
        let result = shown(out, |write| {
            chat.reply(messages, options, &mut |piece| {
                answer.push_str(piece);
                if input.interrupted() { ControlFlow::Break(()) } else { write(piece) }
            })
        });
        match result {
            Ok(stats) => {
                writeln!(self.out, "\n")?;
                self.messages.push(Message::new(Role::Assistant, answer));
                if self.verbose {
                    write!(self.notes, "{stats}")?;
                }
            }
            Err(error) if failure::is_output_closed(&error) => return Err(error),
            Err(error) => {
                self.messages.pop();
                if !answer.is_empty() {
                    writeln!(self.out)?;
                }
                writeln!(self.notes, "{}", failure::line(&error))?;
            }
        }
        Ok(ControlFlow::Continue(()))
    }
}

/// Runs `work`, which writes an answer piece by piece; each piece is on the screen before the next is computed.
///
/// An `out` that refuses a piece ends the answer with its error.
pub fn shown(out: &mut dyn Write, work: impl FnOnce(Sink<'_>) -> Result<Stats>) -> Result<Stats> {
    let mut written: io::Result<()> = Ok(());
    let result = work(&mut |piece| {
        written = out.write_all(piece.as_bytes()).and_then(|()| out.flush());
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    });
    written?;
    result
}

#[cfg(test)]
mod tests;
