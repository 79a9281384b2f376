//! `baichuan`: Baichuan 1 and 2. The small one rotates, in the large one positions enter scores as slopes.

use super::file::{Family, File, LLAMA};
use crate::block::Spec;
use crate::error::Result;

/// Layers of the small one and of the large one; files do not tell otherwise which it is.
const SMALL: usize = 32;
const LARGE: usize = 40;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let n_layer = file.n_layer()?;
    let pairs = LLAMA.pairs.filter(|_| n_layer == SMALL);
    let mut spec = file.decoder(&Family { pairs, ..LLAMA })?;
    if n_layer == LARGE {
        spec.each_attention(|_, a| a.alibi = Some(8.0));
    }
    Ok(spec)
}
