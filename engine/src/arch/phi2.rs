//! `phi2`: Phi 1 and 2. Attention and feed-forward network read the same.

use super::file::{Family, File};
use super::starcoder2::GELU;
use crate::block::Spec;
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    file.decoder(&Family {
        norms: [Some("attn_norm"), None, Some("attn_norm"), None],
        parallel: true,
        ..GELU
    })
}
