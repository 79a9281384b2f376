//! `mistral3`: Ministral 3. Llama, with sharper attention at positions beyond the original context.

use super::file::{File, LLAMA};
use crate::block::{Scaling, Spec, Temperature};
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = file.decoder(&LLAMA)?;
    let every = file.n_ctx_orig(spec.n_ctx)?;
    if let Some(scale) = file.float("attention.temperature_scale")?.filter(|scale| *scale != 0.0) {
        spec.each_attention(|_, a| a.temperature = Some(Temperature { scale, every, offset: 0 }));
    }
    if let Some(log) = file.float("rope.scaling.yarn_log_multiplier")?.filter(|log| *log != 0.0) {
        // what sharpens scores is in the temperature for a part
        let grown = (file.rope_factor()?.ln() * 0.1 * log).max(0.0) + 1.0;
        for rope in &mut spec.ropes {
            if let Scaling::Yarn { attn_factor, .. } = &mut rope.scaling {
                *attn_factor /= grown;
            }
        }
    }
    Ok(spec)
}
