//! `gptneox`: GPT-NeoX, Pythia and what was made of them.

use super::file::{Family, File};
use super::starcoder2::GELU;
use crate::block::Spec;
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let parallel = file.flag("use_parallel_residual")?.unwrap_or(true);
    file.decoder(&Family { parallel, ..GELU })
}
