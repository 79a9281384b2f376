//! `afmoe`: Trinity. Results of attention are gated, and three of four layers see a window; the others do not rotate.

use super::dots1::TOLD;
use super::file::{Family, File, check_base};
use crate::block::Spec;
use crate::error::Result;

/// Layers from one that does not rotate to the next.
const PERIOD: usize = 4;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let norms = [Some("attn_norm"), Some("post_attention_norm"), Some("ffn_norm"), Some("post_ffw_norm")];
    let mut spec = file.decoder(&Family { norms, ..TOLD })?;
    spec.embedding.scale = (spec.n_embd as f32).sqrt();
    let windows = file.windows(spec.layers.len(), PERIOD, None)?;
    spec.ropes[0].base = file.positive("rope.freq_base_swa")?.unwrap_or(spec.ropes[0].base);
    check_base(&spec.ropes[0])?;
    spec.each_attention(|i, a| {
        a.gated = true;
        a.window = windows[i];
        a.rope = a.rope.filter(|_| !(i + 1).is_multiple_of(PERIOD));
    });
    Ok(spec)
}
