//! Conversations with a scripted keyboard and a model that says what it was told.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;

use anyhow::anyhow;
use clap::Parser;

use super::*;
use crate::args::{Cli, Command};
use crate::failure::OutputClosed;

/// Answers "N:LAST" for a conversation of N messages, in two pieces.
#[derive(Default, Clone)]
struct Echo {
    heard: Rc<RefCell<Vec<Vec<Message>>>>,
    options: Rc<RefCell<Option<Generation>>>,
    fail: bool,
}

impl Chat for Echo {
    fn reply(&mut self, messages: &[Message], options: &Generation, sink: Sink<'_>) -> Result<Stats> {
        self.heard.borrow_mut().push(messages.to_vec());
        *self.options.borrow_mut() = Some(options.clone());
        if self.fail {
            return Err(anyhow!("the context is full; /clear"));
        }
        let last = messages.last().map_or("", |message| &message.content);
        for piece in [format!("{}:", messages.len()), last.to_owned()] {
            if sink(&piece).is_break() {
                break;
            }
        }
        Ok(Stats { decode_tokens: 2, ..Stats::default() })
    }

    fn complete(&mut self, _: &str, _: &Generation, _: Sink<'_>) -> Result<Stats> {
        unreachable!("a chat does not continue raw text")
    }
}

struct Script {
    lines: VecDeque<Line>,
    prompts: Vec<String>,
    remembered: Vec<String>,
    /// Answers to "was Ctrl-C pressed?", in turn; then no.
    interrupts: VecDeque<bool>,
}

impl Input for Script {
    fn line(&mut self, prompt: &str) -> Result<Line> {
        self.prompts.push(prompt.to_owned());
        Ok(self.lines.pop_front().unwrap_or(Line::End))
    }

    fn remember(&mut self, message: &str) {
        self.remembered.push(message.to_owned());
    }

    fn interrupted(&mut self) -> bool {
        self.interrupts.pop_front().unwrap_or(false)
    }
}

fn script(lines: &[&str]) -> Script {
    Script {
        lines: lines.iter().map(|line| Line::Text((*line).to_owned())).collect(),
        prompts: Vec::new(),
        remembered: Vec::new(),
        interrupts: VecDeque::new(),
    }
}

fn options() -> Generation {
    match Cli::try_parse_from(["braise", "run"]).expect("is right").command {
        Command::Run(args) => args.generation,
        other => panic!("{other:?}"),
    }
}

/// Plays `input`, and returns what was answered and what was noted.
fn play_with(chat: &Echo, input: Script) -> (String, String) {
    let (mut out, mut notes) = (Vec::new(), Vec::new());
    let (mut chat, mut input) = (chat.clone(), input);
    Loop::new(&mut chat, &mut input, &mut out, &mut notes, options()).run().expect("ends well");
    let text = |bytes| String::from_utf8(bytes).expect("is UTF-8");
    (text(out), text(notes))
}

fn play(lines: &[&str]) -> (String, String) {
    play_with(&Echo::default(), script(lines))
}

#[test]
fn a_conversation_grows_until_it_is_cleared() {
    assert_eq!(play(&["a", "", "b", "/clear", "c"]).0, "1:a\n\n3:b\n\n1:c\n\n");
}

#[test]
fn bye_and_end_leave() {
    assert_eq!(play(&["/bye", "a"]).0, "");
    assert_eq!(play(&[]).0, "");
}

#[test]
fn system_instructions_stand_first_and_survive_clear() {
    let chat = Echo::default();
    play_with(&chat, script(&["a", "/set system \"Be brief\"", "/clear", "b", "/set system", "c"]));
    let heard = chat.heard.borrow();
    assert_eq!(heard[1], [Message::new(Role::System, "Be brief"), Message::new(Role::User, "b")]);
    assert!(heard[2].iter().all(|message| message.role != Role::System));
}

#[test]
fn three_quotes_hold_several_lines() {
    assert_eq!(play(&["\"\"\"a", "  b\"\"\""]).0, "1:a\n  b\n\n");
    assert_eq!(play(&["\"\"\"", "a", "/bye", "\"\"\""]).0, "1:a\n/bye\n\n");
    assert_eq!(play(&["\"\"\"one\"\"\""]).0, "1:one\n\n");
    assert_eq!(play(&["\"\"\"", "\"\"\"", "a"]).0, "1:a\n\n", "an empty message is none");
    let mut input = script(&["\"\"\"a"]);
    input.lines.extend([Line::Interrupt, Line::Text("b".into())]);
    assert_eq!(play_with(&Echo::default(), input).0, "1:b\n\n", "Ctrl-C takes a message back");
}

#[test]
fn unknown_commands_are_not_told_to_the_model() {
    let (out, notes) = play(&["/sett", "/?"]);
    assert_eq!(out, "");
    assert!(notes.contains("there is no /sett") && notes.contains("/bye"), "{notes}");
}

#[test]
fn an_interrupt_at_the_prompt_does_not_leave() {
    let mut input = script(&[]);
    input.lines.extend([Line::Interrupt, Line::Text("a".into())]);
    let (out, notes) = play_with(&Echo::default(), input);
    assert!(out.starts_with("1:a") && notes.contains("/bye leaves"));
}

#[test]
fn an_interrupt_stops_the_answer_and_what_was_said_is_remembered() {
    let chat = Echo::default();
    let mut input = script(&["a", "b"]);
    input.interrupts.extend([true, true]); // before the question, and at the first piece
    let (out, _) = play_with(&chat, input);
    assert_eq!(out, "\n\n3:b\n\n");
    assert_eq!(chat.heard.borrow()[1][1], Message::new(Role::Assistant, "1:"));
}

#[test]
fn a_failed_answer_takes_its_question_back_and_the_conversation_goes_on() {
    let chat = Echo { fail: true, ..Echo::default() };
    let (out, notes) = play_with(&chat, script(&["a", "b"]));
    assert_eq!(
        (out.as_str(), notes.as_str()),
        ("", "the context is full; /clear\nthe context is full; /clear\n")
    );
    assert_eq!(chat.heard.borrow()[1].len(), 1);
}

#[test]
fn parameters_are_set_under_both_names_and_checked() {
    let chat = Echo::default();
    let lines = [
        "/set parameter temperature 0.25",
        "/set parameter top_k 7",
        "/set parameter top-p 0.5",
        "/set parameter num_predict 9",
        "/set parameter presence_penalty -1.5",
        "/set parameter stop \"the end\"",
        "/set parameter seed 3",
        "a",
    ];
    let (_, notes) = play_with(&chat, script(&lines));
    assert_eq!(notes, "set\n".repeat(7));
    let set = chat.options.borrow().clone().expect("was asked");
    assert_eq!((set.temp, set.top_k, set.top_p, set.presence_penalty), (0.25, 7, 0.5, -1.5));
    assert_eq!((set.max_tokens.map(Into::<usize>::into), set.seed), (Some(9), Some(3)));
    assert_eq!(set.stop, ["the end"]);
    assert_eq!(set.min_p, options().min_p, "the others stay");
}

#[test]
fn wrong_parameters_change_nothing() {
    let chat = Echo::default();
    let lines = [
        "/set parameter temperature -1",
        "/set parameter warmth 1",
        "/set parameter seed",
        "/set x",
        "/set",
        "a",
    ];
    let (_, notes) = play_with(&chat, script(&lines));
    assert_eq!(notes.lines().count(), 5, "{notes}");
    assert!(!notes.lines().any(|line| line == "set"), "{notes}");
    assert!(notes.contains("it must be 0 or more") && notes.contains("--warmth"), "{notes}");
    assert_eq!(chat.options.borrow().clone(), Some(options()));
}

#[test]
fn verbose_reports_after_each_answer() {
    let (mut out, mut notes) = (Vec::new(), Vec::new());
    let (mut echo, mut input) = (Echo::default(), script(&["a", "b"]));
    let mut chat = Loop::new(&mut echo, &mut input, &mut out, &mut notes, options());
    chat.verbose = true;
    chat.run().expect("ends well");
    let notes = String::from_utf8(notes).expect("is UTF-8");
    assert_eq!(notes.matches("decode       2 tokens").count(), 2, "{notes}");
}

#[test]
fn messages_are_remembered_and_commands_are_not() {
    let (mut out, mut notes) = (Vec::new(), Vec::new());
    let (mut chat, mut input) = (Echo::default(), script(&["a", "/clear", "\"\"\"b", "c\"\"\""]));
    Loop::new(&mut chat, &mut input, &mut out, &mut notes, options()).run().expect("ends well");
    assert_eq!(input.remembered, ["a", "b\nc"]);
    assert_eq!(input.prompts, [">>> ", ">>> ", ">>> ", "... ", ">>> "]);
}

#[test]
fn a_closed_output_ends_the_conversation_quietly() {
    struct Closed;
    impl Write for Closed {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(io::Error::new(io::ErrorKind::BrokenPipe, OutputClosed))
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (mut chat, mut input) = (Echo::default(), script(&["a", "b"]));
    let mut notes = Vec::new();
    let result = Loop::new(&mut chat, &mut input, &mut Closed, &mut notes, options()).run();
    assert!(failure::is_output_closed(&result.expect_err("is closed")));
    assert_eq!(chat.heard.borrow().len(), 1);
}
