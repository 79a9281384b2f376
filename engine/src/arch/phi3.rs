//! `phi3`: Phi 3 and 4. Matrices are fused, and long contexts have factors of their own.

use super::file::{File, NEOX};
use crate::block::Spec;
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    file.decoder(&NEOX)
}
