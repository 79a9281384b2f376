//! `bloom`: BLOOM. Positions enter scores as slopes, and the embedding is normalized.

use super::file::{Family, File};
use super::starcoder2::GELU;
use crate::block::{Norm, NormKind, Spec};
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = file.decoder(&Family { pairs: None, ..GELU })?;
    let eps = file.eps(NormKind::Layer)?;
    spec.embedding.norm = Some(Norm { tensor: Some("token_embd_norm"), kind: NormKind::Layer, eps });
    spec.each_attention(|_, a| a.alibi = Some(8.0));
    Ok(spec)
}
