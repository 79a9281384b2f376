//! `olmoe`: OLMoE. Queries and keys are normalized, and weights of experts stay as the softmax gives them.

use super::file::{Family, File};
use super::qwen3::QWEN_3;
use crate::block::{Routing, Spec};
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    file.decoder(&Family { routing: (Routing::Softmax, false), ..QWEN_3 })
}
