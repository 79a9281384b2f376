//! `qwen35` and `qwen35moe`: Qwen 3.5, which differs from Qwen3-Next in which heads share keys.

use super::file::File;
use super::qwen3next::hybrid;
use crate::block::{DeltaNetKind, Spec};
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    hybrid(file, DeltaNetKind::Strided)
}
