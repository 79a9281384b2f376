//! `granitehybrid`: Granite 4. State spaces in most layers, attention in the others.

use super::file::{File, LLAMA};
use super::granite;
use crate::block::{Mixer, Spec};
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = file.decoder_with(&LLAMA, |i, heads| {
        // layers without keys are state spaces
        Ok(match heads.n_head_kv {
            0 => Mixer::StateSpace(file.state_space(i)?),
            _ => Mixer::Attention(file.attention(i, heads, &LLAMA)?),
        })
    })?;
    granite::scale(file, &mut spec)?;
    Ok(spec)
}
