//! `plm`: PLM. Attention over compressed keys and values, and squares between the matrices.

use super::deepseek2::latent;
use super::file::{Family, File, LLAMA};
use crate::block::{Activation, Mixer, Spec};
use crate::error::Result;

const PLM: Family = Family { activation: Activation::ReluSquared, gated: false, ..LLAMA };

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    file.decoder_with(&PLM, |i, heads| Ok(Mixer::Latent(latent(file, file.attention(i, heads, &PLM)?)?)))
}
