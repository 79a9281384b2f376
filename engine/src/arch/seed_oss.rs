//! `seed_oss`: Seed OSS.

use super::file::{Family, File, NEOX};
use crate::block::Spec;
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    file.decoder(&Family { norms: [Some("attn_norm"), None, Some("post_attention_norm"), None], ..NEOX })
}
