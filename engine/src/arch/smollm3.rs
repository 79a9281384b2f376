//! `smollm3`: SmolLM3. Every fourth layer does not rotate.

use super::file::{File, LLAMA};
use crate::block::Spec;
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = file.decoder(&LLAMA)?;
    spec.each_attention(|i, a| a.rope = a.rope.filter(|_| (i + 1) % 4 != 0));
    Ok(spec)
}
