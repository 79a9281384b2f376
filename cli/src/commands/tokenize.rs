//! `braise tokenize`: the token ids of a text.

use std::io::Write;
use std::path::Path;

use anyhow::Result;
use braise_engine::gguf::Gguf;
use braise_engine::tokenizer::{ControlTokens, Special, Tokenizer};
use clap::Args;

use crate::models::resolve;
use crate::output::stdout;
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

    /// Add no begin-of-sequence token, and read the text of special tokens as plain text
    #[arg(long)]
    no_special: bool,
}

/// A token and the text that it stands for.
type Token = (u32, String);

/// Does what was asked for.
pub fn run(args: &TokenizeArgs) -> Result<()> {
    let text = match &args.text {
        Some(text) => text.clone(),
        None => read_text(&mut std::io::stdin().lock())?,
    };
    let path = resolve(Some(&args.model))?;
    let tokens = tokens(&path, &text, !args.no_special)?;
    write_tokens(&tokens, args.ids, &mut stdout())
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
        Ok((id, String::from_utf8_lossy(&text).into_owned()))
    };
    ids.into_iter().map(token).collect()
}

fn write_tokens(tokens: &[Token], ids_alone: bool, out: &mut dyn Write) -> Result<()> {
    if ids_alone {
        let ids: Vec<u32> = tokens.iter().map(|(id, _)| *id).collect();
        writeln!(out, "{}", serde_json::to_string(&ids)?)?;
    } else {
        for (id, text) in tokens {
            writeln!(out, "{id:>8}  {text:?}")?;
        }
    }
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(ids_alone: bool) -> String {
        let mut out = Vec::new();
        let tokens = [(1, "a".to_owned()), (49_151, " \n".to_owned())];
        write_tokens(&tokens, ids_alone, &mut out).expect("is written");
        String::from_utf8(out).expect("is UTF-8")
    }

    #[test]
    fn ids_are_a_json_list_and_tokens_a_line_each() {
        assert_eq!(written(true), "[1,49151]\n");
        assert_eq!(written(false), "       1  \"a\"\n   49151  \" \\n\"\n");
    }
}
