//! `deepseek2`: DeepSeek V2, V3 and R1, and others with their attention over compressed keys and values; and `mistral4`.

use super::file::{Family, File, LLAMA, malformed};
use crate::block::{Attention, Heads, Latent, Mixer, NormKind, Routing, Scaling, Spec, Temperature};
use crate::error::Result;

const DEEPSEEK: Family = Family { routing: (Routing::Softmax, false), routing_told: true, ..LLAMA };

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    // the first files of GLM 4.7 Flash do not say how they route
    let of_glm =
        matches!(file.n_layer()?, 47 | 48) && file.gguf.require("token_embd.weight")?.rows() == 154_880;
    let routing = if of_glm { (Routing::Sigmoid, false) } else { DEEPSEEK.routing };
    let family = Family { routing, ..DEEPSEEK };
    let mut spec = file.decoder_with(&family, |i, heads| {
        Ok(Mixer::Latent(latent(file, file.attention(i, heads, &family)?)?))
    })?;
    let log = file.float("rope.scaling.yarn_log_multiplier")?.unwrap_or(0.0) / 0.1;
    let factor = file.rope_factor()?;
    let grown = |log: f32| 1.0 + 0.1 * log * factor.ln();
    let mut sharper = grown(log);
    for rope in &mut spec.ropes {
        if let Scaling::Yarn { attn_factor, .. } = &mut rope.scaling {
            // what scores are multiplied with is in cosines and sines for a part: in DeepSeek's for none
            let magnitude = match (log == 0.0, file.arch) {
                (true, _) => grown(1.0),
                (false, "deepseek2") => 1.0,
                (false, _) => grown(1.0) / grown(log),
            };
            *attn_factor *= magnitude / grown(1.0);
            sharper *= magnitude;
        }
    }
    let temperature =
        match (file.float("attention.temperature_scale")?, file.count("attention.temperature_length")?) {
            (Some(scale), Some(every)) if scale != 0.0 && every > 0 => {
                Some(Temperature { scale, every, offset: 0 })
            }
            _ => None,
        };
    spec.each_attention(|_, a| {
        a.scale *= sharper * sharper;
        a.temperature = temperature;
    });
    Ok(spec)
}

/// The attention of a layer, of as many heads as `attention` has queries.
pub(super) fn latent(file: &File<'_>, attention: Attention) -> Result<Latent> {
    let rank = file.size("attention.kv_lora_rank")?;
    let rope_dim = file.size("rope.dimension_count")?;
    // old files tell the sizes of whole heads, others those of what the cache holds, and these besides
    let of_head = |name: &str| match file.has("blk.0.attn_kv_b.weight") {
        true => file.size(name),
        false => file.size(&format!("{name}_mla")),
    };
    let query_dim = of_head("attention.key_length")?;
    let Some(nope_dim) = query_dim.checked_sub(rope_dim).filter(|n| *n > 0) else {
        return Err(malformed(format!("{rope_dim} of a query's {query_dim} values are rotated")));
    };
    let heads =
        Heads { n_head: attention.heads.n_head, n_head_kv: 1, head_dim: rank + rope_dim, head_dim_v: rank };
    Ok(Latent {
        attention: Attention { heads, scale: 1.0 / (query_dim as f32).sqrt(), qk_norm: None, ..attention },
        // the small ones do not compress queries, whatever their files say
        q_rank: match file.has("blk.0.attn_q.weight") {
            true => None,
            false => Some(file.size("attention.q_lora_rank")?),
        },
        nope_dim,
        v_dim: of_head("attention.value_length")?,
        eps: file.eps(NormKind::Rms)?,
    })
}
