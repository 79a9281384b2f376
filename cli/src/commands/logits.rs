//! `braise logits`: the model's raw output for given tokens, for checks of conformance.

use std::io::Write;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use clap::Args;

use crate::args::Compute;
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
}

/// Computes the logits of the next tokens of a sequence: one row for each, one after the other.
type Forward = dyn FnMut(&[u32]) -> Result<Vec<f32>>;

/// Does what was asked for.
pub fn run(args: &LogitsArgs) -> Result<()> {
    let path = resolve(Some(&args.model))?;
    let mut forward = forward(&path, &args.compute)?;
    let mut file = OutFile::create(&args.output)?;
    write_logits(&args.tokens, args.chunk, &mut *forward, &mut file)?;
    file.commit()
}

fn forward(path: &Path, _compute: &Compute) -> Result<Box<Forward>> {
    bail!("{}: this build cannot compute yet; use a later one", path.display())
}

fn write_logits(
    tokens: &[u32],
    chunk: Option<NonZeroUsize>,
    forward: &mut dyn FnMut(&[u32]) -> Result<Vec<f32>>,
    out: &mut dyn Write,
) -> Result<()> {
    /// Enough to keep matrix units busy; rows of a large vocabulary still fit into memory.
    const CHUNK: usize = 64;
    for tokens in tokens.chunks(chunk.map_or(CHUNK, NonZeroUsize::get)) {
        let logits = forward(tokens)?;
        let bytes: Vec<u8> = logits.iter().flat_map(|logit| logit.to_le_bytes()).collect();
        out.write_all(&bytes)?;
    }
    Ok(out.flush()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_in_order_for_any_chunk() {
        for chunk in [None, NonZeroUsize::new(1), NonZeroUsize::new(2), NonZeroUsize::new(9)] {
            let mut sizes = Vec::new();
            let mut forward = |tokens: &[u32]| {
                sizes.push(tokens.len());
                Ok(tokens.iter().flat_map(|&t| [t as f32, -0.5]).collect())
            };
            let mut out = Vec::new();
            write_logits(&[3, 1, 2], chunk, &mut forward, &mut out).expect("is written");
            let expected: Vec<u8> =
                [3.0f32, -0.5, 1.0, -0.5, 2.0, -0.5].iter().flat_map(|x| x.to_le_bytes()).collect();
            assert_eq!(out, expected);
            assert_eq!(sizes.iter().max().copied(), Some(chunk.map_or(3, |c| c.get().min(3))));
        }
    }
}
