//! `glm4moe`: GLM 4.5 and later, mixtures routed by sigmoids.

use super::file::{Family, File, NEOX};
use crate::block::{Routing, Spec};
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    file.decoder(&Family {
        norms: [Some("attn_norm"), None, Some("post_attention_norm"), None],
        qk_norm: None,
        routing: (Routing::Sigmoid, false),
        routing_told: true,
        ..NEOX
    })
}
