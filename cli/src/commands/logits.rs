//! `braise logits`: the model's raw output for given tokens, for checks of conformance.

use std::io::Write;
use std::num::NonZeroUsize;
use std::ops::ControlFlow;
use std::path::PathBuf;

use anyhow::Result;
use braise_engine::gguf::Gguf;
use braise_engine::model::Model;
use braise_engine::session::{Logits, SessionOptions};
use clap::Args;

use crate::args::{Cache, Compute};
use crate::engine::begin;
use crate::models::resolve;
use crate::output::OutFile;

/// Write the logits after each of the given tokens to a file
///
/// The file holds one row for each token: as many little-endian float32 as the vocabulary has tokens. The model needs
/// no tokenizer.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  braise logits smollm2:135m --tokens 1,2,3 -o logits.bin")]
pub struct LogitsArgs {
    /// Name of a model, or path of a .gguf file
    model: String,

    /// Token ids
    #[arg(long, value_name = "ID,ID,...", value_delimiter = ',', required = true)]
    tokens: Vec<u32>,

    /// The file to write
    #[arg(short, value_name = "FILE")]
    output: PathBuf,

    /// Tokens computed at once [default: as many as the model computes best]
    #[arg(long, value_name = "N")]
    chunk: Option<NonZeroUsize>,

    #[command(flatten)]
    compute: Compute,

    #[command(flatten)]
    cache: Cache,
}

/// Does what was asked for.
pub fn run(args: &LogitsArgs) -> Result<()> {
    let path = resolve(Some(&args.model))?;
    let isa = args.compute.isa()?;
    let model = Model::new(Gguf::open_with(&path, args.compute.weights.residency())?, isa)?;
    let options = SessionOptions {
        n_ctx: Some(args.tokens.len()),
        threads: args.compute.threads.map(NonZeroUsize::get),
        chunk: args.chunk.map(NonZeroUsize::get),
        kv: args.cache.types(),
    };
    let mut session = begin(&model, &options)?;
    let mut file = OutFile::create(&args.output)?;
    let mut written = Ok(());
    session.eval(&args.tokens, Logits::All, &mut |_, logits| {
        let bytes: Vec<u8> = logits.iter().flat_map(|logit| logit.to_le_bytes()).collect();
        written = file.write_all(&bytes);
        if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    })?;
    written?;
    file.flush()?;
    file.commit()
}
