//! `/set parameter NAME VALUE`: the flags of the command line, read by the same parser, under the names that Ollama
//! gave them or under their own.

use clap::builder::Resettable;
use clap::{CommandFactory, FromArgMatches, Parser};

use crate::args::Generation;
use crate::failure;

/// Ollama's names, where they differ from the flags'.
const OLLAMA: [(&str, &str); 2] = [("temperature", "temp"), ("num_predict", "n")];

#[derive(Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Line {
    #[command(flatten)]
    options: Generation,
}

/// Sets what `words` (`NAME VALUE`) say in `options`; the error says what is wrong in one line.
pub fn parameter(options: &mut Generation, words: &str) -> Result<(), String> {
    let usage =
        || String::from("say `/set parameter NAME VALUE`, for example `/set parameter temperature 0.2`");
    let (name, value) = words.trim().split_once(char::is_whitespace).ok_or_else(usage)?;
    let (name, value) = (name.to_lowercase(), value.trim().trim_matches('"'));
    let flag = OLLAMA.iter().find(|(ollama, _)| *ollama == name).map_or(name.as_str(), |(_, flag)| flag);
    let word = match flag.len() {
        1 => format!("-{flag}{value}"),
        _ => format!("--{}={value}", flag.replace('_', "-")),
    };
    // without defaults, which would set the other parameters back
    let parser = Line::command_for_update().mut_args(|arg| arg.default_value(Resettable::Reset));
    let mut matches = parser.try_get_matches_from([word]).map_err(|e| explain(&e))?;
    options.update_from_arg_matches_mut(&mut matches).map_err(|e| explain(&e))
}

fn explain(error: &clap::Error) -> String {
    let why = failure::usage_line(error);
    let why = why.trim_start_matches("braise: ");
    why.split("; see `").next().unwrap_or(why).to_owned()
}
