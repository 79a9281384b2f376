//! `deepseek`: the first mixtures of DeepSeek.

use super::file::{Family, File, LLAMA};
use crate::block::{Routing, Spec};
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    file.decoder(&Family { routing: (Routing::Softmax, false), ..LLAMA })
}
