//! `hunyuan-dense`, `hunyuan-moe` and `hunyuan_vl`: Hunyuan. Queries and keys are normalized after they were rotated.

use super::file::{File, check_base};
use super::qwen3::QWEN_3;
use crate::block::{NormPlace, Spec};
use crate::error::Result;

pub(super) fn spec(file: &File<'_>) -> Result<Spec> {
    let mut spec = file.decoder(&QWEN_3)?;
    // the base of longer contexts, as the model's authors compute it
    if let Some(alpha) = file.positive("rope.scaling.alpha")? {
        for rope in &mut spec.ropes {
            let n = rope.n_dims as f32;
            rope.base *= alpha.powf(n / (n - 2.0));
            check_base(rope)?;
        }
    }
    normalize_rotated(&mut spec);
    Ok(spec)
}

/// Has queries and keys normalized after they were rotated.
pub(super) fn normalize_rotated(spec: &mut Spec) {
    spec.each_attention(|_, a| {
        if let Some(norm) = &mut a.qk_norm {
            norm.place = NormPlace::RotatedHead;
        }
    });
}
