//! `olmo`: the first OLMo. Normalizations have no weights.

use super::file::{Family, File, LLAMA};
use crate::block::{Norm, NormKind, Spec};
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = file.decoder(&Family { norm: NormKind::Layer, ..LLAMA })?;
    let bare = |norm: Option<Norm>| norm.map(|norm| Norm { tensor: None, ..norm });
    for layer in &mut spec.layers {
        layer.norms.mixer = bare(layer.norms.mixer);
        layer.norms.mlp = bare(layer.norms.mlp);
    }
    spec.output.norm = bare(spec.output.norm);
    let clamp = file.positive("attention.clamp_kqv")?;
    spec.each_attention(|_, a| a.clamp = clamp);
    Ok(spec)
}
