//! `eurobert`, `neo-bert` and `llama-embed`: encoders in the manner of Llama.

use super::file::{File, LLAMA, NEOX};
use crate::block::Spec;
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = file.decoder(if file.arch == "eurobert" { &NEOX } else { &LLAMA })?;
    spec.each_attention(|_, a| a.causal = false);
    let norm = spec.output.norm.as_mut().filter(|_| file.has("enc.output_norm.weight"));
    if let Some(norm) = norm {
        norm.tensor = Some("enc.output_norm");
    }
    Ok(spec)
}
