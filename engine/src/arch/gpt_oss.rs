//! `gpt-oss`: mixtures with clamped gates. Every other layer sees a window, and each head has a score for nothing.

use super::file::{Family, File, NEOX};
use crate::block::{Activation, Routing, Spec};
use crate::error::Result;

const GPT_OSS: Family = Family {
    norms: [Some("attn_norm"), None, Some("post_attention_norm"), None],
    activation: Activation::Clamped,
    routing: (Routing::SoftmaxOfChosen, false),
    ..NEOX
};

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = file.decoder(&GPT_OSS)?;
    let windows = file.windows(spec.layers.len(), 2, None)?;
    spec.each_attention(|i, a| {
        a.window = windows[i];
        a.sinks = true;
    });
    Ok(spec)
}
