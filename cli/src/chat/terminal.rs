//! The keyboard: line editing with history, and Ctrl-C.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, anyhow};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::{Input, Line};
use crate::interrupt::Watch;

/// A terminal with a history file.
pub struct Terminal {
    editor: DefaultEditor,
    history: PathBuf,
    interrupt: Watch,
}

impl Terminal {
    /// Takes over the terminal and Ctrl-C. The history is a comfort: where it cannot be read or written, there is none.
    pub fn open(history: PathBuf) -> Result<Self> {
        let mut editor = DefaultEditor::new().context("cannot use the terminal; give a PROMPT instead")?;
        let _ = history.parent().map(fs::create_dir_all);
        let _ = editor.load_history(&history);
        let interrupt = Watch::begin().map_err(|e| anyhow!("cannot take over Ctrl-C: {e}"))?;
        Ok(Self { editor, history, interrupt })
    }
}

impl Input for Terminal {
    fn line(&mut self, prompt: &str) -> Result<Line> {
        match self.editor.readline(prompt) {
            Ok(line) => Ok(Line::Text(line)),
            Err(ReadlineError::Interrupted) => Ok(Line::Interrupt),
            Err(ReadlineError::Eof) => Ok(Line::End),
            Err(e) => Err(e).context("cannot read from the terminal"),
        }
    }

    fn remember(&mut self, message: &str) {
        if self.editor.add_history_entry(message).is_ok_and(|new| new) {
            let _ = self.editor.append_history(&self.history);
        }
    }

    fn interrupted(&mut self) -> bool {
        self.interrupt.take()
    }
}
