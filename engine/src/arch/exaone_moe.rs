//! `exaone-moe`: K-EXAONE. Three of four layers see a window; the others do not rotate.

use super::dots1::TOLD;
use super::file::File;
use crate::block::Spec;
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = file.decoder(&TOLD)?;
    let windows = file.windows(spec.layers.len(), 4, Some(128))?;
    spec.each_attention(|i, a| {
        a.window = windows[i];
        a.rope = a.rope.filter(|_| a.window.is_some());
    });
    Ok(spec)
}
