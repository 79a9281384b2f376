//! `deci`: DeciLM, and the Nemotron models that were made of Llama by leaving out parts of layers.

use super::file::{Family, File, LLAMA};
use crate::block::{Mixer, Mlp, Spec};
use crate::error::Result;

const DECI: Family = Family { feed_forward: false, ..LLAMA };

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = file.decoder_with(&DECI, |i, heads| match heads.n_head {
        0 => Ok(Mixer::Nothing),
        _ => Ok(Mixer::Attention(file.attention(i, heads, &DECI)?)),
    })?;
    for layer in &mut spec.layers {
        layer.norms.mixer = layer.norms.mixer.filter(|_| layer.mixer != Mixer::Nothing);
        layer.norms.mlp = layer.norms.mlp.filter(|_| layer.mlp != Mlp::Nothing);
    }
    Ok(spec)
}
