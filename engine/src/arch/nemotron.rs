//! `nemotron`: Nemotron 3 and Minitron. Layer normalization, and squares between the matrices.

use super::file::{Family, File, NEOX};
use crate::block::{Activation, NormKind, Spec};
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    file.decoder(&Family { norm: NormKind::Layer, activation: Activation::ReluSquared, gated: false, ..NEOX })
}
