//! `glm4`: GLM 4. Results are normalized too.

use super::file::{Family, File, LLAMA};
use crate::block::{Pairs, Spec};
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let pairs = if file.has_sections()? { Pairs::Halves } else { Pairs::Neighbours };
    file.decoder(&Family {
        pairs: Some(pairs),
        norms: [Some("attn_norm"), Some("post_attention_norm"), Some("ffn_norm"), Some("post_ffw_norm")],
        ..LLAMA
    })
}
