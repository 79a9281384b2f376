//! `nomic-bert`: Nomic Embed 1 and 1.5. BERT with rotations and a gate.

use super::bert::{SUMS, encoder};
use super::file::{Family, File};
use crate::block::{Activation, Spec};
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    encoder(file, &Family { activation: Activation::Silu, gated: true, ..SUMS })
}
