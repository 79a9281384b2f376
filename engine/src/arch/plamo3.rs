//! `plamo3`: PLaMo 3. Results are normalized too, and seven of eight layers see a window.

use super::file::{Family, File};
use super::olmo2::set_windows;
use super::qwen3::QWEN_3;
use crate::block::Spec;
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let norms = [Some("attn_norm"), Some("post_attention_norm"), Some("ffn_norm"), Some("post_ffw_norm")];
    let mut spec = file.decoder(&Family { norms, ..QWEN_3 })?;
    let windows = file.windows(spec.layers.len(), 8, None)?;
    set_windows(&mut spec, &windows, file.positive("rope.freq_base_swa")?)?;
    Ok(spec)
}
