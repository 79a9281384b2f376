//! `qwen3` and its mixtures: queries and keys are normalized.

use super::file::{Family, File, NEOX};
use crate::block::Spec;
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    file.decoder(&QWEN_3)
}

/// The layout of Qwen 3.
pub(super) const QWEN_3: Family = Family { qk_norm: Some(true), ..NEOX };
