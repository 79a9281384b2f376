//! `gemma`: Gemma 1. Embeddings are scaled, and gates are of GELU.

use super::file::{Family, File, NEOX};
use crate::block::{Activation, Spec};
use crate::error::Result;

/// What all Gemmas share.
pub(super) const GEMMA: Family = Family { activation: Activation::Gelu, ..NEOX };

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = file.decoder(&GEMMA)?;
    spec.embedding.scale = (spec.n_embd as f32).sqrt();
    Ok(spec)
}
