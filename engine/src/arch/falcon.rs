//! `falcon`: Falcon 1. Attention and feed-forward network read the same, the large one with a normalization of its own.

use super::file::{Family, File};
use super::starcoder2::GELU;
use crate::block::Spec;
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let own = file.has("blk.0.attn_norm_2.weight");
    let mixer = if own { "attn_norm_2" } else { "attn_norm" };
    file.decoder(&Family { norms: [Some(mixer), None, Some("attn_norm"), None], parallel: true, ..GELU })
}
