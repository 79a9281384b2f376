//! `gemma2`: Gemma 2. Results are normalized too, every other layer sees a window, and scores and logits are capped.

use super::file::{Family, File};
use super::gemma::GEMMA;
use crate::block::Spec;
use crate::error::Result;

/// Gemma 2 and 3 normalize before and behind each block.
pub(super) const GEMMA_2: Family = Family {
    norms: [Some("attn_norm"), Some("post_attention_norm"), Some("ffn_norm"), Some("post_ffw_norm")],
    ..GEMMA
};

/// The scale of scores of the models of 27 billion parameters, which is not that of a head's size, and which files do
/// not tell: they are known by their number of layers.
pub(super) fn query_scale(spec: &Spec, n_layer: usize) -> Option<f32> {
    let a = spec.layers.first()?.mixer.attention()?;
    (spec.layers.len() == n_layer).then(|| 1.0 / ((spec.n_embd / a.heads.n_head) as f32).sqrt())
}

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = file.decoder(&GEMMA_2)?;
    spec.embedding.scale = (spec.n_embd as f32).sqrt();
    spec.output.softcap = file.positive("final_logit_softcapping")?.or(Some(30.0));
    let softcap = file.positive("attn_logit_softcapping")?.or(Some(50.0));
    let windows = file.windows(spec.layers.len(), 2, Some(4096))?;
    let scale = query_scale(&spec, 46);
    spec.each_attention(|i, a| {
        a.window = windows[i];
        a.softcap = softcap;
        a.scale = scale.unwrap_or(a.scale);
    });
    Ok(spec)
}
