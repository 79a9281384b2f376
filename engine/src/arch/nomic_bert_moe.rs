//! `nomic-bert-moe`: Nomic Embed 2. BERT with rotations, and mixtures in some layers.

use super::bert::{SUMS, encoder};
use super::file::{Family, File};
use crate::block::{Routing, Spec};
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    encoder(file, &Family { routing: (Routing::Softmax, false), ..SUMS })
}
