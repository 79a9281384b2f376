//! `granite` and `granitemoe`: llama with factors of embeddings, residuals, scores and logits.

use super::file::{File, LLAMA};
use crate::block::Spec;
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = file.decoder(&LLAMA)?;
    scale(file, &mut spec)?;
    Ok(spec)
}

/// Applies the factors of Granite.
pub(super) fn scale(file: &File<'_>, spec: &mut Spec) -> Result<()> {
    spec.embedding.scale = file.positive("embedding_scale")?.unwrap_or(1.0);
    spec.output.scale = 1.0 / file.positive("logit_scale")?.unwrap_or(1.0);
    let residual = file.positive("residual_scale")?.unwrap_or(1.0);
    spec.layers.iter_mut().for_each(|layer| layer.residual_scale = residual);
    let rotates = file.flag("rope.scaling.finetuned")?.unwrap_or(true);
    if let Some(scale) = file.positive("attention.scale")? {
        spec.each_attention(|_, a| a.scale = scale);
    }
    if !rotates {
        spec.each_attention(|_, a| a.rope = None);
    }
    Ok(())
}
