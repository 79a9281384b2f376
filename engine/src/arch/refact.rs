//! `refact`: Refact. Llama with slopes for positions.

use super::file::{Family, File, LLAMA};
use crate::block::Spec;
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = file.decoder(&Family { pairs: None, ..LLAMA })?;
    // llama.cpp reads mixtures of this family, but computes nothing of their experts
    file.refuse("blk.0.ffn_gate_inp.weight")?;
    spec.each_attention(|_, a| a.alibi = Some(8.0));
    Ok(spec)
}
