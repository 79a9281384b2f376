//! `mellum`: Mellum 2. Qwen 3 as mixtures, with windows in three of four layers.

use super::file::File;
use super::olmo2::set_windows;
use super::qwen3::QWEN_3;
use crate::block::Spec;
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = file.decoder(&QWEN_3)?;
    let windows = file.windows(spec.layers.len(), 4, None)?;
    set_windows(&mut spec, &windows, None)?;
    Ok(spec)
}
