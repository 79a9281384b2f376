//! `qwen2moe`: mixtures whose weights stay as the softmax gives them.

use super::file::{Family, File, NEOX};
use crate::block::{Routing, Spec};
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    file.decoder(&Family { routing: (Routing::Softmax, false), ..NEOX })
}
