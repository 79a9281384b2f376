//! `jais`: Jais. GPT-2 with slopes for positions, and a gate.

use super::file::{Family, File};
use super::starcoder2::GELU;
use crate::block::{Activation, Spec};
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec =
        file.decoder(&Family { pairs: None, activation: Activation::Silu, gated: true, ..GELU })?;
    let alibi = file.positive("attention.max_alibi_bias")?;
    spec.each_attention(|_, a| {
        a.alibi = alibi;
        a.scale = 1.0 / a.heads.head_dim as f32;
    });
    Ok(spec)
}
