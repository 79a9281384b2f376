//! `starcoder2`: StarCoder 2. Layer normalization, and a feed-forward network without a gate.

use super::file::{Family, File, NEOX};
use crate::block::{Activation, NormKind, Spec};
use crate::error::Result;

/// Families in the manner of GPT that rotate.
pub(super) const GELU: Family =
    Family { norm: NormKind::Layer, activation: Activation::Gelu, gated: false, ..NEOX };

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    file.decoder(&GELU)
}
