//! `nemotron_h` and `nemotron_h_moe`: Nemotron-H and Nemotron 3. A layer is a state space, attention without positions, or
//! a feed-forward network.

use super::file::{Family, File, LLAMA, malformed};
use crate::block::{Activation, Mixer, Mlp, Routing, Spec};
use crate::error::Result;

const NEMOTRON_H: Family = Family {
    pairs: None,
    norms: [Some("attn_norm"), None, Some("attn_norm"), None],
    activation: Activation::ReluSquared,
    gated: false,
    routing: (Routing::Sigmoid, false),
    routing_told: true,
    feed_forward: false,
    ..LLAMA
};

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let n_ff = file.counts("feed_forward_length", file.n_layer()?)?;
    let mut spec = file.decoder_with(&NEMOTRON_H, |i, heads| {
        Ok(match (n_ff[i], heads.n_head_kv) {
            (0, 0) => Mixer::StateSpace(file.state_space(i)?),
            (0, _) => Mixer::Attention(file.attention(i, heads, &NEMOTRON_H)?),
            _ => Mixer::Nothing,
        })
    })?;
    let n_embd = spec.n_embd;
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        if let (Mlp::Experts(experts), Some(down)) =
            (&mut layer.mlp, file.gguf.tensor(&format!("blk.{i}.ffn_latent_down.weight")))
        {
            if !(1..=n_embd).contains(&down.rows()) {
                return Err(malformed(format!("experts that read {} of {n_embd} values", down.rows())));
            }
            experts.latent = Some(down.rows());
        }
    }
    Ok(spec)
}
