//! `llama`: Llama 1 to 3, Mistral and Mixtral, SmolLM2 and what else was given their shape.

use super::file::{File, LLAMA};
use crate::block::Spec;
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    file.decoder(&LLAMA)
}
