//! `exaone4`: EXAONE 4. Results are normalized; the large one has windows, and rotates nothing in layers without.

use super::file::File;
use super::olmo2::RESULTS;
use crate::block::Spec;
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = file.decoder(&RESULTS)?;
    // the small one has a window in its file and none in its layers
    if spec.layers.len() == 64 {
        let windows = file.windows(spec.layers.len(), 4, Some(4096))?;
        spec.each_attention(|i, a| {
            a.window = windows[i];
            a.rope = a.rope.filter(|_| a.window.is_some());
        });
    }
    Ok(spec)
}
