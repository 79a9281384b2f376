//! `command-r`: Command R. Attention and feed-forward network read the same, normalized by their distances from the mean.

use super::file::{Family, File, LLAMA};
use crate::block::{NormKind, Spec};
use crate::error::Result;

/// What both families of Cohere share.
pub(super) const COHERE: Family = Family {
    norm: NormKind::Layer,
    norms: [Some("attn_norm"), None, Some("attn_norm"), None],
    qk_norm: None,
    parallel: true,
    ..LLAMA
};

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = file.decoder(&COHERE)?;
    spec.output.scale = file.positive("logit_scale")?.unwrap_or(1.0);
    Ok(spec)
}
