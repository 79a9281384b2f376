//! `stablelm`: StableLM 2 and 3B, StableCode. Some of them read the same in attention and feed-forward network.

use super::file::{Family, File, NEOX};
use crate::block::{NormKind, Spec};
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let family = Family { norm: NormKind::Layer, qk_norm: None, ..NEOX };
    if file.has("blk.0.ffn_norm.weight") {
        file.decoder(&family)
    } else {
        let norms = [Some("attn_norm"), None, Some("attn_norm"), None];
        file.decoder(&Family { norms, parallel: true, ..family })
    }
}
