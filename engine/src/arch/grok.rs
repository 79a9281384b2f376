//! `grok`: Grok 1 and 2. Scores have soft bounds, results are normalized too, and the second one has a dense network beside
//! its mixtures.

use super::file::{Family, File, NEOX};
use crate::block::{Activation, Dense, Mlp, Scaling, Spec};
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let out = match file.has("blk.0.layer_output_norm.weight") {
        true => "layer_output_norm",
        false => "post_ffw_norm",
    };
    let norms = [Some("attn_norm"), Some("attn_output_norm"), Some("ffn_norm"), Some(out)];
    let mut spec = file.decoder(&Family { norms, activation: Activation::Gelu, ..NEOX })?;
    // what files of the first one do not tell
    spec.embedding.scale = file.positive("embedding_scale")?.unwrap_or(78.383_67);
    spec.output.scale = file.positive("logit_scale")?.unwrap_or(0.577_350_26);
    spec.output.softcap = file.positive("final_logit_softcapping")?;
    let scale = file.positive("attention.output_scale")?.unwrap_or(0.088_388_346);
    let softcap = file.positive("attn_logit_softcapping")?.unwrap_or(30.0);
    spec.each_attention(|_, a| (a.scale, a.softcap) = (scale, Some(softcap)));
    if file.float("rope.scaling.yarn_beta_fast")?.is_none() {
        for rope in &mut spec.ropes {
            if let Scaling::Yarn { beta_fast, .. } = &mut rope.scaling {
                *beta_fast = 8.0;
            }
        }
    }
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        let Some(up) = file.gguf.tensor(&format!("blk.{i}.ffn_up.weight")) else { continue };
        if let (Mlp::Experts(experts), Some(norm)) = (&mut layer.mlp, &mut layer.norms.mlp_out) {
            let dense = Dense { n_ff: up.rows(), activation: Activation::Gelu, gated: true, divided: false };
            experts.shared = Some((dense, false));
            // the sum over the root of 2 is what is normalized
            norm.eps *= 2.0;
        }
    }
    Ok(spec)
}
