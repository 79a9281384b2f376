//! `gemma-embedding`: EmbeddingGemma. Gemma 3 whose tokens see both ways.

use super::file::File;
use super::gemma3;
use crate::block::Spec;
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    for dense in ["dense_2.weight", "dense_3.weight"] {
        file.refuse(dense)?;
    }
    let mut spec = gemma3::spec(file)?;
    spec.each_attention(|_, a| {
        a.causal = false;
        a.scale = 1.0 / (a.heads.head_dim as f32).sqrt();
    });
    Ok(spec)
}
