//! `gemma3`: Gemma 3. Five of six layers see a window and have a rotation of their own.

use super::file::{Family, File, check_base};
use super::gemma2::{GEMMA_2, query_scale};
use crate::block::{Rope, Scaling, Spec};
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = file.decoder(&Family { qk_norm: Some(true), ..GEMMA_2 })?;
    spec.embedding.scale = (spec.n_embd as f32).sqrt();
    spec.output.softcap = file.positive("final_logit_softcapping")?;
    let windows = file.windows(spec.layers.len(), 6, None)?;
    let local = Rope {
        base: file.positive("rope.freq_base_swa")?.unwrap_or(10_000.0),
        scaling: Scaling::NONE,
        ..spec.ropes[0].clone()
    };
    check_base(&local)?;
    spec.ropes.push(local);
    let scale = query_scale(&spec, 62);
    spec.each_attention(|i, a| {
        a.window = windows[i];
        a.rope = Some(usize::from(a.window.is_some()));
        a.scale = scale.unwrap_or(a.scale);
    });
    Ok(spec)
}
