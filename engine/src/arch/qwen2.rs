//! `qwen2`: Qwen 1.5 and 2, with biases of queries, keys and values; and others with this rotation.

use super::file::{File, NEOX};
use crate::block::Spec;
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    file.decoder(&NEOX)
}
