//! `gpt2` and `starcoder`: GPT-2, StarCoder and SantaCoder. Positions are learned.

use super::file::{Family, File};
use super::starcoder2::GELU;
use crate::block::Spec;
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = file.decoder(&Family { pairs: None, ..GELU })?;
    spec.embedding.positions = true;
    Ok(spec)
}
