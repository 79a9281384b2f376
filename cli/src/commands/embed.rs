//! `braise embed`: texts to vectors, which are the nearer to each other the nearer the texts are in meaning.

use std::io::Write;
use std::num::NonZeroUsize;

use anyhow::{Context, Result, bail};
use braise_engine::block::Pooling;
use braise_engine::gguf::Gguf;
use braise_engine::model::Model;
use braise_engine::session::SessionOptions;
use braise_engine::tokenizer::{Special, Tokenizer};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::args::Compute;
use crate::engine::{begin, place};
use crate::failure::Usage;
use crate::models::resolve;
use crate::output::stdout;
use crate::prompt::read_text;

/// Turn texts into embeddings, vectors of length 1
///
/// Writes a line of JSON for each text: the text, its number of tokens, and its embedding. The scalar product of two
/// embeddings says how near the texts are in meaning.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  braise embed bge-small.gguf \"A cat sat on the mat\"
  braise embed bge-small.gguf \"A cat\" \"A dog\" | jq .embedding
  braise embed bge-small.gguf --stdin < lines.txt > embeddings.jsonl")]
pub struct EmbedArgs {
    /// Name of a model, or path of a .gguf file; one that was made for embeddings
    model: String,

    /// The texts
    #[arg(value_name = "TEXT", required_unless_present = "stdin", conflicts_with = "stdin")]
    texts: Vec<String>,

    /// Read the texts from standard input, one in each line
    #[arg(long)]
    stdin: bool,

    /// How the values of the tokens become one embedding [default: as the file says]
    #[arg(long, value_enum, value_name = "KIND")]
    pooling: Option<PoolingArg>,

    #[command(flatten)]
    compute: Compute,
}

/// See [`Pooling`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum PoolingArg {
    /// Their mean
    Mean,
    /// Those of the first token
    Cls,
    /// Those of the last token
    Last,
}

impl From<PoolingArg> for Pooling {
    fn from(arg: PoolingArg) -> Pooling {
        match arg {
            PoolingArg::Mean => Pooling::Mean,
            PoolingArg::Cls => Pooling::First,
            PoolingArg::Last => Pooling::Last,
        }
    }
}

/// A line of the output.
#[derive(Debug, Serialize)]
struct Embedding<'a> {
    text: &'a str,
    tokens: usize,
    embedding: Vec<f32>,
}

/// Does what was asked for.
pub fn run(args: &EmbedArgs) -> Result<()> {
    let texts = match args.stdin {
        true => read_text(&mut std::io::stdin().lock())?.lines().map(str::to_owned).collect(),
        false => args.texts.clone(),
    };
    if texts.is_empty() {
        return Err(Usage("there are no texts; give some on standard input, one in each line".into()).into());
    }
    let path = resolve(Some(&args.model))?;
    let gguf = Gguf::open_with(&path, args.compute.weights.residency())?;
    let tokenizer = Tokenizer::of(&gguf)?;
    let mut model = Model::new(gguf, args.compute.isa()?)?;
    let pooling = args.pooling.map(Pooling::from).or(model.spec().pooling).with_context(|| {
        format!(
            "{}: the file does not say how to pool an embedding, so the model was hardly made for that; use an \
             embedding model, or choose with --pooling",
            path.display()
        )
    })?;
    let tokens: Vec<_> = texts.iter().map(|text| tokenizer.encode_prompt(text, Special::AsText)).collect();
    if let Some(at) = tokens.iter().position(Vec::is_empty) {
        bail!("text {} has no tokens; leave it out", at + 1);
    }
    let longest = tokens.iter().map(Vec::len).max().unwrap_or(0);
    let options = SessionOptions {
        n_ctx: Some(longest.clamp(1, model.spec().n_ctx.max(1))),
        threads: args.compute.threads.map(NonZeroUsize::get),
        ..SessionOptions::default()
    };
    place(&mut model, &args.compute, &options, false)?;
    let mut session = begin(&model, &options)?;
    // what does not fit is told before anything is written
    if let Some(at) = tokens.iter().position(|tokens| tokens.len() > session.n_ctx()) {
        session.embed(&tokens[at], pooling).with_context(|| format!("text {} of {}", at + 1, texts.len()))?;
    }
    let mut out = stdout();
    for (text, tokens) in texts.iter().zip(&tokens) {
        let embedding = session.embed(tokens, pooling)?;
        let line = Embedding { text, tokens: tokens.len(), embedding };
        writeln!(out, "{}", serde_json::to_string(&line)?)?;
    }
    Ok(out.flush()?)
}
