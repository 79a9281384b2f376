//! `braise tokenize`: the token ids of a text.

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use braise_engine::gguf::Gguf;
use braise_engine::tokenizer::{ControlTokens, Special, Tokenizer};
use clap::Args;
use serde::Serialize;

use crate::models::resolve;
use crate::output::{Format, stdout};
use crate::prompt::read_text;

/// Show the tokens of a text, as `run --raw` would feed them to the model
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  braise tokenize smollm2:135m \"Hello, world\"
  braise tokenize vocab.gguf --stdin --ids < text.txt")]
pub struct TokenizeArgs {
    /// Name of a model, or path of a .gguf file; one that holds a vocabulary alone will do
    model: String,

    /// The text
    #[arg(required_unless_present = "stdin", conflicts_with = "stdin", allow_hyphen_values = true)]
    text: Option<String>,

    /// Read the text from standard input, every byte of it
    #[arg(long)]
    stdin: bool,

    /// Print the ids alone, as one JSON list
    #[arg(long)]
    ids: bool,

    /// Print the number of tokens alone
    #[arg(long, conflicts_with = "ids")]
    count: bool,

    /// Form of the report
    #[arg(long, value_enum, default_value = "md", conflicts_with_all = ["ids", "count"])]
    output: Format,

    /// Add no begin-of-sequence token, and read the text of special tokens as plain text
    #[arg(long)]
    no_special: bool,
}

/// A token and the text that it stands for; bytes that are no text alone are U+FFFD.
#[derive(Debug, Serialize)]
struct Token {
    id: u32,
    text: String,
}

/// What is written of the tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Lines,
    Ids,
    Count,
    Json,
}

/// Does what was asked for.
pub fn run(args: &TokenizeArgs) -> Result<()> {
    let text = match &args.text {
        Some(text) => text.clone(),
        None => read_text(&mut std::io::stdin().lock())?,
    };
    let path = resolve(Some(&args.model))?;
    let tokens = tokens(&path, &text, !args.no_special)?;
    let form = match args.output {
        _ if args.ids => Form::Ids,
        _ if args.count => Form::Count,
        Format::Json => Form::Json,
        Format::Md => Form::Lines,
    };
    write_tokens(&tokens, form, &mut stdout())
}

fn tokens(path: &Path, text: &str, special: bool) -> Result<Vec<Token>> {
    let tokenizer = Tokenizer::of(&Gguf::open(path)?)?;
    let ids = if special {
        tokenizer.encode_prompt(text, Special::Parse)
    } else {
        tokenizer.encode(text, Special::AsText)
    };
    let token = |id| {
        let text = tokenizer.token_bytes(id, ControlTokens::Show)?;
        Ok(Token { id, text: String::from_utf8_lossy(&text).into_owned() })
    };
    ids.into_iter().map(token).collect()
}

fn write_tokens(tokens: &[Token], form: Form, out: &mut dyn Write) -> Result<()> {
    match form {
        Form::Lines => {
            for Token { id, text } in tokens {
                writeln!(out, "{id:>8}  {text:?}")?;
            }
        }
        Form::Ids => {
            let ids: Vec<u32> = tokens.iter().map(|token| token.id).collect();
            writeln!(out, "{}", serde_json::to_string(&ids)?)?;
        }
        Form::Count => writeln!(out, "{}", tokens.len())?,
        Form::Json => writeln!(out, "{}", serde_json::to_string_pretty(tokens)?)?,
    }
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(form: Form) -> String {
        let mut out = Vec::new();
        let tokens = [(1, "a"), (49_151, " \n")].map(|(id, text)| Token { id, text: text.to_owned() });
        write_tokens(&tokens, form, &mut out).expect("is written");
        String::from_utf8(out).expect("is UTF-8")
    }

    #[test]
    fn ids_are_a_json_list_and_tokens_a_line_each() {
        assert_eq!(written(Form::Ids), "[1,49151]\n");
        assert_eq!(written(Form::Lines), "       1  \"a\"\n   49151  \" \\n\"\n");
        assert_eq!(written(Form::Count), "2\n");
        let json: serde_json::Value = serde_json::from_str(&written(Form::Json)).expect("is JSON");
        assert_eq!(json, serde_json::json!([{"id": 1, "text": "a"}, {"id": 49_151, "text": " \n"}]));
    }
}
