//! `mpt`: MPT. Positions enter scores as slopes.

use super::file::{Family, File};
use super::starcoder2::GELU;
use crate::block::{Mlp, Spec};
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = file.decoder(&Family { pairs: None, qk_norm: None, ..GELU })?;
    file.refuse("blk.0.attn_q_norm.bias")?;
    for (i, layer) in spec.layers.iter_mut().enumerate() {
        if let Mlp::Dense(dense) = &mut layer.mlp {
            dense.divided = file.has(&format!("blk.{i}.ffn.act.scales"));
        }
    }
    spec.embedding.positions = file.has("position_embd.weight");
    let alibi = file.positive("attention.max_alibi_bias")?;
    let clamp = file.positive("attention.clamp_kqv")?;
    spec.each_attention(|_, a| (a.alibi, a.clamp) = (alibi, clamp));
    Ok(spec)
}
