//! `bert`: BERT, and the embedding models made of it (MiniLM, BGE, E5, GTE). Sums are normalized, and tokens see all others.

use super::file::{Family, File};
use super::starcoder2::GELU;
use crate::block::Spec;
use crate::error::Result;

/// Families in the manner of BERT.
pub(super) const SUMS: Family =
    Family { norms: [None; 4], sums: Some(["attn_output_norm", "layer_output_norm"]), ..GELU };

/// An encoder of such a family, whose tokens see all others.
pub(super) fn encoder(file: &File<'_>, family: &Family) -> Result<Spec> {
    let mut spec = file.decoder(family)?;
    spec.embedding.kinds = file.has("token_types.weight");
    spec.each_attention(|_, a| a.causal = false);
    Ok(spec)
}

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = encoder(file, &Family { pairs: None, ..SUMS })?;
    spec.embedding.positions = true;
    Ok(spec)
}
