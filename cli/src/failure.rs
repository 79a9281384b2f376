//! What a failed command tells its user: one line on standard error, and an exit code.

use std::fmt;
use std::io;

use clap::error::ErrorKind;

use crate::interrupt::{self, Interrupted};

/// The command line was understood, but cannot be acted on: exit code 2, as for an unknown flag.
#[derive(Debug)]
pub struct Usage(pub String);

impl fmt::Display for Usage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Usage {}

/// The reader of standard output went away (`braise ... | head`). The work is over, and nothing is wrong.
#[derive(Debug)]
pub struct OutputClosed;

impl fmt::Display for OutputClosed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("standard output was closed")
    }
}

impl std::error::Error for OutputClosed {}

/// Whether `error` comes from a closed standard output.
pub fn is_output_closed(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        cause.is::<OutputClosed>() || inner.is_some_and(|inner| inner.is::<OutputClosed>())
    })
}

/// The exit code for `error`, and its line; no line where there is nothing to say.
pub fn explain(error: &anyhow::Error) -> (u8, Option<String>) {
    if is_output_closed(error) {
        return (0, None);
    }
    if error.is::<Interrupted>() {
        return (interrupt::EXIT_CODE, None);
    }
    let code = if error.is::<Usage>() { 2 } else { 1 };
    (code, Some(format!("braise: {}", line(error))))
}

/// The error and its causes in one line. A cause that its parent quotes already is not said twice.
pub fn line(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    one_line(&text)
}

/// What clap found wrong, in one line that ends with where to look.
pub fn usage_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let mut parts = Vec::new();
    let mut command = String::from("braise");
    for paragraph in text.split("\n\n") {
        let paragraph = one_line(paragraph);
        if let Some(usage) = paragraph.strip_prefix("Usage: ") {
            let is_command = |word: &&str| word.chars().all(|c| c.is_ascii_lowercase());
            command = usage.split(' ').take_while(is_command).collect::<Vec<_>>().join(" ");
        } else if !paragraph.starts_with("For more information") {
            let part = paragraph.trim_start_matches("error: ").trim_start_matches("tip: ");
            parts.push(part.to_owned());
        }
    }
    format!("braise: {}; see `{command} --help`", parts.join("; "))
}

/// Whether clap's "error" is an answer that the user asked for.
pub fn is_answer(error: &clap::Error) -> bool {
    matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion)
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use anyhow::{Context, anyhow};
    use clap::Parser;

    use super::*;
    use crate::args::Cli;

    #[test]
    fn usage_errors_are_code_2_and_others_1() {
        assert_eq!(explain(&Usage("no".into()).into()).0, 2);
        assert_eq!(explain(&anyhow!("no")), (1, Some("braise: no".into())));
        assert_eq!(explain(&Interrupted.into()), (130, None));
    }

    #[test]
    fn a_closed_output_is_quiet_success_even_deep_in_the_chain() {
        let closed = io::Error::new(io::ErrorKind::BrokenPipe, OutputClosed);
        let error = Err::<(), _>(closed).context("while answering").expect_err("is an error");
        assert_eq!(explain(&error), (0, None));
        // the same kind of error from elsewhere (a network connection) is a failure
        let other = anyhow::Error::from(io::Error::from(io::ErrorKind::BrokenPipe));
        assert_eq!(explain(&other).0, 1);
    }

    #[test]
    fn causes_are_joined_once_in_one_line() {
        let error = anyhow!("disk\nfull").context("cannot write").context("x: cannot write");
        assert_eq!(line(&error), "x: cannot write: disk full");
    }

    #[test]
    fn clap_errors_are_one_line_that_names_the_command() {
        let error = Cli::try_parse_from(["braise", "run", "--tmp", "1"]).expect_err("no such flag");
        let line = usage_line(&error);
        assert!(line.starts_with("braise: unexpected argument '--tmp' found"), "{line}");
        assert!(line.ends_with("; see `braise run --help`"), "{line}");
        assert!(!line.contains('\n') && line.contains("--temp"), "{line}");
    }
}
