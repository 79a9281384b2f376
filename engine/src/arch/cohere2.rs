//! `cohere2`: Command R7B and A, Aya. Three of four layers see a window; the others do not rotate.

use super::command_r;
use super::file::File;
use crate::block::Spec;
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = command_r::spec(file)?;
    let windows = file.windows(spec.layers.len(), 4, None)?;
    spec.each_attention(|i, a| {
        a.window = windows[i];
        a.rope = a.rope.filter(|_| a.window.is_some());
    });
    Ok(spec)
}
