//! `bailingmoe`: Ling 1. Llama with mixtures; files say whether their weights add up to one.

use super::file::{Family, File, LLAMA};
use crate::block::{Routing, Spec};
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let normalize = file.flag("expert_weights_norm")?.unwrap_or(false);
    file.decoder(&Family { routing: (Routing::Softmax, normalize), ..LLAMA })
}
