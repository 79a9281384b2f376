//! `dots1`: dots.llm1; and `bailingmoe2`: Ling 2 and Ring 2. Qwen 3 with mixtures that files say how to route.

use super::file::{Family, File};
use super::qwen3::QWEN_3;
use crate::block::{Routing, Spec};
use crate::error::Result;

/// Normalized queries and keys, and mixtures that files say how to route.
pub(super) const TOLD: Family = Family { routing: (Routing::Sigmoid, false), routing_told: true, ..QWEN_3 };

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    file.decoder(&TOLD)
}
