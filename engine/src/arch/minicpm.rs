//! `minicpm`: llama with factors of embeddings, residuals and logits.

use super::file::{File, LLAMA};
use crate::block::Spec;
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = file.decoder(&LLAMA)?;
    scale(file, &mut spec)?;
    Ok(spec)
}

/// Applies the factors of MiniCPM.
pub(super) fn scale(file: &File<'_>, spec: &mut Spec) -> Result<()> {
    spec.embedding.scale = file.positive("embedding_scale")?.unwrap_or(12.0);
    spec.output.scale = 1.0 / file.positive("logit_scale")?.unwrap_or(spec.n_embd as f32 / 256.0);
    let residual = 1.4 / (spec.layers.len() as f32).sqrt();
    let residual = file.positive("residual_scale")?.unwrap_or(residual);
    spec.layers.iter_mut().for_each(|layer| layer.residual_scale = residual);
    Ok(())
}
