//! `maincoder`: Maincoder. Llama with queries and keys that are normalized after they were rotated.

use super::file::{Family, File, LLAMA};
use super::hunyuan::normalize_rotated;
use crate::block::Spec;
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = file.decoder(&Family { qk_norm: Some(true), ..LLAMA })?;
    normalize_rotated(&mut spec);
    Ok(spec)
}
