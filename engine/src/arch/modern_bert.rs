//! `modern-bert`: ModernBERT, and the embedding models made of it. Most layers see a window to both sides.

use super::bert::encoder;
use super::file::{Family, File, malformed};
use super::olmo2::set_windows;
use super::starcoder2::GELU;
use crate::block::{Activation, Norm, NormKind, Pooling, Spec};
use crate::error::Result;

/// Layers from one that sees all to the next.
const PERIOD: usize = 3;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let activation = match file.text("hidden_activation")? {
        None | Some("gelu") => Activation::Gelu,
        Some("silu") => Activation::Silu,
        Some(other) => return Err(malformed(format!("the activation `{other}` is not known"))),
    };
    let mut spec = encoder(file, &Family { activation, gated: true, ..GELU })?;
    let eps = file.eps(NormKind::Layer)?;
    spec.embedding.norm = Some(Norm { tensor: Some("token_embd_norm"), kind: NormKind::Layer, eps });
    spec.pooling = spec.pooling.or(Some(Pooling::Mean));
    if !file.has("blk.0.attn_norm.weight") {
        spec.layers[0].norms.mixer = None;
    }
    let (n_layer, name) = (spec.layers.len(), "attention.sliding_window_pattern");
    let windows = match file.flags(name, n_layer)? {
        Some(_) => file.windows(n_layer, PERIOD, None)?,
        None => {
            // it is the first layer of each period that sees all, and not the last
            let before = file.count(name)?.unwrap_or(PERIOD).saturating_sub(1);
            let all = n_layer
                .checked_add(before)
                .ok_or_else(|| malformed(format!("a period of {before} layers")))?;
            file.windows(all, PERIOD, None)?.split_off(before)
        }
    };
    set_windows(&mut spec, &windows, file.positive("rope.freq_base_swa")?)?;
    Ok(spec)
}
