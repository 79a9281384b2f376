//! The keyboard: line editing with history, and Ctrl-C.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use rustyline::DefaultEditor;
use rustyline::error::ReadlineError;

use super::{Input, Line};

/// Exit code of a program that Ctrl-C ends: 128 and the number of the signal.
const INTERRUPTED: i32 = 130;

/// A terminal with a history file.
pub struct Terminal {
    editor: DefaultEditor,
    history: PathBuf,
    interrupt: Arc<AtomicBool>,
}

impl Terminal {
    /// Takes over the terminal and Ctrl-C. The history is a comfort: where it cannot be read or written, there is none.
    pub fn open(history: PathBuf) -> Result<Self> {
        let mut editor = DefaultEditor::new().context("cannot use the terminal; give a PROMPT instead")?;
        let _ = history.parent().map(fs::create_dir_all);
        let _ = editor.load_history(&history);
        let interrupt = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&interrupt);
        ctrlc::set_handler(move || {
            // the second one is for a model that does not get to the next token
            if flag.swap(true, Ordering::Relaxed) {
                std::process::exit(INTERRUPTED);
            }
        })
        .context("cannot take over Ctrl-C")?;
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
        self.interrupt.swap(false, Ordering::Relaxed)
    }
}
