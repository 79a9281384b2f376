//! `minimax-m2`: MiniMax M2. Mixtures routed by sigmoids; all queries of a token are normalized together, and all keys.

use super::file::{Family, File};
use super::qwen3::QWEN_3;
use crate::block::{Routing, Spec};
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    file.decoder(&Family { routing: (Routing::Sigmoid, true), ..QWEN_3 })
}
