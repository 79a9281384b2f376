//! What is asked: MODEL and PROMPT as words on the command line, and what is piped in.

use std::io::{self, BufRead, IsTerminal, Read};
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::failure::Usage;
use crate::output::notice;

/// How long a PROMPT waits for standard input to begin. Programs that are started by others (over ssh, by a timer, in CI)
/// often have a pipe there that nobody writes to and nobody closes.
const PATIENCE: Duration = Duration::from_secs(2);

/// Takes a `-` off the end of PROMPT, which says that standard input is to be waited for.
pub fn take_dash(words: &mut Vec<String>) -> bool {
    words.pop_if(|word| word == "-").is_some()
}

/// Tells MODEL from PROMPT. A single argument with white space in it, which no name has and which is no file,
/// is a prompt for the default model: `braise run "Why is the sky blue?"`.
pub fn split(model: Option<String>, words: Vec<String>) -> (Option<String>, Option<String>) {
    match model {
        Some(text)
            if words.is_empty() && text.contains(char::is_whitespace) && !Path::new(&text).is_file() =>
        {
            (None, Some(text))
        }
        model => (model, (!words.is_empty()).then(|| words.join(" "))),
    }
}

/// The prompt, or nothing for a chat. What is piped in follows what is on the command line, on a new line.
///
/// `exact` keeps every byte of what is piped in; otherwise the line end that `echo` adds is dropped.
pub fn assemble(prompt: Option<String>, piped: Option<String>, exact: bool) -> Result<Option<String>> {
    let piped = piped.map(|text| match exact {
        true => text,
        false => {
            text.strip_suffix('\n').map(|t| t.strip_suffix('\r').unwrap_or(t)).unwrap_or(&text).to_owned()
        }
    });
    let text = match (prompt, piped) {
        (None, None) => return Ok(None),
        (Some(text), None) => text,
        (Some(text), Some(piped)) if piped.is_empty() => text,
        (None, Some(piped)) => piped,
        (Some(text), Some(piped)) => format!("{text}\n{piped}"),
    };
    match text.is_empty() {
        true => {
            Err(Usage("the prompt is empty; give some text as PROMPT or on standard input".into()).into())
        }
        false => Ok(Some(text)),
    }
}

/// All of standard input, or nothing where that is a terminal. Unless it is `awaited`, also nothing where it neither
/// begins nor ends within [`PATIENCE`], with a note that says so.
pub fn piped(awaited: bool) -> Result<Option<String>> {
    let stdin = io::stdin();
    if stdin.is_terminal() {
        return Ok(None);
    }
    if !awaited && !begins(PATIENCE) {
        notice(format!(
            "note: nothing came on standard input for {} s, so it is left out; end the prompt with the word - to wait",
            PATIENCE.as_secs()
        ));
        return Ok(None);
    }
    read_text(&mut stdin.lock()).map(Some)
}

/// Whether standard input begins, or ends, within `time`.
fn begins(time: Duration) -> bool {
    let (sender, receiver) = mpsc::channel();
    // reading a pipe knows no time limit; a thread that still waits ends with the program
    thread::spawn(move || {
        // what is found stays in the buffer, and an error comes again, for whoever reads
        let _ = io::stdin().lock().fill_buf().map(drop);
        let _ = sender.send(());
    });
    receiver.recv_timeout(time).is_ok()
}

/// All of `from`, which is to be UTF-8.
pub fn read_text(from: &mut dyn Read) -> Result<String> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes).context("cannot read standard input")?;
    String::from_utf8(bytes).map_err(|e| {
        let at = e.utf8_error().valid_up_to();
        anyhow::anyhow!("standard input is not UTF-8 (byte {at}); convert it, for example with iconv")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn own(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn a_lone_sentence_is_a_prompt() {
        assert_eq!(split(own("Why is it?"), vec![]), (None, own("Why is it?")));
        assert_eq!(split(own("smollm2"), vec![]), (own("smollm2"), None));
        let words = vec!["why".into(), "is it".into()];
        assert_eq!(split(own("smollm2"), words), (own("smollm2"), own("why is it")));
        assert_eq!(split(None, vec![]), (None, None));
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("a b.gguf").to_str().expect("is UTF-8").to_owned();
        std::fs::write(&file, "GGUF").expect("is written");
        assert_eq!(split(Some(file.clone()), vec![]), (Some(file), None));
    }

    #[test]
    fn a_dash_at_the_end_is_no_word_of_the_prompt() {
        let taken = |words: &[&str]| {
            let mut words = words.iter().map(|word| (*word).to_owned()).collect();
            (take_dash(&mut words), words.join(" "))
        };
        assert_eq!(taken(&["sum", "up:", "-"]), (true, "sum up:".into()));
        assert_eq!(taken(&["-", "x"]), (false, "- x".into()));
        assert_eq!(taken(&[]), (false, String::new()));
    }

    #[test]
    fn what_is_piped_in_follows_the_prompt() {
        let text = |prompt: Option<&str>, piped: Option<&str>, exact| {
            assemble(prompt.map(str::to_owned), piped.map(str::to_owned), exact).expect("is a prompt")
        };
        assert_eq!(text(None, None, false), None);
        assert_eq!(text(None, Some("hi\r\n"), false), own("hi"));
        assert_eq!(text(None, Some("hi\n\n"), false), own("hi\n"));
        assert_eq!(text(None, Some("hi\n"), true), own("hi\n"));
        assert_eq!(text(Some("sum up:"), Some("a\nb\n"), false), own("sum up:\na\nb"));
        assert_eq!(text(Some("hi"), Some(""), false), own("hi"));
    }

    #[test]
    fn an_empty_prompt_is_wrong_usage() {
        for (prompt, piped) in [(own(""), None), (None, own("\n")), (None, own("")), (own(""), own(""))] {
            let error = assemble(prompt, piped, false).expect_err("is empty");
            assert!(error.is::<Usage>());
        }
    }

    #[test]
    fn text_that_is_not_utf_8_is_refused() {
        let error = read_text(&mut &b"ab\xff"[..]).expect_err("is not UTF-8").to_string();
        assert!(error.contains("byte 2"), "{error}");
    }
}
