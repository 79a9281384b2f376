//! `arcee`: AFM. Llama with squares between the matrices.

use super::file::{Family, File, LLAMA};
use crate::block::{Activation, Spec};
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    file.decoder(&Family { activation: Activation::ReluSquared, gated: false, ..LLAMA })
}
