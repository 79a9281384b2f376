//! `plamo`: PLaMo 1. Attention and feed-forward network read the same.

use super::file::{Family, File, NEOX};
use crate::block::Spec;
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let norms = [Some("attn_norm"), None, Some("attn_norm"), None];
    file.decoder(&Family { norms, parallel: true, ..NEOX })
}
