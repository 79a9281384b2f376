//! `dbrx`: DBRX. Mixtures, with queries, keys and values kept within bounds.

use super::file::{Family, File, NEOX};
use crate::block::{NormKind, Spec};
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let norms = [Some("attn_norm"), None, Some("attn_output_norm"), None];
    let mut spec = file.decoder(&Family { norm: NormKind::Layer, norms, ..NEOX })?;
    let clamp = file.positive("attention.clamp_kqv")?;
    spec.each_attention(|_, a| a.clamp = clamp);
    Ok(spec)
}
