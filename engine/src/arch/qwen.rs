//! `qwen`: the first Qwen.

use super::file::{File, NEOX};
use crate::block::{Mlp, Spec};
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = file.decoder(&NEOX)?;
    // files count the gate and what it gates together
    for layer in &mut spec.layers {
        if let Mlp::Dense(dense) = &mut layer.mlp {
            dense.n_ff /= 2;
        }
    }
    Ok(spec)
}
