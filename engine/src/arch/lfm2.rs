//! `lfm2` and `lfm2moe`: LFM2. Convolutions over a few tokens in most layers, attention in the others.

use super::file::{Family, File, malformed};
use super::qwen3::QWEN_3;
use crate::block::{Mixer, Norm, Routing, ShortConv, Spec, Window};
use crate::error::Result;

const LFM_2: Family = Family { routing: (Routing::Sigmoid, true), ..QWEN_3 };

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let (channels, width) = (file.size("embedding_length")?, file.size("shortconv.l_cache")?);
    if width > 64 {
        return Err(malformed(format!("convolutions over {width} tokens")));
    }
    let mut spec = file.decoder_with(&LFM_2, |i, heads| {
        // layers without keys are convolutions
        Ok(match heads.n_head_kv {
            0 => Mixer::ShortConv(ShortConv { channels, width }),
            _ => Mixer::Attention(file.attention(i, heads, &LFM_2)?),
        })
    })?;
    if file.has("token_embd_norm.weight") {
        spec.output.norm = spec.output.norm.map(|norm| Norm { tensor: Some("token_embd_norm"), ..norm });
    }
    let window = file.count("attention.sliding_window")?.filter(|n| *n > 0).map(Window::Sliding);
    spec.each_attention(|_, a| a.window = window);
    Ok(spec)
}
