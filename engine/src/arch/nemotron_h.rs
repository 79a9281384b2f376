//! `nemotron_h` and `nemotron_h_moe`: Nemotron-H and Nemotron 3. A layer is a state space, attention without positions, or
//! a feed-forward network.

use super::file::{Family, File, LLAMA};
use crate::block::{Activation, Mixer, Routing, Spec};
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
    file.decoder_with(&NEMOTRON_H, |i, heads| {
        file.refuse(&format!("blk.{i}.ffn_latent_down.weight"))?;
        Ok(match (n_ff[i], heads.n_head_kv) {
            (0, 0) => Mixer::StateSpace(file.state_space(i)?),
            (0, _) => Mixer::Attention(file.attention(i, heads, &NEMOTRON_H)?),
            _ => Mixer::Nothing,
        })
    })
}
