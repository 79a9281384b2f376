//! `refact`: Refact. Llama with slopes for positions.

use super::file::{Family, File, LLAMA};
use crate::block::Spec;
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = file.decoder(&Family { pairs: None, ..LLAMA })?;
    spec.each_attention(|_, a| a.alibi = Some(8.0));
    Ok(spec)
}
