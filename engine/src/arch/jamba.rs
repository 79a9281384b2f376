//! `jamba`: state spaces in most layers, attention without positions in the others, mixtures in some.

use super::file::{Family, File, LLAMA};
use crate::block::{Mixer, Mlp, Routing, Spec};
use crate::error::Result;

const JAMBA: Family = Family { pairs: None, routing: (Routing::Softmax, false), ..LLAMA };

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = file.decoder_with(&JAMBA, |i, heads| {
        // layers without keys are state spaces
        Ok(match heads.n_head_kv {
            0 => Mixer::StateSpace(file.state_space(i)?),
            _ => Mixer::Attention(file.attention(i, heads, &JAMBA)?),
        })
    })?;
    // layers without a router are dense, and the file does not tell which
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        if let Mlp::Experts(experts) = &layer.mlp
            && !file.has(&format!("blk.{i}.ffn_gate_inp.weight"))
        {
            layer.mlp = Mlp::Dense(experts.expert);
        }
    }
    Ok(spec)
}
